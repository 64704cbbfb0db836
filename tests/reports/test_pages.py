"""Pages: whole in one file, escaped, with the numbers of what they show, and small."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages_data import HEIGHT, WIDTH, Page, analysis_case, write_images, write_split

from cspdet.analysis.structures import Analysis, ClassDifference, Comparison, Difference, RunComparison
from cspdet.cli.check_data import read_network_input
from cspdet.datasets.checks.near_duplicates import find_near_duplicates
from cspdet.datasets.checks.statistics import data_statistics
from cspdet.datasets.checks.validate import SplitReport, ValidationReport
from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import UserError
from cspdet.io.outputs import PAGE, SEARCHED_BYTES
from cspdet.reports.analysis_classes import most_confused
from cspdet.reports.analysis_page import write_analysis_page
from cspdet.reports.components import Column, Paragraph, ReportSection, Table
from cspdet.reports.data_images import select_samples
from cspdet.reports.data_input import fit_to_input, log2_histogram
from cspdet.reports.data_page import DatasetReport, data_sections, write_data_page
from cspdet.reports.facts import RunFacts
from cspdet.reports.html import format_cell, render
from cspdet.reports.thumbnails import GalleryBox, ThumbnailEmbedder, square_crop

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script>"
NASTY = ('"><img src=x onerror=alert(1)>', "a&b </script><b>", "{{ 7 * 7 }}")


def analysis_page(
    folder: Path, coco: CocoDataset, *analyses: Analysis, comparison: Comparison | None = None, gallery: int = 8
) -> Page:
    path = folder / "page" / "index.html"
    write_analysis_page(path, analyses, comparison, coco, gallery=gallery)
    return Page(path.read_text(encoding="utf-8"))


def assert_alone(page: Page) -> None:
    """Nothing is fetched: no address but those of images inside the page and of its own sections."""
    without_images = re.sub(r'"data:image/jpeg;base64,[^"]+"', "", page.text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_images)
    assert {tuple(attrs.items()) for attrs in page.attributes("script")} <= {(), (("type", "application/json"),)}
    assert page.attributes("iframe") == page.attributes("object") == []
    images = [str(attrs["src"]) for attrs in page.attributes("img")]
    assert [address[:40] for address in images if not address.startswith("data:image/jpeg;base64,")] == []
    for address in images:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8), 1) is not None
    links = [str(attrs["href"]) for attrs in page.attributes("a")]
    assert [link for link in links if link[0] != "#" or link[1:] not in page.ids] == []
    assert [attrs["href"] for attrs in page.attributes("link")] == ["data:,"]
    (policy,) = [attrs["content"] for attrs in page.attributes("meta") if "http-equiv" in attrs]
    assert str(policy).startswith("default-src 'none'")


# --- the page of an analysis ---------------------------------------------------------------------


@pytest.fixture
def case(tmp_path: Path) -> tuple[CocoDataset, Analysis]:
    return analysis_case(tmp_path)


def test_an_analysis_page_is_whole(tmp_path, case):
    page = analysis_page(tmp_path, *case)
    assert_alone(page)
    expected = [
        *("metrics", "errors", "explore", "classes", "confusion", "curves", "groups", "calibration", "label-issues"),
    ]
    assert [one for one in page.ids if one in expected] == expected
    contents = [attrs["href"] for attrs in page.attributes("a")][1:]
    assert contents == [f"#{name}" for name in expected]
    sortable = [attrs for attrs in page.attributes("th") if "aria-sort" in attrs]
    assert sortable
    assert all(attrs["aria-sort"] == "none" for attrs in sortable)


def test_an_analysis_page_has_the_values_of_the_analysis(tmp_path, case):
    _, analysis = case
    page = analysis_page(tmp_path, *case)
    for name, value in analysis.stats.items():
        thumbnail = dict(
            zip(
                page.column("COCO metrics", "metric"),
                page.column("COCO metrics", "value"),
                strict=True,
            )
        )
        assert thumbnail[name] == ("" if value is None else str(value))
    # 2 of 4 kept detections are correct, and 2 of 4 boxes are detected
    assert "2 of 4 kept detections are correct" in page.plain
    assert "2 of 4 boxes are detected" in page.plain
    by_name = {one.name: one for one in analysis.classes}
    for name, boxes, ap in zip(*(page.column("Classes", heading) for heading in ("class", "boxes", "AP")), strict=True):
        assert (int(boxes), float(ap)) == (by_name[name].num_gt, by_name[name].AP)
    caption = "Error types, detections of any score"
    costs = dict(zip(page.column(caption, "type"), page.column(caption, "AP50 cost"), strict=True))
    assert costs == {one.error_type: str(one.ap_cost) for one in analysis.errors.costs}
    assert sum(int(count) for count in page.column("Calibration", "detections")) == 4


def test_the_confusion_matrix_counts_what_was_made(tmp_path, case):
    page = analysis_page(tmp_path, *case)
    matrix = page.text[page.text.index('<table class="matrix"') :]
    cells = re.findall(r'data-count="(\d+)" style="--part:([\d.]+)%"', matrix)
    # rows disk, star, background; columns disk, star, missed
    assert [int(count) for count, _ in cells] == [1, 1, 0, 0, 1, 1, 1, 0, 0]
    assert [float(part) for _, part in cells] == [50, 50, 0, 0, 50, 50, 100, 0, 0]
    assert page.tables["Most confused pairs"] == [["disk", "star", "1", "0.5"]]


def test_the_worst_images_are_drawn_with_every_box(tmp_path, case):
    page = analysis_page(tmp_path, *case)
    styles = Counter(str(attrs["class"]) for attrs in page.attributes("g") if "overlay" in str(attrs.get("class")))
    # the gallery of the worst shows b.png alone: the others have no errors
    assert styles["overlay gt-missed"] == 2  # the star, and the disk whose detection has the wrong class
    assert styles["overlay detection-wrong"] == 2
    assert "disk 0.95: background" in page.plain
    assert "star 0.70: classification" in page.plain
    assert "2 of 2 boxes missed; detections: 2 wrong, 0 correct" in page.plain


def explorer_data(page: Page) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page.text, re.DOTALL)
    return json.loads(text)


def test_the_data_of_the_slider_are_the_counts_at_every_threshold(tmp_path, case):
    """Of the detections of `analysis_case`: disk .9 and star .8 are correct, star .7 on a disk, disk .95 on nothing."""
    data = explorer_data(analysis_page(tmp_path, *case))
    at = {threshold: k for k, threshold in enumerate(data["thresholds"])}
    assert data["classes"] == ["disk", "star"]
    assert data["boxes"] == [2, 2]
    assert data["thresholds"] == sorted(at)
    places = [at[threshold] for threshold in (0.7, 0.71, 0.9, 0.95, 1.0)]
    counts = {
        key: [[row[k] if k < len(row) else 0 for k in places] for row in rows] for key, rows in data["counts"].items()
    }
    assert counts["correct"] == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert counts["background"] == [[1, 1, 1, 1, 0], [0] * 5]
    assert counts["classification"] == [[0] * 5, [1, 0, 0, 0, 0]]
    assert data["thresholds"][data["best"]] == 0.8  # the best F1: 2 of 3 detections are correct, of 4 boxes


def test_the_slider_starts_at_the_threshold_of_the_analysis(tmp_path, case):
    page = analysis_page(tmp_path, *case)
    (slider,) = [attrs for attrs in page.attributes("input") if attrs["type"] == "range"]
    assert explorer_data(page)["thresholds"][int(str(slider["value"]))] == case[1].threshold == 0.5
    names = ("boxes", "TP", "FP", "FN", "precision", "recall", "F1")
    table = [page.column("Each class at the threshold", name) for name in names]
    assert [[float(row[k]) for row in table] for k in (0, 1)] == [[2, 1, 1, 1, 0.5, 0.5, 0.5]] * 2
    assert page.column("Errors at the threshold", "count") == ["1", "0", "0", "0", "1", "2"]
    tiles = re.findall(r'<dd data-value="(\w+)">([\d.]+)<', page.text)
    assert tiles == list(zip(names, ("4", "2", "2", "2", "0.500", "0.500", "0.500"), strict=True))


def test_boxes_have_the_data_of_the_filters(tmp_path, case):
    page = analysis_page(tmp_path, *case)
    boxes = [attrs for attrs in page.attributes("g") if "data-kind" in attrs]
    assert {(b["data-kind"], b["data-class"], b["data-score"], b.get("data-type")) for b in boxes} == {
        ("annotated", "0", "", None),
        ("annotated", "1", "", None),
        ("detection", "1", "0.7", "classification"),
        ("detection", "0", "0.95", "background"),
    }


def test_detections_below_the_threshold_wait_for_the_slider(tmp_path):
    """With a threshold of .75, the wrong detection of .7 in b.png is hidden."""
    coco, analysis = analysis_case(tmp_path, min_score=0.75)
    page = analysis_page(tmp_path, coco, analysis)
    boxes = {b["data-score"]: "hidden" in b for b in page.attributes("g") if b.get("data-kind") == "detection"}
    assert boxes == {"0.95": False, "0.7": True}
    assert [one.score for one in analysis.worst_images[0].other_detections] == [0.7]


def test_the_head_names_model_and_command(tmp_path, case, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/cspdet", "analyze", "a run", f"--data=https://me:secret@x/{EVIL}"])
    path = tmp_path / "page.html"
    facts = RunFacts("net, epoch 3", "csppeleenet + efm", "416 x 320", "run/config.yaml", "2026-01-02 03:04")
    write_analysis_page(path, [case[1]], None, case[0], gallery=0, run_facts=[facts])
    page = Page(path.read_text())
    for text in (*dataclasses.astuple(facts), "cspdet analyze 'a run'", "<script>", "torch"):
        assert text in page.plain
    assert "secret" not in page.text
    assert EVIL not in page.text


def test_a_command_recognizes_its_own_page(tmp_path, case):
    """The mark is in the last 64 KiB of the file, however many images and data the page has."""
    page = analysis_page(tmp_path, *case)
    assert PAGE.search(page.text.encode()[-SEARCHED_BYTES // 2 :])


@pytest.mark.parametrize("gallery", [0, 1])
def test_a_gallery_shows_no_more_than_requested(tmp_path, case, gallery):
    page = analysis_page(tmp_path, *case, gallery=gallery)
    assert len(page.attributes("img")) <= 4 * gallery


def test_names_are_text_whatever_they_say(tmp_path):
    coco, analysis = analysis_case(tmp_path, (EVIL, NASTY[0]), name=NASTY[1])
    page = analysis_page(tmp_path, coco, analysis)
    assert_alone(page)
    assert len(page.attributes("script")) == 2  # the data of the slider, and the script of the page
    assert page.attributes("b") == []
    assert EVIL in page.column("Classes", "class")
    assert NASTY[0] in page.column("Classes", "class")
    assert f"Analysis of {NASTY[1]}" in page.plain


def test_templates_do_not_run_what_they_show():
    page = Page(render(NASTY[2], NASTY[0], [ReportSection("one", NASTY[2], EVIL, (Paragraph(NASTY[2]),))]))
    assert "49" not in page.plain
    assert page.plain.count("{{ 7 * 7 }}") == 5  # title, heading, contents, section, paragraph


def test_images_that_cannot_be_read_are_counted(tmp_path, case):
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    page = analysis_page(tmp_path, *case)
    assert_alone(page)
    assert "1 images cannot be read and are omitted" in page.plain


def test_a_run_without_detections_has_a_page(tmp_path, case):
    from cspdet.analysis.build import analyze_results

    coco, _ = case
    page = analysis_page(tmp_path, coco, analyze_results(coco, [], name="empty"))
    assert "There are no detections to calibrate" in page.plain


def test_a_page_that_cannot_be_written_is_the_users_error(tmp_path, case):
    (tmp_path / "page").write_text("a file, where a folder is expected")
    with pytest.raises(UserError, match="page"):
        analysis_page(tmp_path, *case)


# --- several runs --------------------------------------------------------------------------------


def made_comparison(*, real: bool) -> Comparison:
    low = -0.3 if real else -0.4
    high = -0.1 if real else 0.2
    ap, ap50 = (
        Difference(name, 0.5, 0.3, -0.2, -0.21, low, high, 0.01 if real else 0.4, real) for name in ("AP", "AP50")
    )
    classes = (
        ClassDifference("disk", 3, 0.5, 0.25, -0.25, -0.5, -0.1, -0.125),
        ClassDifference("star", 1, 0.5, 0.75, 0.25, 0.1, 0.5, 0.5),
    )
    return Comparison(("first", "second"), 1000, 0, (RunComparison("first", "second", ap, ap50, classes),))


def test_runs_stand_side_by_side(tmp_path, case):
    coco, first = case
    second = dataclasses.replace(first, name="second")
    page = analysis_page(tmp_path, coco, first, second, comparison=made_comparison(real=True))
    assert_alone(page)
    assert page.ids.index("comparison") < page.ids.index("run1-metrics") < page.ids.index("run2-metrics")
    assert page.column("Runs", "run") == ["first", "second"]
    assert page.column("Differences by class", "difference") == ["-0.25", "0.25"]
    assert "second, AP -0.200: significant difference (95% interval -0.300 to -0.100, p = 0.010)" in page.plain


def test_a_difference_by_chance_is_called_so(tmp_path, case):
    coco, first = case
    page = analysis_page(tmp_path, coco, first, first, comparison=made_comparison(real=False))
    assert "no significant difference" in page.plain
    assert "difference is real (" not in page.plain


# --- the page of a dataset ----------------------------------------------------------------------


def data_case(folder: Path) -> dict[str, CocoDataset]:
    """Two splits of three images; t1.png and v1.png are the same."""
    sets = {}
    for split, seed in (("train", 1), ("val", 2)):
        names = [f"{split[0]}{i}.png" for i in range(3)]
        write_images(folder / split, names, seed)
        boxes = [
            [0, 0, 0, 0, 100, 100, 0],
            [0, 1, 50, 50, 25, 25, 0],
            [1, 0, 10, 10, 100, 100, 0],
            [1, 1, 0, 0, 90, 90, 1],
        ]
        path = write_split(folder, split, ["disk", "star"], names, boxes)
        sets[split] = load_coco(SplitFiles(folder / split, path), split)
    smooth = cv2.resize(np.random.default_rng(5).integers(0, 256, (12, 18, 3), dtype=np.uint8), (WIDTH, HEIGHT))
    for name in ("train/t1.png", "val/v1.png"):
        cv2.imwrite(str(folder / name), smooth)
    return sets


def data_page(
    folder: Path, report: ValidationReport, figures: DatasetReport, sets: dict[str, CocoDataset], samples: int = 2
) -> Page:
    path = folder / "data.html"
    write_data_page(path, "made", report, figures, sets, samples=samples)
    return Page(path.read_text(encoding="utf-8"))


def test_a_data_page_shows_the_figures(tmp_path):
    sets = data_case(tmp_path)
    statistics = {name: data_statistics(coco) for name, coco in sets.items()}
    report = ValidationReport(
        {"train": SplitReport(warnings=["a note"]), "val": SplitReport(errors=["an error"])}, SplitReport()
    )
    fit = fit_to_input(read_network_input(ROOT / "configs/csppelee_efm_sam.yaml", ["input.size=[320, 480]"]), sets)
    page = data_page(tmp_path, report, DatasetReport(statistics, find_near_duplicates(sets), fit), sets)
    assert_alone(page)
    expected = [
        "issues",
        "splits",
        "classes",
        "sizes",
        "aspect-ratios",
        "boxes-per-image",
        "positions",
        "input",
        "near-duplicates",
        "samples",
    ]
    assert [one for one in page.ids if one in expected] == expected
    assert "an error" in page.plain
    assert "a note" in page.plain
    assert page.column("Splits", "boxes") == ["4", "4"]
    assert page.column("Splits", "crowds") == ["1", "1"]
    assert page.column("Classes", "train boxes") == ["2", "1"]
    assert page.column("Classes", "val images") == ["2", "1"]
    assert page.column("Classes", "train median side") == ["100.0", "25.0"]
    assert page.column("Pairs", "other image") == ["v1.png"]
    # two of three boxes a split are 100 pixels large, in the bin from 2^6.5 = 90.5 to 2^7
    assert page.column("side in pixels, by bin", "train") == ["1", "0", "0", "0", "2"]
    assert "1 of 2 boxes are disk" in " ".join(str(attrs["alt"]) for attrs in page.attributes("img"))


@pytest.mark.parametrize(
    ("errors", "warnings", "title"),
    [(["an error"], ["a note"], "Problems"), ([], ["a note"], "Notes"), ([], [], "Checks")],
)
def test_the_heading_names_problems_only_if_there_are_some(errors, warnings, title):
    report = ValidationReport({"train": SplitReport(errors=errors, warnings=warnings)}, SplitReport())
    section = data_sections(report, DatasetReport({}), {}, 0)[0]
    assert section.title == title
    assert ("1 note." in section.lead) == bool(warnings)


def test_data_without_boxes_or_readable_splits_has_a_page(tmp_path):
    broken = ValidationReport({"train": SplitReport(errors=["train.json: not JSON"])}, SplitReport())
    page = data_page(tmp_path, broken, DatasetReport({}), {})
    assert [one for one in page.ids if one in ("issues", "splits")] == ["issues"]
    write_images(tmp_path / "images", ["a.png"])
    path = write_split(tmp_path, "val", ["disk"], ["a.png"], [])
    coco = load_coco(SplitFiles(tmp_path / "images", path), "val")
    page = data_page(
        tmp_path,
        ValidationReport({"val": SplitReport()}, SplitReport()),
        DatasetReport({"val": data_statistics(coco)}),
        {"val": coco},
    )
    assert "sizes" not in page.ids
    assert "No errors" in page.plain


def test_anchors_are_measured_at_the_input(tmp_path):
    """Images of 240x160 in an input of 480x320 (width x height) are doubled: a box of 5x6.5 is the anchor 10x13."""
    write_images(tmp_path / "images", ["a.png"])
    path = write_split(tmp_path, "val", ["disk"], ["a.png"], [[0, 0, 1, 1, 5, 6.5, 0]])
    sets = {"val": load_coco(SplitFiles(tmp_path / "images", path), "val")}
    fit = fit_to_input(read_network_input(ROOT / "configs/csppelee_efm_sam.yaml", ["input.size=[320, 480]"]), sets)
    assert fit.network.anchors_wh[0] == (10, 13)
    assert fit.network.strides == (8, 8, 8, 16, 16, 16, 32, 32, 32)
    assert fit.fits["val"].mean_iou == pytest.approx(1)
    assert fit.fits["val"].best_match_fraction == (1, *[0] * 8)
    assert fit.sides["val"].quantiles == pytest.approx([math.sqrt(130)] * 3)


@given(st.lists(st.floats(0.01, 5000), min_size=1, max_size=8))
def test_octaves_hold_every_value(values):
    found = log2_histogram(np.array(values))
    assert sum(found.counts) == len(values)
    assert found.counts[0] > 0
    assert found.counts[-1] > 0
    assert found.edges[0] <= min(values) * (1 + 1e-12)
    assert max(values) < found.edges[-1] * (1 + 1e-12)


def test_samples_are_spread_over_the_set(tmp_path):
    names = [f"{i}.png" for i in range(9)]
    boxes = [[i, i % 2, 0, 0, 10, 10, int(i == 8)] for i in range(9)]  # the disk of image 8 is a crowd
    path = write_split(tmp_path, "val", ["disk", "star"], names, boxes)
    coco = load_coco(SplitFiles(tmp_path, path), "val")
    assert select_samples(coco, 0, 9) == [0, 2, 4, 6]
    assert select_samples(coco, 1, 2) == [1, 7]
    assert select_samples(coco, 0, 0) == []


# --- images ------------------------------------------------------------------------------------


def test_boxes_are_drawn_in_units_of_the_drawing(tmp_path):
    write_images(tmp_path, ["a.png"])  # 240x160 are drawn 480x320
    boxes = [GalleryBox((10, 20, 40, 60), "box0", "M", "a disk"), GalleryBox((-50, -50, -10, -10), "box0")]
    thumbnail = ThumbnailEmbedder().add(tmp_path / "a.png", boxes, "alt")
    assert thumbnail is not None
    (overlay,) = thumbnail.overlays  # the other lies outside
    assert (thumbnail.width, thumbnail.height) == (480, 320)
    assert (overlay.x, overlay.y, overlay.width, overlay.height) == (20, 40, 60, 80)


def test_a_crop_moves_its_boxes(tmp_path):
    write_images(tmp_path, ["a.png"])
    thumbnail = ThumbnailEmbedder().add(
        tmp_path / "a.png", [GalleryBox((60, 50, 80, 70), "label-issue")], "alt", crop_xyxy=(40, 40, 120, 120)
    )
    assert thumbnail is not None
    assert (thumbnail.width, thumbnail.height) == (480, 480)  # 80 pixels: six units each
    assert [(overlay.x, overlay.y, overlay.width, overlay.height) for overlay in thumbnail.overlays] == [
        (120, 60, 120, 120)
    ]


def test_a_crop_beyond_the_image_keeps_what_there_is(tmp_path):
    write_images(tmp_path, ["a.png"])
    embedder = ThumbnailEmbedder()
    for crop in ((-100, -100, 60, 60), (230, 150, 999, 999), (500, 500, 600, 600)):
        thumbnail = embedder.add(tmp_path / "a.png", (), "alt", crop_xyxy=crop)
        assert thumbnail is not None
        assert max(thumbnail.width, thumbnail.height) == 480


@given(st.tuples(*[st.floats(0, 2000)] * 2, *[st.floats(0.1, 2000)] * 2))
def test_a_crop_holds_its_box_in_the_middle(values):
    x, y, width, height = values
    x1, y1, x2, y2 = square_crop((x, y, x + width, y + height))
    assert x2 - x1 == pytest.approx(y2 - y1)
    assert (x1 + x2) / 2 == pytest.approx(x + width / 2, abs=1e-6)
    assert x1 < x
    assert x2 > x + width
    assert (y1 + y2) / 2 == pytest.approx(y + height / 2, abs=1e-6)


def test_thumbnails_stop_at_the_size_limit(tmp_path):
    names = [f"{i}.png" for i in range(4)]
    write_images(tmp_path, names)
    size = len(ThumbnailEmbedder().add(tmp_path / names[0], (), "").data_url)  # type: ignore[union-attr]
    embedder = ThumbnailEmbedder(max_bytes=round(2.5 * size))  # noise images of one size compress alike
    thumbnail = [embedder.add(tmp_path / name, (), "") for name in names]
    assert [one is not None for one in thumbnail] == [True, True, False, False]
    assert embedder.used_bytes <= embedder.max_bytes
    assert embedder.messages() == ("2 more images are omitted to limit the size of this page",)


# --- tables --------------------------------------------------------------------------------------


def test_the_most_confused_classes_are_kept():
    counts = np.diag([50, 50, 50, 50, 0])
    counts[2, 0], counts[3, 1], counts[1, 4] = 3, 1, 40  # misses are no confusion
    assert most_confused(counts, 2) == [0, 2, 4]
    assert most_confused(counts, 20) == [0, 1, 2, 3, 4]


def test_values_are_formatted_as_their_columns_say():
    assert format_cell(None, Column("x")) == "–"
    assert format_cell(1234567, Column("x", None, True)) == "1\N{THIN SPACE}234\N{THIN SPACE}567"
    assert format_cell(-0.25, Column("x", 3, True, signed=True)) == "\N{MINUS SIGN}0.250"
    assert format_cell(0.25, Column("x", 1, True, signed=True)) == "+0.2"
    assert format_cell(70.1987, Column("x", None, True)) == "70.2"
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        Table("t", (Column("a"), Column("b")), (("x",),))


@pytest.mark.e2e
def test_many_classes_and_images_stay_small(tmp_path):
    """80 classes and galleries of images that hardly compress: at most 15 MB."""
    from cspdet.analysis.build import analyze_results

    names, rng = [f"{i}.png" for i in range(60)], np.random.default_rng(0)
    write_images(tmp_path / "images", names[:5], size_hw=(480, 480))
    for name in names[5:]:
        (tmp_path / "images" / name).symlink_to(tmp_path / "images" / names[int(name[:-4]) % 5])
    boxes = [[i % 60, i % 80, *rng.integers(0, 100, 2).tolist(), 40, 40, 0] for i in range(1600)]
    path = write_split(tmp_path, "val", [f"class {i}" for i in range(80)], names, boxes)
    coco = load_coco(SplitFiles(tmp_path / "images", path), "val")
    columns = (rng.integers(0, 60, 6000), rng.integers(0, 80, 6000), rng.integers(0, 110, (6000, 2)), rng.random(6000))
    results = [
        {"image_id": 7 * i, "category_id": 10 + c, "bbox": [*xy, 40.0, 40.0], "score": score}
        for i, c, xy, score in zip(*(column.tolist() for column in columns), strict=True)
    ]
    page = analysis_page(
        tmp_path, coco, analyze_results(coco, results, name="big", min_score=0.3, gallery=60), gallery=60
    )
    assert_alone(page)
    assert len(page.attributes("img")) > 30
    assert len(page.text.encode()) < 15e6
    # four classes are drawn from the start in three charts; the filters have 80 classes and 6 error types, and all
    assert len(page.attributes("option")) == 3 * (80 - 4 + 1) + 81 + 7
    assert len(page.tables["Classes"]) == 80
    assert "the 20 most confused of 80 classes" in page.plain
    assert page.plain.count("more images are omitted to limit the size of this page") == 1
