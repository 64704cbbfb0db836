"""Synchronized batch normalization over all processes, on CPU and CUDA."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization with statistics over all processes, for CPUs; torch.nn.SyncBatchNorm supports only CUDA.

    Parameters and buffers have the same names as in nn.BatchNorm2d. In evaluation mode, the output is that of
    nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel: (B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        out, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return out


def convert_sync_batchnorm(model: nn.Module) -> None:
    """Replace every nn.BatchNorm2d of a model, in place, with a synchronized one that has the same parameters."""
    for name, part in model.named_children():
        if type(part) is nn.BatchNorm2d:
            norm = nn.SyncBatchNorm.convert_sync_batchnorm(part) if part.weight.is_cuda else _to_sync_batchnorm(part)
            setattr(model, name, norm)
        else:
            convert_sync_batchnorm(part)


def _to_sync_batchnorm(norm: nn.BatchNorm2d) -> SyncBatchNorm:
    sync_norm = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum).train(norm.training)
    sync_norm.weight, sync_norm.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(sync_norm, name, buffer)
    return sync_norm


class _Normalize(torch.autograd.Function):
    """Autograd function that normalizes (B, C, H, W) with the statistics of all processes.

    The function returns the output, the mean (C,), the biased variance (C,), and the number of values per channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = _upcast(x)
        local_count = wide.new_tensor(float(x.numel() // x.shape[1]))
        mean = wide.mean(dim=(0, 2, 3))
        spread = (wide - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        # Combine means and sums of squared deviations of the processes (Chan et al. 1979): E[x^2] - E[x]^2 would lose
        # precision by cancellation.
        parts = [wide.new_empty(2 * x.shape[1] + 1) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, torch.cat((mean, spread, local_count[None])))
        table = torch.stack(parts)
        means, spreads, counts = table.split((x.shape[1], x.shape[1], 1), dim=1)
        count = counts.sum()
        mean = (means * counts).sum(dim=0) / count
        variance = (spreads + counts * (means - mean).square()).sum(dim=0) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        factor = weight * scale
        out = (wide - mean[:, None, None]) * factor[:, None, None] + bias[:, None, None]
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = _upcast(grads[0])
        normal = (_upcast(x) - mean[:, None, None]) * scale[:, None, None]
        grad_bias, grad_weight = grad.sum(dim=(0, 2, 3)), (grad * normal).sum(dim=(0, 2, 3))
        both = torch.cat((grad_bias, grad_weight))
        dist.all_reduce(both)  # the gradient flows through the mean and variance, to which all processes contribute
        all_bias, all_weight = (part[:, None, None] for part in (both / count).chunk(2))
        grad_x = (weight * scale)[:, None, None] * (grad - all_bias - normal * all_weight)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _upcast(x: Tensor) -> Tensor:
    """Convert half precision to fp32, which the sums over a batch require."""
    return x if x.dtype == torch.float64 else x.float()
