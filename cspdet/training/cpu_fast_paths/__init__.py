"""Faster CPU kernels for the training step, all switched by `train.cpu_fast_paths`.

Three optimizations; results are equal up to rounding:

- `pointwise`: in fp32, 1x1 convolutions of small maps become matrix products, or run over rebatched pixels. A
  TorchFunctionMode replaces `F.conv2d` in the forward pass; the modules of the network do not change. Which of the two
  is faster depends on the processor: `mkl_matmul_is_slow` reads its name.
- `switch.ContiguousGradients`: in bf16, gradients of activations with few channels are made contiguous. A
  TorchFunctionMode registers a hook on the outputs of activations.
- `switch.disable_malloc_trim`: glibc keeps freed memory for the next step (`mallopt`, by ctypes).

`switch.use_cpu_fast_paths` reads the config; `switch.cpu_fast_paths` returns the context for a forward pass.
"""
