"""Drawing of equations 2 and 4 of the paper: the feature maps that the gradient of each weight depends on.

The stages are a dense block with its transition (figure 3a), and a `CSPStage` with such a block (figure 3b), of the
layers of PeleeNet. The dependence is computed with autograd: the gradient of a weight is differentiated with respect to
each feature map. If the second derivative is zero, the gradient does not depend on the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cspdet.models.backbones.peleenet import TwoWayDense, dense_block
from cspdet.models.base_config import ActivationName, Fusion
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import CSPStage, Split, has_final_transition, has_partial_transition, partition
from paper.drawings.svg import MUTED_COLOR, TEXT_COLOR, SvgCanvas, SvgRect

CHANNELS, GAMMA, DEPTH, BOTTLENECK = 64, 0.5, 3, 16
SIZE_HW = (6, 6)
DIRECT, INDIRECT, NONE = "read", "through others", ""
COLORS = {DIRECT: "#ffb77c", INDIRECT: "#fff1e5", NONE: "#ffffff"}
SHORTCUT_COLOR = "#0969da"
CELL_WIDTH, CELL_HEIGHT, MARGIN, TOP = 62, 36, 14, 92


@dataclass
class TracedStage:
    """A stage with the names of its weights and maps; a forward pass fills `maps` and `inputs`."""

    title: str
    module: nn.Module
    parts: dict[str, nn.Module]  # name of the weight -> module
    output_names: dict[str, str]  # name of the weight -> name of the map that it computes
    maps: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


def dense_stage() -> TracedStage:
    """Build the dense stage: x0 -> dense block -> transition."""
    block, channels = dense_block(CHANNELS, DEPTH, BOTTLENECK, "leaky")
    transition = ConvBN(channels, channels)
    return _make_stage("dense stage (equation 2)", nn.Sequential(block, transition), block, {"wT": transition}, {})


def csp_stage(fusion: Fusion = "both", act: ActivationName = "leaky") -> TracedStage:
    """Build the CSP stage: a split, the dense block, and the transitions of a fusion strategy.

    The weight of the partial transition T1 is named wT, that of the final transition T2 wU, as in equation 4.
    """
    shortcut_channels, main_channels = partition(CHANNELS, GAMMA)
    block, channels = dense_block(main_channels, DEPTH, BOTTLENECK, act)
    first = ConvBN(channels, channels, act=act) if has_partial_transition(fusion) else nn.Identity()
    second = (
        ConvBN(channels + shortcut_channels, channels + shortcut_channels, act=act)
        if has_final_transition(fusion)
        else nn.Identity()
    )
    transitions = {name: part for name, part in (("wT", first), ("wU", second)) if isinstance(part, ConvBN)}
    module = CSPStage(Split(shortcut_channels, main_channels), block, first, second)
    return _make_stage("CSP stage (equation 4)", module, block, transitions, {"wT": "xT"} if fusion == "both" else {})


def _make_stage(
    title: str, module: nn.Module, block: nn.Module, transitions: Mapping[str, nn.Module], output_names: dict[str, str]
) -> TracedStage:
    layers = {f"w{i}": layer for i, layer in enumerate(block.children(), start=1)}
    return TracedStage(
        title, module, {**layers, **transitions}, {**{name: f"x{name[1:]}" for name in layers}, **output_names}
    )


def gradient_dependence(stage: TracedStage, *, training: bool = False) -> dict[str, dict[str, str]]:
    """Return how the gradient of each weight depends on each map.

    Args:
        stage: The stage; its parameters are converted to fp64.
        training: Whether batch norm uses the statistics of the batch; False: the running statistics, which are
            constants.

    Returns:
        DIRECT, INDIRECT or NONE by the name of the weight and the name of the map.
    """
    torch.manual_seed(0)
    stage.module.double().train(training)
    shortcut_channels, main_channels = partition(CHANNELS, GAMMA)
    x0 = [
        torch.randn(2, c, *SIZE_HW, dtype=torch.float64, requires_grad=True) for c in (shortcut_channels, main_channels)
    ]
    stage.maps = {"x0′": (x0[0],), "x0″": (x0[1],)}
    handles = _register_hooks(stage)
    out = stage.module(torch.cat(x0, dim=1))
    for handle in handles:
        handle.remove()
    arriving = torch.randn_like(out)
    result: dict[str, dict[str, str]] = {}
    for name, part in stage.parts.items():
        weights = [m.weight for m in part.modules() if isinstance(m, nn.Conv2d)]
        gradients = torch.autograd.grad(out, weights, arriving, create_graph=True)
        probe = torch.stack([(gradient * torch.randn_like(gradient)).sum() for gradient in gradients]).sum()
        result[name] = {
            source: _classify_dependence(probe, tensors, stage.inputs[name]) for source, tensors in stage.maps.items()
        }
    return result


def _register_hooks(stage: TracedStage) -> list[torch.utils.hooks.RemovableHandle]:
    """Register forward hooks that store the inputs and output maps of each part in the stage."""
    handles = []
    for name, part in stage.parts.items():
        handles.append(part.register_forward_pre_hook(_input_hook(stage, name)))
        if name in stage.output_names:
            branches = (part.branch_3x3, part.branch_5x5) if isinstance(part, TwoWayDense) else (part,)
            handles += [
                branch.register_forward_hook(_output_hook(stage, stage.output_names[name])) for branch in branches
            ]
    return handles


def _input_hook(stage: TracedStage, name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def remember(module: nn.Module, args: tuple[Tensor]) -> None:
        stage.inputs[name] = args[0].detach()

    return remember


def _output_hook(stage: TracedStage, name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def remember(module: nn.Module, args: tuple[Tensor], given: Tensor) -> None:
        stage.maps[name] = (*stage.maps.get(name, ()), given)

    return remember


def _classify_dependence(probe: Tensor, tensors: tuple[Tensor, ...], inputs: Tensor) -> str:
    slopes = torch.autograd.grad(probe, tensors, retain_graph=True, allow_unused=True)
    if not any(slope is not None and bool(slope.abs().max() > 0) for slope in slopes):
        return NONE
    return DIRECT if all(_contains_channels(inputs, tensor.detach()) for tensor in tensors) else INDIRECT


def _contains_channels(inputs: Tensor, features: Tensor) -> bool:
    """Whether consecutive channels of `inputs` equal `features`."""
    channels = features.shape[1]
    return any(torch.equal(inputs[:, i : i + channels], features) for i in range(inputs.shape[1] - channels + 1))


def draw_gradients() -> str:
    """Return the SVG with the tables of both stages side by side."""
    tables = [(stage, gradient_dependence(stage)) for stage in (dense_stage(), csp_stage())]
    widths = [44 + CELL_WIDTH * len(stage.maps) for stage, _ in tables]
    rows = max(len(table) for _, table in tables)
    width = 3 * MARGIN + 16 + sum(widths)
    height = TOP + rows * CELL_HEIGHT + 84
    canvas = SvgCanvas(width, height, "Maps on which the gradient of each weight depends")
    canvas.text(
        MARGIN, 22, "Maps (columns) on which the gradient of each weight (rows) depends", bold=True, color=TEXT_COLOR
    )
    left = MARGIN
    for (stage, table), wide in zip(tables, widths, strict=True):
        _draw_table(canvas, stage, table, left)
        left += wide + MARGIN + 16
    bottom = height - 50
    for i, (dependence, text) in enumerate(((DIRECT, "direct: the map is an input, and a factor of the gradient"),
                                      (INDIRECT, "indirect: through other input maps only"))):  # fmt: skip
        canvas.box(SvgRect(MARGIN, bottom + 20 * i, 22, 14), (), COLORS[dependence])
        canvas.text(MARGIN + 30, bottom + 11 + 20 * i, text)
    canvas.text(MARGIN + 440, bottom + 11, "empty: no dependence", color=MUTED_COLOR)
    return str(canvas)


def _draw_table(canvas: SvgCanvas, stage: TracedStage, table: dict[str, dict[str, str]], left: float) -> None:
    canvas.text(left, 52, stage.title, bold=True, color=TEXT_COLOR)
    cells = left + 44
    for column, (name, tensors) in enumerate(stage.maps.items()):
        x = cells + CELL_WIDTH * (column + 0.5)
        color = SHORTCUT_COLOR if name == "x0′" else TEXT_COLOR
        channels = sum(tensor.shape[1] for tensor in tensors)
        canvas.text(x, 72, name, size=13, anchor="middle", bold=True, color=color)
        canvas.text(x, 86, f"{channels} ch", size=10, anchor="middle")
    for row, (weight, relations) in enumerate(table.items()):
        y = TOP + row * CELL_HEIGHT
        canvas.text(left + 6, y + CELL_HEIGHT / 2 + 4, weight, size=13, bold=True, color=TEXT_COLOR)
        for column, dependence in enumerate(relations.values()):
            canvas.box(SvgRect(cells + CELL_WIDTH * column, y, CELL_WIDTH - 4, CELL_HEIGHT - 4), (), COLORS[dependence])
    has_part = sum(relations["x0′"] != NONE for relations in table.values())
    y = TOP + len(table) * CELL_HEIGHT + 14
    canvas.text(left, y, f"{has_part} of {len(table)} gradients depend on x0′", color=SHORTCUT_COLOR)
