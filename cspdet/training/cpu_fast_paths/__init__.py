"""Faster CPU kernels for the training step, enabled by `train.cpu_fast_paths`.

The package has three optimizations. Their results are equal to torch's results up to rounding:

- `pointwise`: in fp32, 1x1 convolutions of small feature maps run as matrix products or on rebatched pixels. A
  TorchFunctionMode replaces `F.conv2d` in the forward pass; the modules of the network do not change. Which of the two
  is faster depends on the processor; see `mkl_matmul_is_slow`.
- `switch.ContiguousGradients`: in bf16, gradients of activations with few channels are made contiguous. A
  TorchFunctionMode registers a hook on the outputs of activations.
- `switch.disable_malloc_trim`: glibc keeps freed memory for the next step (`mallopt`, called with ctypes).

`switch.use_cpu_fast_paths` reads the config; `switch.cpu_fast_paths` returns the context for a forward pass.
"""
