"""What training on a CPU does for torch's kernels: where it is done, and that dense gradients are the same ones."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from cspdet.training.cpu_fast_paths.pointwise import PointwiseAsMatmul
from cspdet.training.cpu_fast_paths.switch import MAX_CHANNELS, ContiguousGradients, cpu_fast_paths

ACTIVATIONS = {"leaky": nn.LeakyReLU(0.1, inplace=True), "relu": nn.ReLU(), "swish": nn.SiLU(), "mish": nn.Mish()}


@pytest.mark.parametrize(
    ("device", "precision", "variant"),
    [
        ("cpu", "fp32", PointwiseAsMatmul),
        ("cpu", "bf16", ContiguousGradients),
        ("cuda", "fp32", nullcontext),
        ("cuda", "bf16", nullcontext),
    ],
)
def test_each_precision_of_a_cpu_has_its_way(device, precision, variant):
    assert type(cpu_fast_paths(torch.device(device), precision)) is variant


class Halves(nn.Module):
    """Two activated halves side by side, as a cross stage merge takes them: their gradients are slices."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1)
        self.activation = activation

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.activation(self.left(image)), self.activation(self.right(image))], 1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_get_dense_gradients_of_the_same_values(name, monkeypatch):
    layouts: list[bool] = []
    dense = torch.Tensor.contiguous

    def spy(gradient, *, memory_format):
        layouts.append(gradient.is_contiguous(memory_format=memory_format))
        return dense(gradient, memory_format=memory_format)

    torch.manual_seed(0)
    network = Halves(ACTIVATIONS[name]).to(torch.bfloat16).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 6, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    output_gradient = torch.randn(2, 12, 6, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    network(image).backward(output_gradient)
    plain = [p.grad.clone() for p in network.parameters()]
    context = ContiguousGradients()
    for _ in range(2):
        network.zero_grad()
        with context:
            output = network(image)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "contiguous", spy)
            output.backward(output_gradient)
        for parameter, expected in zip(network.parameters(), plain, strict=True):
            assert torch.equal(parameter.grad, expected)
    assert layouts == [False] * 4  # what came were slices; two halves, twice


def test_nothing_is_asked_where_there_is_no_gradient():
    flat = torch.ones(2, 3, requires_grad=True)
    with ContiguousGradients():
        nn.functional.relu(flat).sum().backward()  # a classifier's vector has no channels to lie last
        with torch.no_grad():
            assert not nn.functional.relu(torch.ones(1, 3, 2, 2)).requires_grad
    assert torch.equal(flat.grad, torch.ones(2, 3))


def test_wide_slices_are_fast_enough_as_they_are():
    seen: list[bool] = []
    wide = torch.zeros(1, MAX_CHANNELS, 2, 2, requires_grad=True)
    with ContiguousGradients():
        output = nn.functional.relu(wide + 1)
    output.register_hook(lambda gradient: seen.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    output.backward(
        torch.ones(1, 2 * MAX_CHANNELS, 2, 2).contiguous(memory_format=torch.channels_last)[:, MAX_CHANNELS:]
    )
    assert seen == [False]
