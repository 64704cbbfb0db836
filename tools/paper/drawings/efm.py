"""The Exact Fusion Model (figure 6c) behind CSPPeleeNet, as it runs: a row a scale, and the ways between them."""

from __future__ import annotations

import torch
from torch import nn

from cspdet.models.backbones.csppeleenet import CSPPeleeNetConfig
from cspdet.models.blocks import SAM, ConvBN, Maxout
from cspdet.models.detector import Detector, DetectorConfig
from cspdet.models.necks.efm import EFMConfig
from cspdet.models.profile import Cost, count
from paper.drawings.data_flow import Block, conv_text, data_flow, size_text, upstream
from paper.drawings.svg import INK, Box, Canvas

SIZE_HW = (416, 416)
CLASSES = 80
COLORS = {"input": "#ffffff", "ConvBN": "#ddf4ff", "Maxout": "#ffd8b5", "MaxPool2d": "#eaeef2", "upsample": "#eaeef2",
          "concat": "#ffffff", "SAM": "#e9d8fd"}  # fmt: skip
LARGEST = "#ffc1ba"  # the layers that cost most, all the same
SCALES = ("#0969da", "#1a7f37", "#bc4c00")  # what comes from the finest, the middle and the coarsest map
BOX_WIDTH, BOX_HEIGHT, STEP, MARGIN = 90, 48, 106, 12
TOP, LANE = 66, 62  # the middle of the first row; from a scale to the ways below it, and between these


def build_detector(*, sam: bool) -> Detector:
    """CSPPeleeNet-EFM or CSPPeleeNet-EFM (SAM), on the meta device."""
    with torch.device("meta"):
        backbone = CSPPeleeNetConfig(name="csppeleenet")
        return DetectorConfig(backbone=backbone, neck=EFMConfig(name="efm", sam=sam)).build(CLASSES)


def efm_blocks(*, sam: bool) -> list[Block]:
    """The neck's blocks, from C3, C4, C5 on; their names are those in the detector."""
    with torch.device("meta"):
        specs = CSPPeleeNetConfig(name="csppeleenet").build().out
        neck = EFMConfig(name="efm", sam=sam).build(specs)
        inputs = {
            f"C{i}": torch.zeros(1, spec.channels, SIZE_HW[0] // spec.stride, SIZE_HW[1] // spec.stride)
            for i, spec in enumerate(specs, start=3)
        }
    kinds = (ConvBN, SAM, Maxout, nn.MaxPool2d)
    named = neck.named_modules(prefix="neck")
    return data_flow(lambda *maps: neck(maps), inputs, named, lambda _, module: isinstance(module, kinds))


def scale(block: Block) -> int:
    """0, 1 or 2: the map's place among the three sizes, the finest first."""
    return (SIZE_HW[0] // block.chw[1]).bit_length() - 4


def origins(blocks: list[Block], place: int) -> tuple[int, ...]:
    """The scales of the backbone's maps that a block depends on."""
    return tuple(sorted(scale(blocks[i]) for i in upstream(blocks, place) if blocks[i].kind == "input"))


def way(blocks: list[Block], place: int) -> tuple[int, int]:
    """From which scale to which a block brings its map; the same twice for a block of one scale."""
    came_from = origins(blocks, place)
    if len(came_from) > 1:  # behind the concatenation
        return scale(blocks[place]), scale(blocks[place])
    end = place
    while blocks[end].kind != "concat":
        readers = [i for i, block in enumerate(blocks) if end in block.sources]
        if len(readers) > 1:
            return came_from[0], came_from[0]  # a lateral: several scales read it
        end = readers[0]
    return came_from[0], scale(blocks[end])


def columns(blocks: list[Block]) -> list[int]:
    """How many blocks stand before each one at most; the concatenations share a column, as do those behind them."""
    place: list[int] = []
    for block in blocks:
        place.append(max((place[source] + 1 for source in block.sources), default=0))
    join = max(column for column, block in zip(place, blocks, strict=True) if block.kind == "concat")
    for i, block in enumerate(blocks):
        if block.kind == "concat":
            place[i] = join
        elif len(origins(blocks, i)) > 1:
            place[i] = place[block.sources[0]] + 1
    return place


def _row(blocks: list[Block], place: int) -> int:
    """In lanes from the top: a scale's own, below it the way up to it, then the way down from it."""
    start, end = way(blocks, place)
    return 3 * min(start, end) + (0 if start == end else 1 if start > end else 2)


def _title(block: Block) -> str:
    if block.kind == "ConvBN":
        return conv_text(block)
    if isinstance(block.module, Maxout):
        return f"Maxout {block.module.c_in // block.module.c_out}:1"
    return {"MaxPool2d": "max pool", "input": block.name}.get(block.kind, block.kind)


def draw_efm() -> str:
    """The SVG of EFM (SAM) with channels, sizes and BFLOPs."""
    blocks = efm_blocks(sam=True)
    cost = count(build_detector(sam=True), SIZE_HW)
    across = columns(blocks)
    width = 2 * MARGIN + max(across) * STEP + BOX_WIDTH
    height = TOP + 6 * LANE + BOX_HEIGHT // 2 + 40
    canvas = Canvas(width, height, "The Exact Fusion Model behind CSPPeleeNet")
    canvas.text(MARGIN, 22, "CSPPeleeNet-EFM (SAM)", bold=True, color=INK)
    for i, color in enumerate(SCALES):
        x = 250 + 130 * i
        canvas.arrow((x, 18), (x + 24, 18), color)
        canvas.text(x + 30, 22, f"from C{i + 3} alone", color=color)
    canvas.text(width - MARGIN, 22, f"channels · height×width, BFLOPs; input {SIZE_HW[0]}×{SIZE_HW[1]}", anchor="end")
    boxes = [
        Box(MARGIN + STEP * across[i], TOP + LANE * _row(blocks, i) - BOX_HEIGHT / 2, BOX_WIDTH, BOX_HEIGHT)
        for i in range(len(blocks))
    ]
    for i in range(3):
        canvas.band(Box(0, TOP + 3 * i * LANE - BOX_HEIGHT / 2 - 6, width, BOX_HEIGHT + 12), "#f6f8fa")
    for i, block in enumerate(blocks):
        for source in block.sources:
            came_from = origins(blocks, source)
            canvas.arrow(boxes[source].right, boxes[i].left, SCALES[came_from[0]] if len(came_from) == 1 else INK)
    _draw_boxes(canvas, blocks, boxes, cost)
    largest = cost.largest_layer_bflops
    canvas.band(Box(MARGIN, height - 24, 14, 12), LARGEST)
    canvas.text(
        MARGIN + 20, height - 14, f"{largest:.4f} BFLOPs, as much as the largest layer of the backbone", size=11
    )
    return str(canvas)


def _draw_boxes(canvas: Canvas, blocks: list[Block], boxes: list[Box], cost: Cost) -> None:
    for block, box in zip(blocks, boxes, strict=True):
        bflops = block.bflops(cost)
        fill = LARGEST if bflops == cost.largest_layer_bflops else COLORS[block.kind]
        lines = (_title(block), size_text(block))
        canvas.box(box, (*lines, f"{bflops:.4f}") if bflops >= 0.00005 else lines, fill)
