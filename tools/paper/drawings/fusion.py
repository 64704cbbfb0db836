"""The fusion strategies of figure 3 side by side: the last stage of PeleeNet and of CSPPeleeNet, as they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from cspdet.models.backbones.csppeleenet import CSPPeleeNet, CSPPeleeNetConfig
from cspdet.models.backbones.peleenet import PeleeNet, PeleeNetConfig
from cspdet.models.blocks import ConvBN
from cspdet.models.classifier import ClassifierConfig
from cspdet.models.csp import Fusion, Split
from cspdet.models.profile import Cost, count
from paper.drawings.data_flow import Block, conv_text, data_flow, size_text, upstream
from paper.drawings.svg import FAINT, INK, Box, Canvas

SIZE_HW = (224, 224)  # the published input
COLUMNS = {"input": 0, "pool": 1, "split": 2, "body": 3, "t1": 4, "concat": 5, "t2": 6}
COLORS = {"input": "#ffffff", "pool": "#eaeef2", "split": "#ddf4ff", "body": "#ffd8b5", "t1": "#d2f4d3",
          "concat": "#ffffff", "t2": "#e9d8fd"}  # fmt: skip
WORKED, CARRIED = "#bc4c00", "#0969da"
BOX_WIDTH, BOX_HEIGHT, STEP, MARGIN = 108, 48, 130, 14
LANE, ROW = 34, 168  # from the middle of a row to its lanes; from row to row
FIGURES = {"both": "T1 and T2: figure 3b", "first": "T2 alone: figure 3c", "last": "T1 alone: figure 3d",
           "none": "neither transition"}  # fmt: skip


class Row(NamedTuple):
    """One network's last stage."""

    title: str
    blocks: list[Block]
    cost: Cost


def plain_row() -> Row:
    """PeleeNet: everything goes through the dense block."""
    with torch.device("meta"):
        model = ClassifierConfig(backbone=PeleeNetConfig(name="peleenet")).build()
    cost = count(model, SIZE_HW)
    net = model.backbone
    assert isinstance(net, PeleeNet)
    blocks = _stage(net, lambda x: net.stages[3](net.pool(x)), net.out[1].channels, ("stages.3.0", "stages.3.1"))
    return Row("PeleeNet: dense block and transition (figure 3a)", blocks, cost)


def fusion_row(fusion: Fusion, gamma: float = 0.5) -> Row:
    """CSPPeleeNet with one strategy."""
    with torch.device("meta"):
        config = CSPPeleeNetConfig(name="csppeleenet", gamma=gamma, fusion=fusion)
        model = ClassifierConfig(backbone=config).build()
    cost = count(model, SIZE_HW)
    net = model.backbone
    assert isinstance(net, CSPPeleeNet)
    blocks = _stage(net, lambda x: net.last_transition(net.stages[3](x)), net.out[1].channels, ("stages.3.body",))
    return Row(f"fusion: {fusion} ({FIGURES[fusion]})", blocks, cost)


