"""docs/explanation/csp.md and its drawings: what they say is what the modules do."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import get_args

import pytest
import torch
from paper import drawings_command
from paper.drawings.data_flow import data_flow
from paper.drawings.efm import SIZE_HW, build_detector, efm_blocks, source_levels
from paper.drawings.fusion import FusionRow, baseline_row, block_paths, fusion_row, role
from paper.drawings.gradients import DIRECT, INDIRECT, NONE, csp_stage, dense_stage, gradient_dependence
from paper.drawings_command import DRAWINGS
from paper.tables import ABLATION
from torch import nn

from cspdet.checkpoints.model_profile import profile_model
from cspdet.cli.main import run_command
from cspdet.models.backbones.config import CSPReferenceConfig
from cspdet.models.backbones.csp_reference import dense_layer
from cspdet.models.base_config import Fusion
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import CSPStage, Split, has_final_transition, has_partial_transition
from cspdet.models.profile import ModelCost, profile

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/csp.md").read_text(encoding="utf-8")
SYMBOL = re.compile(r"\[`([\w.]+)`\]\(\.\./\.\./([\w/]+\.py)\)")
CODE_ROW = re.compile(r"^\|.*\| `([^`]+)` \| \[`([\w.]+)`\]\(\.\./\.\./([\w/]+\.py)\) \|$", re.MULTILINE)

# --- the drawings --------------------------------------------------------------------------------


@cache
def row_of(fusion: Fusion, gamma: float = 0.5) -> FusionRow:
    return fusion_row(fusion, gamma)


@cache
def baseline() -> FusionRow:
    return baseline_row()


@cache
def detector_cost(*, sam: bool) -> ModelCost:
    return profile(build_detector(sam=sam), SIZE_HW)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command has just filled."""
    folder = tmp_path_factory.mktemp("pictures")
    assert run_command("draw-networks", module=drawings_command, argv=["--output", str(folder)]) == 0
    return folder


@pytest.mark.e2e
def test_the_command_writes_the_drawings_and_nothing_else(drawn):
    assert sorted(path.name for path in drawn.iterdir()) == sorted(DRAWINGS)


@pytest.mark.e2e
@pytest.mark.parametrize("name", DRAWINGS)
def test_the_committed_drawing_is_the_one_that_the_modules_give(drawn, name):
    committed = (ROOT / "docs/images" / name).read_text(encoding="utf-8")
    assert committed == (drawn / name).read_text(encoding="utf-8"), "draw it anew: python tools/draw_networks.py"


def test_every_split_has_one_part_for_the_shortcut_and_one_for_the_block():
    text = (ROOT / "docs/images/csp_fusion.svg").read_text(encoding="utf-8")
    assert text.count(">x0′: ") == text.count(">x0″: ") > 0


def test_the_page_shows_every_drawing_and_there_is_no_other():
    assert sorted(DRAWINGS) == sorted(path.name for path in (ROOT / "docs/images").glob("*.svg"))
    assert sorted(DRAWINGS) == sorted(re.findall(r"\(\.\./images/([\w.]+)\)", PAGE))


@pytest.mark.parametrize("name", [*(f"images/{name}" for name in DRAWINGS), "packages.svg"])
def test_every_color_has_a_dark_one(name):
    style, drawing = (ROOT / "docs" / name).read_text(encoding="utf-8").split("</style>")
    used = set(re.findall(r'(?:fill|stroke)="#\w+"', drawing))
    assert len(used) >= 4
    assert used <= set(re.findall(r"\[((?:fill|stroke)=\"#\w+\")\]", style))
    texts = re.findall(r"<text [^>]*>", drawing)
    assert [text for text in texts if "fill=" not in text] == []


@pytest.mark.parametrize("name", DRAWINGS)
def test_boxes_lie_on_the_page_and_not_on_each_other(name):
    root = ElementTree.fromstring((ROOT / "docs/images" / name).read_text(encoding="utf-8"))
    boxes = [
        tuple(float(rect.attrib[side]) for side in ("x", "y", "width", "height"))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
        if "rx" in rect.attrib
    ]
    assert len(boxes) > 10
    for x, y, width, height in boxes:
        assert x >= 0
        assert y >= 0
        assert x + width <= float(root.attrib["width"])
        assert y + height <= float(root.attrib["height"])
    for a, b in combinations(boxes, 2):
        assert a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]


