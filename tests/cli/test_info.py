"""`cspdet info` and the page of the paper's tables: what they count, compare, draw and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paper.page import CostCache, all_rows, check_complete, paper_page
from PIL import Image
from torch import nn

from cspdet.cli.main import main
from cspdet.errors import ConfigError
from cspdet.models.profile import profile
from cspdet.models.published import OTHER_SIZES, PUBLISHED
from cspdet.reports.layer_plot import PART_COLORS

ROOT = Path(__file__).parents[2]
EFM, EFM_SAM = (str(ROOT / "configs" / name) for name in ("csppelee_efm.yaml", "csppelee_efm_sam.yaml"))


def classifier(name: str) -> str:
    return str(ROOT / f"configs/classification/{name}.yaml")


def detector(name: str) -> str:
    return str(ROOT / f"configs/{name}.yaml")


@pytest.fixture
def info(capsys):
    """Runs the command in this process and gives its JSON document."""

    def run(*words: str) -> list[dict]:
        assert main(["info", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.e2e
def test_info_gives_the_published_figures_beside_ours():
    words = [sys.executable, "tools/info.py", EFM, EFM_SAM, classifier("csppeleenet"), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    efm, sam, csppeleenet = json.loads(done.stdout)
    assert (round(efm["bflops"], 3), round(sam["bflops"], 3)) == (4.837, 5.037)
    assert sam["size"] == [416, 416]
    assert sam["strides"] == [8, 16, 32]
    assert sam["published"]["bflops"] == 5.068
    assert sam["published"]["bflops_difference"] == pytest.approx(5.0366 / 5.068 - 1, abs=1e-4)
    assert (csppeleenet["conv_weights"], round(csppeleenet["bflops"], 4)) == (2_830_944, 0.8918)
    assert csppeleenet["published"]["conv_weights"] == 2.83e6
    assert csppeleenet["published"]["conv_weights_difference"] == pytest.approx(2_830_944 / 2.83e6 - 1)
    assert set(efm) == {
        "model", "size", "parameters", "conv_weights", "bflops", "memory_traffic", "largest_layer_bflops", "strides",
        "program", "metadata", "published",
    }  # fmt: skip


def test_sizes_and_overrides_stand_anywhere_on_the_line(info):
    words = ["model.neck.sam=false", EFM_SAM, "--size", "320x640", "model.backbone.gamma=0.25"]
    (row,) = info(*words)
    assert row["size"] == [320, 640]
    (plain,) = info(EFM)
    assert row["bflops"] / plain["bflops"] > 320 * 640 / 416 / 416  # a smaller share bypasses: dearer a pixel


def test_another_network_has_no_published_figures(info):
    assert info(EFM, "model.backbone.gamma=0.25")[0]["published"] is None
    assert info(EFM, "train.loss.box=giou")[0]["published"]["bflops"] == 4.868


def test_published_figures_are_those_of_the_size(info):
    (small,) = info(detector("pelee_prn3l"), "--size", "320x320")
    assert small["published"]["size"] == [320, 320]
    assert small["published"]["bflops"] == 3.98  # as printed, though it must be 2.98
    assert abs(small["published"]["bflops_difference"]) < 0.001
    (other,) = info(detector("pelee_prn3l"), "--size", "512x512")
    assert other["published"]["size"] == [416, 416]
    assert other["published"]["bflops_difference"] is None
    assert abs(other["published"]["stored_numbers_difference"]) < 0.002  # weights do not depend on the size


def test_the_table_has_source_difference_and_misprint(capsys):
    assert main(["info", detector("pelee_prn3l"), EFM, "--size", "320x320"]) == 0
    text = capsys.readouterr().out
    said, efm = text.split("\npelee_prn3l\n")[1].split("\ncsppelee_efm\n")
    assert "reconstruction; PRN repository, Results.md" in said
    assert "3.98 is published, a misprint of 2.98" in said
    assert "stored values (weights, biases, 4 per batch-norm channel) 3.36M (-0.1" in said
    assert "AP 21.2, AP50 42.5, AP75 19.8" in said
    assert text.split()[:10] == [
        "model", "size", "parameters", "conv", "weights", "BFLOPs", "backbone", "neck", "head", "largest",
    ]  # fmt: skip
    assert "published at 416x416" in efm
    assert "%" not in efm.splitlines()[0]  # the BFLOPs of another size are not compared


def test_the_layers_add_up(info):
    (row,) = info(EFM_SAM, "--layers")
    layers = row["layers"]
    assert sum(layer["bflops"] for layer in layers) == pytest.approx(row["bflops"])
    assert sum(layer["weights"] for layer in layers) == row["conv_weights"]
    assert max(layer["bflops"] for layer in layers) == row["largest_layer_bflops"]
    assert list(row["parts_bflops"]) == ["backbone", "neck", "head"]
    assert sum(row["parts_bflops"].values()) == pytest.approx(row["bflops"])
    head = [layer["bflops"] for layer in layers if layer["name"].startswith("head.")]
    assert row["parts_bflops"]["head"] == pytest.approx(sum(head))


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [
        (classifier("peleenet"), classifier("csppeleenet"), -0.44),
        (detector("pelee_yolov3"), EFM, -0.80),
    ],
)
def test_the_largest_layer_shrinks_as_published(first, second, published, capsys):
    assert main(["info", first, second, "--layers"]) == 0
    out = capsys.readouterr().out
    assert "layer by layer" in out
    baseline, compared = out.split("largest layers, compared with that of ")[1].splitlines()[2:4]
    assert baseline.split()[1].endswith(".conv")  # the layer is named
    change = next(word for word in compared.split() if word.endswith("%"))
    assert float(change[:-1]) / 100 == pytest.approx(published, abs=0.005)


# By an independent count of resnext50.cfg and csresnext50.cfg: convolutions, without that of the classes; and the
# printed CIO in millions.
@pytest.mark.parametrize(
    ("name", "convolutions", "printed"), [("resnext50", 32.965, 34.4), ("cspresnext50", 31.195, 32.6)]
)
def test_memory_traffic(name, convolutions, printed, info):
    (row,) = info(classifier(name), "--layers")
    assert row["memory_traffic"] / 1e6 == pytest.approx(convolutions, abs=0.001)
    assert round(row["cio"] / 1e6, 1) == printed
    assert row["published"]["cio"] == printed * 1e6


def test_what_is_stored_and_read_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2))
    cost = profile(model, (8, 8))
    assert cost.stored_values == 3 * 4 * 9 + 4 + 4 * 4
    assert cost.conv_memory_access == 3 * 64 + 4 * 64
    assert cost.cio == cost.conv_memory_access + 4 * 64 + 4 * 16
    assert cost.bflops * 1e9 == 2 * 3 * 4 * 9 * 64 + 4 * 4 * 16
    assert cost.largest_layer.name == "0"


# --- drawings ------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_plot_shows_every_model(tmp_path, capsys):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert main(["info", EFM, "--plot", str(one)]) == 0
    assert main(["info", EFM, classifier("csppeleenet"), "--plot", str(two)]) == 0
    small, large = (Image.open(path).convert("RGB") for path in (one, two))
    assert large.height > 1.5 * small.height
    colors = {color for _, color in small.getcolors(maxcolors=1 << 24)}
    assert {tuple(bytes.fromhex(PART_COLORS[part][1:])) for part in ("backbone", "neck", "head")} <= colors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]
    assert capsys.readouterr().out.startswith("model")


def test_the_plot_may_be_svg(tmp_path):
    path = tmp_path / "layers.svg"
    assert main(["info", classifier("csppeleenet"), "--plot", str(path)]) == 0
    assert "<svg" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("target", "expected"),
    [("layers.jpg", "--plot: expected a file ending in .png or .svg"), ("no/layers.png", "there is no folder")],
)
def test_a_plot_that_cannot_be_written_is_refused_at_once(target, expected, tmp_path, capsys):
    assert main(["info", "no-such-model.yaml", "--plot", str(tmp_path / target)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --plot")
    assert expected in said
    assert len(said.splitlines()) == 1


# --- the page ------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_committed_page_is_what_the_configs_give():
    page = (ROOT / "docs/models/paper.md").read_text(encoding="utf-8")
    assert page == paper_page(ROOT / "configs"), "write it anew: python tools/paper_page.py"


def test_the_page_shows_every_published_row():
    check_complete(ROOT / "configs", CostCache(ROOT / "configs"))
    listed = {(row.config, row.reference.size) for row in all_rows()}
    printed = {(name, row.size) for name, row in PUBLISHED.items()}
    printed |= {(name, row.size) for name, rows in OTHER_SIZES.items() for row in rows}
    assert printed <= listed


def test_a_published_row_without_its_config_is_an_error(tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError) as refused:
        paper_page(tmp_path)
    assert len(refused.value.problems) == len(PUBLISHED)
    assert any("csppelee_efm.yaml: no such file" in problem for problem in refused.value.problems)
    assert main(["paper-page", "--configs", str(tmp_path), "--output", str(tmp_path / "page.md")]) == 2
    assert "error: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(PUBLISHED, "csppelee_xfm", PUBLISHED["csppelee_efm"])
    with pytest.raises(ConfigError, match="csppelee_xfm: published, but in no table"):
        paper_page(ROOT / "configs")


def test_models_of_the_same_name_get_distinct_names(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    copy = tmp_path / "a" / "darknetref.yaml"
    original = ROOT / "configs/classification/darknetref.yaml"
    copy.write_text(original.read_text().split("train:")[0])
    assert main(["info", str(original), str(copy), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["classification/darknetref.yaml", "a/darknetref.yaml"]
    assert rows[0]["published"] == rows[1]["published"] is not None
