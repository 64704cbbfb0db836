"""Drawing of the fusion strategies (paper, figure 3): the last stages of PeleeNet and CSPPeleeNet, traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from cspdet.models.backbones.config import CSPPeleeNetConfig, PeleeNetConfig
from cspdet.models.backbones.csppeleenet import CSPPeleeNet
from cspdet.models.backbones.peleenet import PeleeNet
from cspdet.models.base_config import Fusion
from cspdet.models.blocks import ConvBN
from cspdet.models.config import ClassifierConfig
from cspdet.models.csp import Split
from cspdet.models.profile import ModelCost, profile
from paper.drawings.data_flow import Block, ancestors, conv_text, data_flow, size_text
from paper.drawings.svg import MUTED_COLOR, TEXT_COLOR, SvgCanvas, SvgRect

SIZE_HW = (224, 224)  # the published input
COLUMNS = {"input": 0, "pool": 1, "split": 2, "body": 3, "partial_transition": 4, "concat": 5, "final_transition": 6}
COLORS = {"input": "#ffffff", "pool": "#eaeef2", "split": "#ddf4ff", "body": "#ffd8b5", "partial_transition": "#d2f4d3",
          "concat": "#ffffff", "final_transition": "#e9d8fd"}  # fmt: skip
MAIN_COLOR, SHORTCUT_COLOR = "#bc4c00", "#0969da"
BOX_WIDTH, BOX_HEIGHT, STEP, MARGIN = 108, 48, 130, 14
PATH_OFFSET, ROW_HEIGHT = 34, 168  # distance from the center of a row to each path; distance between rows
FUSION_LABELS = {"both": "T1 and T2: figure 3b", "first": "T2 alone: figure 3c", "last": "T1 alone: figure 3d",
           "none": "neither transition"}  # fmt: skip


class FusionRow(NamedTuple):
    """The last stage of a network: a row of the drawing."""

    title: str
    blocks: list[Block]
    cost: ModelCost


def baseline_row() -> FusionRow:
    """Return the row of PeleeNet, where all channels pass through the dense block."""
    with torch.device("meta"):
        model = ClassifierConfig(backbone=PeleeNetConfig(name="peleenet")).build()
    cost = profile(model, SIZE_HW)
    net = model.backbone
    assert isinstance(net, PeleeNet)
    blocks = _last_stage_blocks(
        net, lambda x: net.stages[3](net.pool(x)), net.out_specs[1].channels, ("stages.3.0", "stages.3.1")
    )
    return FusionRow("PeleeNet: dense block and transition (figure 3a)", blocks, cost)


def fusion_row(fusion: Fusion, gamma: float = 0.5) -> FusionRow:
    """Return the row of CSPPeleeNet with a fusion strategy.

    Args:
        fusion: The fusion strategy.
        gamma: Fraction of the channels in the shortcut.
    """
    with torch.device("meta"):
        config = CSPPeleeNetConfig(name="csppeleenet", gamma=gamma, fusion=fusion)
        model = ClassifierConfig(backbone=config).build()
    cost = profile(model, SIZE_HW)
    net = model.backbone
    assert isinstance(net, CSPPeleeNet)
    blocks = _last_stage_blocks(
        net, lambda x: net.last_transition(net.stages[3](x)), net.out_specs[1].channels, ("stages.3.body",)
    )
    return FusionRow(f"fusion: {fusion} ({FUSION_LABELS[fusion]})", blocks, cost)


def _last_stage_blocks(
    net: nn.Module, run: Callable[[Tensor], Tensor], channels: int, block_names: tuple[str, ...]
) -> list[Block]:
    """Return the blocks of the last stage; each module of `block_names` is one block."""
    x = torch.zeros(1, channels, SIZE_HW[0] // 16, SIZE_HW[1] // 16, device="meta")
    named = net.named_modules(prefix="backbone")
    names = {f"backbone.{name}" for name in block_names}
    return data_flow(
        run, {"C4": x}, named, lambda name, module: name in names or isinstance(module, (ConvBN, Split, nn.AvgPool2d))
    )


def role(block: Block) -> str:
    """Return the role of a block in its stage, a key of COLUMNS."""
    if block.block_type in ("input", "concat"):
        return block.block_type
    if block.block_type == "AvgPool2d":
        return "pool"
    if block.block_type == "Sequential":
        return "body"
    if ".split" in block.name:
        return "split"
    return "partial_transition" if block.name.endswith(".partial_transition") else "final_transition"


def block_paths(blocks: list[Block]) -> list[str]:
    """Return the path of each block from the split to the concatenation: `main`, `shortcut` or `both`."""
    joins = [i for i, block in enumerate(blocks) if block.block_type == "concat"]
    if not joins:
        return ["both"] * len(blocks)
    main, shortcut = (ancestors(blocks, source) for source in blocks[joins[0]].sources)
    return [
        "both" if (i in main) == (i in shortcut) else "main" if i in main else "shortcut" for i in range(len(blocks))
    ]


def _label_lines(block: Block) -> tuple[str, ...]:
    """Return the lines of text in the box of a block."""
    block_role, size = role(block), size_text(block)
    if block_role == "input":
        return block.name, size
    if block_role == "pool":
        return "average pool", size
    if block_role == "concat":
        return "concat", size
    if block_role == "body":
        assert isinstance(block.module, nn.Sequential)
        return f"{len(block.module)} dense layers", size
    if block_role == "split":
        part_names = ("x0′", "x0″")
        if block.block_type == "Split":
            return f"{part_names[block.output_index or 0]}: channels", size
        return f"{part_names[0 if block.name.endswith('.short_conv') else 1]}: {conv_text(block)}", size
    name = "T1: " if block_role == "partial_transition" else "T2: " if block.name.endswith(".last_transition") else ""
    return f"{name}{conv_text(block)}", size


def draw_fusion() -> str:
    """Return the SVG of the last stage of PeleeNet and of CSPPeleeNet with the four fusion strategies."""
    baseline = baseline_row()
    rows = [baseline, *(fusion_row(fusion) for fusion in get_args(Fusion))]
    width = 2 * MARGIN + (len(COLUMNS) - 1) * STEP + BOX_WIDTH
    canvas = SvgCanvas(
        width, 28 + len(rows) * ROW_HEIGHT + 26, "The fusion strategies of CSP, at the last stage of CSPPeleeNet"
    )
    canvas.text(MARGIN, 22, "last stage", bold=True, color=TEXT_COLOR)
    for name, color, x in (("main part", MAIN_COLOR, 110), ("shortcut part", SHORTCUT_COLOR, 210)):
        canvas.arrow((x, 18), (x + 24, 18), color)
        canvas.text(x + 30, 22, name, color=color)
    canvas.text(width - MARGIN, 22, f"channels · height×width, input {SIZE_HW[0]}×{SIZE_HW[1]}", anchor="end")
    for i, row in enumerate(rows):
        _draw_row(canvas, row, baseline.cost, 28 + i * ROW_HEIGHT, width)
    canvas.text(
        MARGIN, 28 + len(rows) * ROW_HEIGHT + 14,
        "Where x0′ and x0″ are convolutions, these two are the T2 of the stage before (TransitionSplit).", size=11,
    )  # fmt: skip
    return str(canvas)


def _draw_row(canvas: SvgCanvas, row: FusionRow, baseline: ModelCost, top: int, width: int) -> None:
    canvas.band(SvgRect(0, top + 4, width, 24), "#f6f8fa")
    canvas.text(MARGIN, top + 21, row.title, bold=True, color=TEXT_COLOR)
    canvas.text(width - MARGIN, top + 21, _total_cost_label(row.cost, baseline), anchor="end", color=MUTED_COLOR)
    middle = top + 28 + (ROW_HEIGHT - 28) / 2
    shift = {"both": 0, "main": -PATH_OFFSET, "shortcut": PATH_OFFSET}
    paths = block_paths(row.blocks)
    boxes = [
        SvgRect(MARGIN + STEP * COLUMNS[role(block)], middle + shift[path] - BOX_HEIGHT / 2, BOX_WIDTH, BOX_HEIGHT)
        for block, path in zip(row.blocks, paths, strict=True)
    ]
    for index, block in enumerate(row.blocks):
        for source in block.sources:
            is_shortcut = "shortcut" in (paths[index], paths[source])
            is_main = "main" in (paths[index], paths[source]) or paths.count("both") == len(paths)
            color = SHORTCUT_COLOR if is_shortcut else MAIN_COLOR if is_main else TEXT_COLOR
            canvas.arrow(boxes[source].right, boxes[index].left, color)
    for block, box in zip(row.blocks, boxes, strict=True):
        bflops = block.bflops(row.cost)
        cost = (f"{bflops:.4f} BFLOPs",) if bflops >= 0.00005 else ()
        canvas.box(box, (*_label_lines(block), *cost), COLORS[role(block)])


def _total_cost_label(cost: ModelCost, baseline: ModelCost) -> str:
    """Return the label with the BFLOPs of the whole network, relative to PeleeNet."""
    step = "" if cost is baseline else f" ({cost.bflops / baseline.bflops - 1:+.1%})".replace("-", "−")
    return f"whole network {cost.bflops:.4f} BFLOPs{step}"