def test_a_bad_folder_is_the_users_mistake(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / next(iter(DRAWINGS))).mkdir(parents=True)
    for words, problem in (
        (["--output", str(tmp_path / "none")], "none: expected an existing folder, found nothing"),
        (["--output", str(tmp_path / "file")], "file: expected an existing folder, found a file"),
        (["--output", str(tmp_path / "taken")], "cannot be written"),
        (["model.neck.sam=true"], "takes no overrides"),
    ):
        assert run_command("draw-networks", module=drawings_command, argv=words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert problem in error
        assert len(error.splitlines()) == 1


# --- the walk through the modules ----------------------------------------------------------------


def test_a_function_without_a_name_is_an_error():
    class Doubling(nn.Sequential):
        def forward(self, x):
            return self[1](2 * self[0](x))

    net = Doubling(nn.AvgPool2d(2), nn.AvgPool2d(2))
    x = torch.zeros(1, 3, 8, 8, device="meta")
    with pytest.raises(ValueError, match=r"1: reads a tensor of shape \(1, 3, 4, 4\) that no block made"):
        data_flow(net, {"x": x}, net.named_modules(), lambda _, module: isinstance(module, nn.AvgPool2d))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_module_that_runs_twice_is_two_blocks_with_their_own_costs():
    cost = detector_cost(sam=False)
    down = [block for block in efm_blocks(sam=False) if block.name == "neck.down"]
    # windows of 2x2: 64 channels at 26x26, 128 at 13x13
    assert [block.bflops(cost) * 1e9 for block in down] == [4 * 64 * 26 * 26, 4 * 128 * 13 * 13]


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_the_drawn_strategies_have_their_transitions(fusion):
    row = row_of(fusion)
    roles = [role(block) for block in row.blocks]
    assert roles.count("partial_transition") == has_partial_transition(fusion)
    assert roles.count("final_transition") == has_final_transition(fusion)
    assert roles.count("body") == roles.count("concat") == 1
    branches = dict(zip(roles, block_paths(row.blocks), strict=True))
    assert branches["body"] == "main"
    assert "shortcut" in block_paths(row.blocks)
    assert branches["concat"] == "both"
    # the blocks that are drawn are all that the stage computes
    drawn_cost = sum(block.bflops(row.cost) for block in row.blocks)
    stage = ("backbone.stages.3.", "backbone.last_transition.")
    counted = sum(layer.operations for layer in row.cost.layers if layer.name.startswith(stage))
    assert drawn_cost == pytest.approx(counted / 1e9, rel=1e-12)


def test_each_scale_of_efm_sees_the_scale_below_its_own_and_the_one_above():
    blocks = efm_blocks(sam=True)
    fused = {blocks[i].chw: source_levels(blocks, i) for i in range(len(blocks)) if blocks[i].block_type == "concat"}
    assert fused == {(128, 52, 52): (0, 1), (256, 26, 26): (0, 1, 2), (256, 13, 13): (1, 2)}


# --- gradients -----------------------------------------------------------------------------------


def reads(*maps: str) -> set[str]:
    return set(maps)


def with_part(stage, kind=None, **options) -> dict[str, set[str]]:
    return {
        weight: {name for name, found in relations.items() if (found == kind if kind else found != NONE)}
        for weight, relations in gradient_dependence(stage, **options).items()
    }


def test_the_gradients_of_a_dense_stage_are_those_of_equation_2():
    assert with_part(dense_stage()) == {
        "w1": reads("x0′", "x0″"),
        "w2": reads("x0′", "x0″", "x1"),
        "w3": reads("x0′", "x0″", "x1", "x2"),
        "wT": reads("x0′", "x0″", "x1", "x2", "x3"),
    }
    assert with_part(dense_stage(), INDIRECT) == {name: set() for name in ("w1", "w2", "w3", "wT")}


def test_the_gradients_of_a_csp_stage_are_those_of_equation_4():
    assert with_part(csp_stage(), DIRECT) == {
        "w1": reads("x0″"),
        "w2": reads("x0″", "x1"),
        "w3": reads("x0″", "x1", "x2"),
        "wT": reads("x0″", "x1", "x2", "x3"),
        "wU": reads("x0′", "xT"),
    }
    through = with_part(csp_stage(), INDIRECT)
    assert through.pop("wU") == {"x0″", "x1", "x2", "x3"}  # what xT is made of
    assert not any(through.values())


def test_fusion_first_leaves_the_block_alone_but_reads_every_map_in_t2():
    found = with_part(csp_stage("first"))
    both = with_part(csp_stage(), DIRECT)
    assert found.pop("wU") == {"x0′", "x0″", "x1", "x2", "x3"}
    assert found == {name: both[name] for name in ("w1", "w2", "w3")}
    assert not any(with_part(csp_stage("first"), INDIRECT).values())


@pytest.mark.parametrize(
    ("fusion", "act", "training", "relation"),
    [
        ("both", "leaky", False, NONE),
        ("both", "leaky", True, INDIRECT),  # the moments of a batch are of both parts
        ("both", "swish", False, INDIRECT),  # the slope of a smooth activation is, too
        ("last", "leaky", True, NONE),
        ("last", "swish", True, NONE),
    ],
)
def test_what_the_equations_leave_out(fusion, act, training, relation):
    """Behind T2 the parts are coupled by what is no linear function; without T2 they never are."""
    found = gradient_dependence(csp_stage(fusion, act), training=training)
    assert {found[name]["x0′"] for name in ("w1", "w2", "w3", "wT")} == {relation}


def test_input_of_the_shortcut_channels_bypasses_the_block():
    body = nn.Sequential(ConvBN(5, 5, 3), ConvBN(5, 7))
    stage = CSPStage(Split(3, 5), body, ConvBN(7, 7), nn.Identity())
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    arriving = torch.randn(2, 10, 4, 4)
    arriving[:, :7] = 0  # of xT; the last three channels are those of x0'
    stage(x).backward(arriving)
    assert x.grad is not None
    assert torch.equal(x.grad[:, :3], arriving[:, 7:])
    assert not x.grad[:, 3:].any()
    assert all(p.grad is not None and not p.grad.any() for p in stage.parameters())


# --- the page ------------------------------------------------------------------------------------


def source_of(symbol: str, path: str) -> str | None:
    """The text of a class, function or method; None when there is none."""
    text = (ROOT / path).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for name in symbol.split("."):
        found = [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and child.name == name
        ]
        if not found:
            return None
        node = found[0]
    return ast.get_source_segment(text, node)


def one_line(code: str) -> str:
    return re.sub(r"\s+", " ", code)


def test_every_symbol_on_the_page_is_in_the_file_that_it_links_to():
    named = SYMBOL.findall(PAGE)
    assert len(named) > 20
    assert [(symbol, path) for symbol, path in named if source_of(symbol, path) is None] == []


def test_every_line_of_code_on_the_page_is_in_its_symbol():
    rows = CODE_ROW.findall(PAGE)
    assert len(rows) == sum("](../../cspdet" in line for line in PAGE.splitlines() if line.startswith("| "))
    assert [code for code, symbol, path in rows if one_line(code) not in one_line(source_of(symbol, path) or "")] == []


def test_the_checks_of_symbols_object():
    assert source_of("CSPStage.backward", "cspdet/models/csp.py") is None
    assert "self.final_transition(" in (source_of("CSPStage.forward", "cspdet/models/csp.py") or "")


def table_row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def signed(ratio: float, digits: int = 1) -> str:
    return f"{ratio:+.{digits}%}".replace("-", "−")


@pytest.mark.parametrize("row", ABLATION, ids=lambda row: row.label)
def test_the_cost_of_gamma_and_fusion(row):
    fusion, gamma = (text.split("=")[1] for text in row.overrides)
    cost, base = row_of(fusion, float(gamma)).cost, baseline().cost
    expected = table_row(
        fusion,
        gamma,
        f"{cost.bflops:.4f}",
        signed(cost.bflops / base.bflops - 1),
        signed(row.change, 0) if row.change is not None else "–",
        row.claim.replace("-", "−") or "–",
        f"{cost.conv_weights / 1e6:.3f}M",
        f"{cost.largest_layer_bflops:.4f}",
        signed(cost.largest_layer_bflops / base.largest_layer_bflops - 1),
    )
    assert expected in PAGE.splitlines()


def test_what_gamma_is_compared_with():
    cost = baseline().cost
    text = (
        f"PeleeNet's {cost.bflops:.4f} BFLOPs, {cost.conv_weights / 1e6:.3f}M weights and largest layer of "
        f"{cost.largest_layer_bflops:.4f} BFLOPs"
    )
    assert text in one_line(PAGE)


def elements(channels: int, layers: int, growth: int) -> float:
    """Read and written a pixel by the convolutions of a plain dense block."""
    config = CSPReferenceConfig(name="cspdenseref")
    with torch.device("meta"):
        block = [dense_layer(channels + i * growth, growth, config) for i in range(layers)]
        cost = profile(nn.Sequential(ConvBN(3, channels), *block), (4, 4))
    return sum(layer.memory_access for layer in cost.layers[1:]) / 16


def test_the_memory_traffic_of_a_dense_block():
    c, m, d = 256, 8, 32
    dense, partial = elements(c, m, d), elements(c // 2, m, d)
    assert dense == c * m + (m * m + m) * d / 2
    assert partial == c * m / 2 + (m * m + m) * d / 2
    assert f"{dense:.0f} elements per pixel in the plain block, {partial:.0f} in the partial one" in one_line(PAGE)
    assert f"{1 - partial / dense:.0%} less" in one_line(PAGE)


def test_the_largest_layers_of_the_detector():
    cost = detector_cost(sam=True)
    largest = [layer for layer in cost.layers if layer.operations == cost.largest_layer.operations]
    rows = [
        table_row(
            f"`{layer.name.removesuffix('.conv')}`",
            f"{layer.input_chw[0]} → {layer.output_chw[0]}",
            f"{layer.output_chw[1]}×{layer.output_chw[2]}",
            f"{layer.operations:,}",
        )
        for layer in largest
    ]
    assert [row for row in rows if row not in PAGE.splitlines()] == []
    # 2 k^2 c^2 h w, and 9 * 64^2 = 192^2: one number for all of them
    same = {2 * 9 * c**2 * side**2 for c, side in ((64, 52), (128, 26), (256, 13))}
    same |= {2 * c**2 * side**2 for c, side in ((192, 52), (384, 26))}
    assert same == {cost.largest_layer.operations}
    assert detector_cost(sam=False).largest_layer.operations == cost.largest_layer.operations


def test_the_largest_layer_of_the_baseline():
    cost = profile_model(ROOT / "configs/pelee_yolov3.yaml", size_hw=SIZE_HW, num_classes=80).cost
    layer, efm_bflops = cost.largest_layer, detector_cost(sam=True).largest_layer_bflops
    text = (
        f"{layer.input_chw[0]} to {layer.output_chw[0]} channels at {layer.output_chw[1]}×{layer.output_chw[2]}, "
        f"{cost.largest_layer_bflops:.4f} BFLOPs: EFM saves {1 - efm_bflops / cost.largest_layer_bflops:.0%} of it"
    )
    assert text in one_line(PAGE)


def test_what_maxout_saves():
    """Each scale without Maxout would stack whole maps of 64, 128 and 256 channels."""
    sides, widths = (52, 26, 13), (64, 128, 256)
    with_maxout = [block.chw[0] for block in efm_blocks(sam=True) if block.block_type == "concat"]
    without = (64 + 128, 64 + 128 + 256, 128 + 256)
    for side, width, c, more in zip(sides, widths, with_maxout, without, strict=True):
        first = [f"{2 * n * width * side**2 / 1e9:.4f}" for n in (c, more)]
        gate = [f"{2 * n * n * side**2 / 1e9:.4f}" for n in (c, more)]
        assert table_row(f"{side}×{side}", c, more, *first, *gate) in PAGE.splitlines()


def test_the_totals_of_efm():
    plain_cost, with_sam = detector_cost(sam=False), detector_cost(sam=True)
    for text in (
        f"{plain_cost.bflops:.3f} BFLOPs (published 4.868)",
        f"{with_sam.bflops:.3f} (published 5.068)",
        f"{with_sam.bflops - plain_cost.bflops:.4f} BFLOPs",
    ):
        assert text in one_line(PAGE)
