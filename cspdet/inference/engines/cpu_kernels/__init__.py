"""Faster CPU inference: packed weights for torch (oneDNN), graph rewrites and Winograd convolutions for OpenVINO.

`EngineConfig.cpu_kernels` switches all of them off. Each rewrite computes the same function up to rounding.
"""
