"""Faster CPU inference: packed weights for torch (oneDNN), graph rewrites and Winograd convolutions for OpenVINO.

`EngineConfig.cpu_kernels` enables or disables all of them. The kernels change the outputs only by rounding errors.
"""
