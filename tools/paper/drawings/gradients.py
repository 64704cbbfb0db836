"""What the gradient of each weight is made of, asked of autograd: equations 2 and 4 of the paper as a drawing.

A dense block with its transition, and a `CSPStage` round such a block (figure 3a and 3b), of PeleeNet's own layers.
Given the gradient that arrives at the end of the stage, the gradient of a weight is that gradient times the maps that
the weight reads. So we differentiate it a second time, by each map: where this is zero, the map has no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cspdet.models.backbones.peleenet import TwoWayDense, dense_block
from cspdet.models.blocks import ActivationName, ConvBN
from cspdet.models.csp import CSPStage, Fusion, Split, has_t1, has_t2, partition
from paper.drawings.svg import FAINT, INK, Box, Canvas

CHANNELS, GAMMA, DEPTH, BOTTLENECK = 64, 0.5, 3, 16
SIZE_HW = (6, 6)
READ, THROUGH, NONE = "read", "through others", ""
COLORS = {READ: "#ffb77c", THROUGH: "#fff1e5", NONE: "#ffffff"}
CARRIED_COLOR = "#0969da"
CELL_WIDTH, CELL_HEIGHT, MARGIN, TOP = 62, 36, 14, 92


@dataclass
class Stage:
    """A stage with the names of its parts; `maps` and `read` fill up when it runs."""

    title: str
    module: nn.Module
    parts: dict[str, nn.Module]  # weights' name -> module
    gives: dict[str, str]  # weights' name -> name of the map that it computes
    maps: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    read: dict[str, Tensor] = field(default_factory=dict)


def plain_stage() -> Stage:
    """x0 -> dense block -> transition."""
    block, channels = dense_block(CHANNELS, DEPTH, BOTTLENECK, "leaky")
    transition = ConvBN(channels, channels)
    return _stage("dense stage (equation 2)", nn.Sequential(block, transition), block, {"wT": transition}, {})


def csp_stage(fusion: Fusion = "both", act: ActivationName = "leaky") -> Stage:
    """The same layers behind a split, with the transitions of a fusion strategy: wT is T1's weight, wU T2's."""
    carried, worked = partition(CHANNELS, GAMMA)
    block, channels = dense_block(worked, DEPTH, BOTTLENECK, act)
    first = ConvBN(channels, channels, act=act) if has_t1(fusion) else nn.Identity()
    second = ConvBN(channels + carried, channels + carried, act=act) if has_t2(fusion) else nn.Identity()
    transitions = {name: part for name, part in (("wT", first), ("wU", second)) if isinstance(part, ConvBN)}
    module = CSPStage(Split(carried, worked), block, first, second)
    return _stage("CSP stage (equation 4)", module, block, transitions, {"wT": "xT"} if fusion == "both" else {})


def _stage(
    title: str, module: nn.Module, block: nn.Module, transitions: Mapping[str, nn.Module], gives: dict[str, str]
) -> Stage:
    layers = {f"w{i}": layer for i, layer in enumerate(block.children(), start=1)}
    return Stage(title, module, {**layers, **transitions}, {**{name: f"x{name[1:]}" for name in layers}, **gives})


def dependence(stage: Stage, *, training: bool = False) -> dict[str, dict[str, str]]:
    """For each weight and map: READ, THROUGH or NONE.

    `training` normalizes by the batch's own moments instead of the running ones, which stand for fixed numbers.
    """
    torch.manual_seed(0)
    stage.module.double().train(training)
    carried, worked = partition(CHANNELS, GAMMA)
    x0 = [torch.randn(2, c, *SIZE_HW, dtype=torch.float64, requires_grad=True) for c in (carried, worked)]
    stage.maps = {"x0′": (x0[0],), "x0″": (x0[1],)}
    handles = _watch(stage)
    out = stage.module(torch.cat(x0, dim=1))
    for handle in handles:
        handle.remove()
    arriving = torch.randn_like(out)
    result: dict[str, dict[str, str]] = {}
    for name, part in stage.parts.items():
        weights = [m.weight for m in part.modules() if isinstance(m, nn.Conv2d)]
        gradients = torch.autograd.grad(out, weights, arriving, create_graph=True)
        probe = torch.stack([(gradient * torch.randn_like(gradient)).sum() for gradient in gradients]).sum()
        result[name] = {source: _relation(probe, tensors, stage.read[name]) for source, tensors in stage.maps.items()}
    return result


def _watch(stage: Stage) -> list[torch.utils.hooks.RemovableHandle]:
    """Let the stage remember what each part reads, and the maps that it gives."""
    handles = []
    for name, part in stage.parts.items():
        handles.append(part.register_forward_pre_hook(_reader(stage, name)))
        if name in stage.gives:
            ways = (part.near, part.far) if isinstance(part, TwoWayDense) else (part,)
            handles += [way.register_forward_hook(_keeper(stage, stage.gives[name])) for way in ways]
    return handles


def _reader(stage: Stage, name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def remember(module: nn.Module, args: tuple[Tensor]) -> None:
        stage.read[name] = args[0].detach()

    return remember


def _keeper(stage: Stage, name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def remember(module: nn.Module, args: tuple[Tensor], given: Tensor) -> None:
        stage.maps[name] = (*stage.maps.get(name, ()), given)

    return remember


def _relation(probe: Tensor, tensors: tuple[Tensor, ...], read: Tensor) -> str:
    slopes = torch.autograd.grad(probe, tensors, retain_graph=True, allow_unused=True)
    if not any(slope is not None and bool(slope.abs().max() > 0) for slope in slopes):
        return NONE
    return READ if all(_holds(read, tensor.detach()) for tensor in tensors) else THROUGH


def _holds(read: Tensor, part: Tensor) -> bool:
    """Whether some channels of `read`, one after the other, are those of `part`."""
    channels = part.shape[1]
    return any(torch.equal(read[:, i : i + channels], part) for i in range(read.shape[1] - channels + 1))


def draw_gradients() -> str:
    """The SVG of both tables, side by side."""
    tables = [(stage, dependence(stage)) for stage in (plain_stage(), csp_stage())]
    widths = [44 + CELL_WIDTH * len(stage.maps) for stage, _ in tables]
    rows = max(len(table) for _, table in tables)
    width = 3 * MARGIN + 16 + sum(widths)
    height = TOP + rows * CELL_HEIGHT + 84
    canvas = Canvas(width, height, "Which maps the gradient of each weight is made of")
    canvas.text(MARGIN, 22, "Which maps (columns) the gradient of each weight (rows) is made of", bold=True, color=INK)
    left = MARGIN
    for (stage, table), wide in zip(tables, widths, strict=True):
        _draw_table(canvas, stage, table, left)
        left += wide + MARGIN + 16
    bottom = height - 50
    for i, (kind, text) in enumerate(((READ, "the weight reads this map: the map is a factor of its gradient"),
                                      (THROUGH, "only through other maps that it reads"))):  # fmt: skip
        canvas.box(Box(MARGIN, bottom + 20 * i, 22, 14), (), COLORS[kind])
        canvas.text(MARGIN + 30, bottom + 11 + 20 * i, text)
    canvas.text(MARGIN + 440, bottom + 11, "empty: no part in it", color=FAINT)
    return str(canvas)


def _draw_table(canvas: Canvas, stage: Stage, table: dict[str, dict[str, str]], left: float) -> None:
    canvas.text(left, 52, stage.title, bold=True, color=INK)
    cells = left + 44
    for column, (name, tensors) in enumerate(stage.maps.items()):
        x = cells + CELL_WIDTH * (column + 0.5)
        color = CARRIED_COLOR if name == "x0′" else INK
        channels = sum(tensor.shape[1] for tensor in tensors)
        canvas.text(x, 72, name, size=13, anchor="middle", bold=True, color=color)
        canvas.text(x, 86, f"{channels} ch", size=10, anchor="middle")
    for row, (weight, relations) in enumerate(table.items()):
        y = TOP + row * CELL_HEIGHT
        canvas.text(left + 6, y + CELL_HEIGHT / 2 + 4, weight, size=13, bold=True, color=INK)
        for column, kind in enumerate(relations.values()):
            canvas.box(Box(cells + CELL_WIDTH * column, y, CELL_WIDTH - 4, CELL_HEIGHT - 4), (), COLORS[kind])
    has_part = sum(relations["x0′"] != NONE for relations in table.values())
    y = TOP + len(table) * CELL_HEIGHT + 14
    canvas.text(left, y, f"x0′ has a part in {has_part} of {len(table)} gradients", color=CARRIED_COLOR)