def _stage(net: nn.Module, run: Callable[[Tensor], Tensor], channels: int, whole: tuple[str, ...]) -> list[Block]:
    """The blocks of the last stage; the modules called `whole` are blocks whatever they are."""
    x = torch.zeros(1, channels, SIZE_HW[0] // 16, SIZE_HW[1] // 16, device="meta")
    named = net.named_modules(prefix="backbone")
    names = {f"backbone.{name}" for name in whole}
    return data_flow(
        run, {"C4": x}, named, lambda name, module: name in names or isinstance(module, (ConvBN, Split, nn.AvgPool2d))
    )


def role(block: Block) -> str:
    """What a block is in a stage: a key of COLUMNS."""
    if block.kind in ("input", "concat"):
        return block.kind
    if block.kind == "AvgPool2d":
        return "pool"
    if block.kind == "Sequential":
        return "body"
    if ".split" in block.name:
        return "split"
    return "t1" if block.name.endswith(".t1") else "t2"


def lanes(blocks: list[Block]) -> list[str]:
    """`worked`, `carried` or `both` for each block: on which way from the split to the concatenation it lies."""
    joins = [i for i, block in enumerate(blocks) if block.kind == "concat"]
    if not joins:
        return ["both"] * len(blocks)
    worked, carried = (upstream(blocks, source) for source in blocks[joins[0]].sources)
    return [
        "both" if (i in worked) == (i in carried) else "worked" if i in worked else "carried"
        for i in range(len(blocks))
    ]


def _lines(block: Block) -> tuple[str, ...]:
    """What stands in the box."""
    what, size = role(block), size_text(block)
    if what == "input":
        return block.name, size
    if what == "pool":
        return "average pool", size
    if what == "concat":
        return "concat", size
    if what == "body":
        assert isinstance(block.module, nn.Sequential)
        return f"{len(block.module)} dense layers", size
    if what == "split":
        ways = ("x0′", "x0″")
        if block.kind == "Split":
            return f"{ways[block.part or 0]}: channels", size
        return f"{ways[0 if block.name.endswith('.carry') else 1]}: {conv_text(block)}", size
    name = "T1: " if what == "t1" else "T2: " if block.name.endswith(".last_transition") else ""
    return f"{name}{conv_text(block)}", size


def draw_fusion() -> str:
    """The SVG of PeleeNet's last stage and the four strategies'."""
    plain = plain_row()
    rows = [plain, *(fusion_row(fusion) for fusion in get_args(Fusion))]
    width = 2 * MARGIN + (len(COLUMNS) - 1) * STEP + BOX_WIDTH
    canvas = Canvas(width, 28 + len(rows) * ROW + 26, "The fusion strategies of CSP, at the last stage of CSPPeleeNet")
    canvas.text(MARGIN, 22, "last stage", bold=True, color=INK)
    for name, color, x in (("worked on", WORKED, 110), ("carried round", CARRIED, 210)):
        canvas.arrow((x, 18), (x + 24, 18), color)
        canvas.text(x + 30, 22, name, color=color)
    canvas.text(width - MARGIN, 22, f"channels · height×width, input {SIZE_HW[0]}×{SIZE_HW[1]}", anchor="end")
    for i, row in enumerate(rows):
        _draw_row(canvas, row, plain.cost, 28 + i * ROW, width)
    canvas.text(
        MARGIN, 28 + len(rows) * ROW + 14,
        "Where x0′ and x0″ are convolutions, these two are the T2 of the stage before (TransitionSplit).", size=11,
    )  # fmt: skip
    return str(canvas)


def _draw_row(canvas: Canvas, row: Row, plain: Cost, top: int, width: int) -> None:
    canvas.band(Box(0, top + 4, width, 24), "#f6f8fa")
    canvas.text(MARGIN, top + 21, row.title, bold=True, color=INK)
    canvas.text(width - MARGIN, top + 21, _whole(row.cost, plain), anchor="end", color=FAINT)
    middle = top + 28 + (ROW - 28) / 2
    shift = {"both": 0, "worked": -LANE, "carried": LANE}
    ways = lanes(row.blocks)
    boxes = [
        Box(MARGIN + STEP * COLUMNS[role(block)], middle + shift[way] - BOX_HEIGHT / 2, BOX_WIDTH, BOX_HEIGHT)
        for block, way in zip(row.blocks, ways, strict=True)
    ]
    for place, block in enumerate(row.blocks):
        for source in block.sources:
            carried = "carried" in (ways[place], ways[source])
            worked = "worked" in (ways[place], ways[source]) or ways.count("both") == len(ways)
            color = CARRIED if carried else WORKED if worked else INK
            canvas.arrow(boxes[source].right, boxes[place].left, color)
    for block, box in zip(row.blocks, boxes, strict=True):
        bflops = block.bflops(row.cost)
        cost = (f"{bflops:.4f} BFLOPs",) if bflops >= 0.00005 else ()
        canvas.box(box, (*_lines(block), *cost), COLORS[role(block)])


def _whole(cost: Cost, plain: Cost) -> str:
    """What the whole network costs, against PeleeNet."""
    step = "" if cost is plain else f" ({cost.bflops / plain.bflops - 1:+.1%})".replace("-", "−")
    return f"whole network {cost.bflops:.4f} BFLOPs{step}"
