"""Drawing of CSPPeleeNet with the Exact Fusion Model (paper, figure 6c), traced from the modules; one row per level."""

from __future__ import annotations

import torch
from torch import nn

from cspdet.models.backbones.config import CSPPeleeNetConfig
from cspdet.models.blocks import SAM, ConvBN, Maxout
from cspdet.models.config import DetectorConfig
from cspdet.models.detector import Detector
from cspdet.models.necks.config import EFMConfig
from cspdet.models.profile import ModelCost, profile
from paper.drawings.data_flow import Block, ancestors, conv_text, data_flow, size_text
from paper.drawings.svg import TEXT_COLOR, SvgCanvas, SvgRect

SIZE_HW = (416, 416)
NUM_CLASSES = 80
COLORS = {"input": "#ffffff", "ConvBN": "#ddf4ff", "Maxout": "#ffd8b5", "MaxPool2d": "#eaeef2", "upsample": "#eaeef2",
          "concat": "#ffffff", "SAM": "#e9d8fd"}  # fmt: skip
BOTTLENECK_COLOR = "#ffc1ba"  # layers with the highest BFLOPs, which are equal
LEVEL_COLORS = ("#0969da", "#1a7f37", "#bc4c00")  # arrows from C3, C4 and C5
BOX_WIDTH, BOX_HEIGHT, STEP, MARGIN = 90, 48, 106, 12
TOP, PATH_OFFSET = 66, 62  # y of the first row's center; distance between rows, and to the paths between levels


def build_detector(*, sam: bool) -> Detector:
    """Build CSPPeleeNet-EFM or CSPPeleeNet-EFM (SAM) on the meta device."""
    with torch.device("meta"):
        backbone = CSPPeleeNetConfig(name="csppeleenet")
        return DetectorConfig(backbone=backbone, neck=EFMConfig(name="efm", sam=sam)).build(NUM_CLASSES)


def efm_blocks(*, sam: bool) -> list[Block]:
    """Return the blocks of the neck, starting with the inputs C3, C4, C5; names are module paths in the detector."""
    with torch.device("meta"):
        specs = CSPPeleeNetConfig(name="csppeleenet").build().out_specs
        neck = EFMConfig(name="efm", sam=sam).build(specs)
        inputs = {
            f"C{i}": torch.zeros(1, spec.channels, SIZE_HW[0] // spec.stride, SIZE_HW[1] // spec.stride)
            for i, spec in enumerate(specs, start=3)
        }
    block_types = (ConvBN, SAM, Maxout, nn.MaxPool2d)
    named = neck.named_modules(prefix="neck")
    return data_flow(lambda *maps: neck(maps), inputs, named, lambda _, module: isinstance(module, block_types))


def level_index(block: Block) -> int:
    """Return the level of a block's map: 0 (finest) to 2 (coarsest)."""
    return (SIZE_HW[0] // block.chw[1]).bit_length() - 4


def source_levels(blocks: list[Block], index: int) -> tuple[int, ...]:
    """Return the levels of the backbone maps that a block depends on."""
    return tuple(sorted(level_index(blocks[i]) for i in ancestors(blocks, index) if blocks[i].block_type == "input"))


def level_span(blocks: list[Block], index: int) -> tuple[int, int]:
    """Return the source and the target level of the path that a block is on; equal for a block within one level."""
    sources = source_levels(blocks, index)
    if len(sources) > 1:  # after the concatenation
        return level_index(blocks[index]), level_index(blocks[index])
    end = index
    while blocks[end].block_type != "concat":
        readers = [i for i, block in enumerate(blocks) if end in block.sources]
        if len(readers) > 1:
            return sources[0], sources[0]  # a lateral convolution, read by several levels
        end = readers[0]
    return sources[0], level_index(blocks[end])


def layout_columns(blocks: list[Block]) -> list[int]:
    """Return the column of each block: its depth in the graph, except that all concatenations share a column."""
    result: list[int] = []
    for block in blocks:
        result.append(max((result[source] + 1 for source in block.sources), default=0))
    join = max(column for column, block in zip(result, blocks, strict=True) if block.block_type == "concat")
    for i, block in enumerate(blocks):
        if block.block_type == "concat":
            result[i] = join
        elif len(source_levels(blocks, i)) > 1:
            result[i] = result[block.sources[0]] + 1
    return result


def _row_index(blocks: list[Block], index: int) -> int:
    """Return the row of a block from the top: three rows per level, for its blocks, upsampling and downsampling."""
    start, end = level_span(blocks, index)
    return 3 * min(start, end) + (0 if start == end else 1 if start > end else 2)


def _title(block: Block) -> str:
    if block.block_type == "ConvBN":
        return conv_text(block)
    if isinstance(block.module, Maxout):
        return f"Maxout {block.module.c_in // block.module.c_out}:1"
    return {"MaxPool2d": "max pool", "input": block.name}.get(block.block_type, block.block_type)


def draw_efm() -> str:
    """Return the SVG of EFM (SAM) with channels, sizes and BFLOPs."""
    blocks = efm_blocks(sam=True)
    cost = profile(build_detector(sam=True), SIZE_HW)
    columns = layout_columns(blocks)
    width = 2 * MARGIN + max(columns) * STEP + BOX_WIDTH
    height = TOP + 6 * PATH_OFFSET + BOX_HEIGHT // 2 + 40
    canvas = SvgCanvas(width, height, "The Exact Fusion Model behind CSPPeleeNet")
    canvas.text(MARGIN, 22, "CSPPeleeNet-EFM (SAM)", bold=True, color=TEXT_COLOR)
    for i, color in enumerate(LEVEL_COLORS):
        x = 250 + 130 * i
        canvas.arrow((x, 18), (x + 24, 18), color)
        canvas.text(x + 30, 22, f"from C{i + 3} alone", color=color)
    canvas.text(width - MARGIN, 22, f"channels · height×width, BFLOPs; input {SIZE_HW[0]}×{SIZE_HW[1]}", anchor="end")
    boxes = [
        SvgRect(
            MARGIN + STEP * columns[i],
            TOP + PATH_OFFSET * _row_index(blocks, i) - BOX_HEIGHT / 2,
            BOX_WIDTH,
            BOX_HEIGHT,
        )
        for i in range(len(blocks))
    ]
    for i in range(3):
        canvas.band(SvgRect(0, TOP + 3 * i * PATH_OFFSET - BOX_HEIGHT / 2 - 6, width, BOX_HEIGHT + 12), "#f6f8fa")
    for i, block in enumerate(blocks):
        for source in block.sources:
            sources = source_levels(blocks, source)
            canvas.arrow(
                boxes[source].right, boxes[i].left, LEVEL_COLORS[sources[0]] if len(sources) == 1 else TEXT_COLOR
            )
    _draw_boxes(canvas, blocks, boxes, cost)
    largest = cost.largest_layer_bflops
    canvas.band(SvgRect(MARGIN, height - 24, 14, 12), BOTTLENECK_COLOR)
    canvas.text(
        MARGIN + 20, height - 14, f"{largest:.4f} BFLOPs, as much as the largest layer of the backbone", size=11
    )
    return str(canvas)


def _draw_boxes(canvas: SvgCanvas, blocks: list[Block], boxes: list[SvgRect], cost: ModelCost) -> None:
    for block, box in zip(blocks, boxes, strict=True):
        bflops = block.bflops(cost)
        fill = BOTTLENECK_COLOR if bflops == cost.largest_layer_bflops else COLORS[block.block_type]
        lines = (_title(block), size_text(block))
        canvas.box(box, (*lines, f"{bflops:.4f}") if bflops >= 0.00005 else lines, fill)
