"""The pages in a browser: no error and no horizontal scroll, live counts, filters, and enlarged images by keyboard.

The tests need playwright (`pip install 'cspdet[browser]'`) and a Chromium, and are skipped without them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages_data import write_images, write_split

from cspdet.analysis.build import analyze_results
from cspdet.analysis.comparison import compare, with_changed_images
from cspdet.analysis.matched_run import match_results
from cspdet.analysis.structures import Analysis
from cspdet.datasets.checks.statistics import data_statistics
from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.reports.analysis_page import write_analysis_page
from cspdet.reports.run_metrics import read_runs
from cspdet.reports.run_report import RunReport, write_run_report

playwright_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.e2e

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
CLASSES = ["disk", "<img src=x onerror=document.title='run'>", "star"]
NAMES = [f"{i} <b>&.png" for i in range(5)]
WRONG = ("classification", "localization", "both", "duplicate", "background")
Box = tuple[float, float, float, float]
Result = dict[str, Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=installed, args=ARGUMENTS)
        except playwright_api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Case:
    """Five images with eight random boxes each, and random detections of two runs."""

    def __init__(self, folder: Path):
        rng = np.random.default_rng(3)
        write_images(folder / "images", NAMES)
        rows, self.boxes, self.results = [], list[tuple[int, int, Box]](), list[Result]()
        for image in range(len(NAMES)):
            for _ in range(8):
                box = (*rng.uniform(0, 160, 1), *rng.uniform(0, 90, 1), *rng.uniform(20, 60, 2))
                class_id = int(rng.integers(3))
                rows.append([image, class_id, *box, 0])
                self.boxes.append((7 * image, class_id, box))
                for _ in range(int(rng.integers(3))):
                    shifted = (np.array(box) + rng.normal(0, 4, 4)).tolist()
                    found = int(rng.integers(3)) if rng.random() < 0.3 else class_id
                    self.add_result(7 * image, found, shifted, float(rng.uniform(0.06, 1)))
            self.add_result(7 * image, int(rng.integers(3)), [0.0, 0.0, 15.0, 15.0], float(rng.uniform(0.06, 1)))
        path = write_split(folder, "val", CLASSES, NAMES, rows)
        self.coco: CocoDataset = load_coco(SplitFiles(folder / "images", path), "val")
        self.analysis: Analysis = analyze_results(self.coco, self.results, name="first")

    def add_result(self, image_id: int, class_id: int, box: list[float], score: float) -> None:
        self.results.append({"image_id": image_id, "category_id": 10 + class_id, "bbox": box, "score": score})

    def expected(self, threshold: float, classes: tuple[int, ...]) -> list[str]:
        """Boxes, TP, FP, FN, precision, recall and F1 as texts, by greedy matching in plain Python."""
        num_boxes, tp, fp = sum(one in classes for _, one, _ in self.boxes), 0, 0
        free = dict(enumerate(self.boxes))
        for result in sorted(self.results, key=lambda one: -one["score"]):
            class_id = result["category_id"] - 10
            if result["score"] < threshold or class_id not in classes:
                continue
            key = (result["image_id"], class_id)
            overlaps = {k: iou(result["bbox"], box) for k, (*place, box) in free.items() if tuple(place) == key}
            best = max(overlaps, key=lambda k: overlaps[k], default=None)
            if best is not None and overlaps[best] >= 0.5:
                tp += 1
                del free[best]
            else:
                fp += 1
        fractions = (ratio(tp, tp + fp), ratio(tp, num_boxes), ratio(2 * tp, num_boxes + tp + fp))
        return [*map(str, (num_boxes, tp, fp, num_boxes - tp)), *fractions]


def ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "–"


def iou(a: list[float], b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def pages(case, tmp_path_factory) -> dict[str, Path]:
    """The page of one run, of two runs, and the report of a training."""
    folder, coco = tmp_path_factory.mktemp("pages"), case.coco
    paths = {name: folder / f"{name}.html" for name in ("one", "two", "report")}
    write_analysis_page(paths["one"], [case.analysis], None, coco, gallery=4)
    fewer = [one for one in case.results if one["score"] > 0.4]
    second = analyze_results(coco, fewer, name="second")
    runs = [match_results(coco, results) for results in (case.results, fewer)]
    comparison = compare(runs, ("first", "second"), resamples=5)
    comparison = with_changed_images(comparison, runs, (case.analysis.threshold, second.threshold), 4)
    write_analysis_page(paths["two"], [case.analysis, second], comparison, coco, gallery=4)
    lines = [{"epoch": i, "loss": 3 / i, "AP": i / 10, "lr": 0.1 / i} for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = RunReport(folder, (("model", CLASSES[1]),), "a: 1\n" * 99, 3, True, read_runs([folder])[0], case.analysis)
    report = dataclasses.replace(report, val_set=coco, statistics={"val": data_statistics(coco)})
    write_run_report(paths["report"], report)
    return paths


@pytest.fixture
def open_page(browser, pages) -> Iterator[Any]:
    """Returns a function that opens a page; at the end, no page may have had an error."""
    problems: list[str] = []
    contexts = []

    def open_one(name: str, width: int = 1280) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            has_touch=width < 600,
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if request.url[:5] == "http:" else None)
        page.goto(pages[name].as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == []


@pytest.mark.parametrize("name", ["one", "two", "report"])
def test_pages_fit_the_window_without_an_error(open_page, name):
    page = open_page(name)
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme, color in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == color
    assert page.title() != "run"  # the class name is no markup
    assert page.locator("img:not([src^='data:image/jpeg'])").count() == 0


def tiles(page: Any) -> list[str]:
    return page.locator(".explorer dd").all_inner_texts()


def table_rows(page: Any, name: str) -> dict[str, list[str]]:
    """The visible rows of a table of the explorer: the cells by the text of the first cell."""
    rows = page.locator(f"[data-table={name}] tbody tr:not([hidden])").all()
    return {cells[0]: cells[1:] for cells in (row.locator("th, td").all_inner_texts() for row in rows)}


def test_the_slider_and_the_filters_change_the_counts(open_page, case):
    page, counts = open_page("one"), case.analysis.threshold_counts
    slider, (by_class, by_type) = page.get_by_role("slider"), page.locator(".controls select").all()
    assert tiles(page) == case.expected(case.analysis.threshold, (0, 1, 2))
    for index in (0, 30, 80):
        slider.fill(str(index))
        threshold = float(counts.threshold[index])
        assert page.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == f"{threshold:.3f}"
        assert tiles(page) == case.expected(threshold, (0, 1, 2))
        expected = {name: case.expected(threshold, (i,)) for i, name in enumerate(CLASSES)}
        assert table_rows(page, "classes") == expected
        wrong = {name: str(counts.counts[name][:, index].sum()) for name in WRONG}
        assert {k: v[0] for k, v in table_rows(page, "types").items()} == {**wrong, "missed": tiles(page)[3]}
    slider.fill("30")
    by_class.select_option("2")
    assert tiles(page) == case.expected(float(counts.threshold[30]), (2,))
    assert list(table_rows(page, "classes")) == ["star"]
    by_type.select_option("background")
    assert table_rows(page, "types") == {"background": [str(counts.counts["background"][2, 30])]}
    by_class.select_option("")
    by_type.select_option("")
    page.get_by_role("button", name="use best F1").click()
    assert tiles(page) == case.expected(case.analysis.thresholds.best_f1_point.threshold, (0, 1, 2))


def test_the_slider_and_the_filters_select_boxes_and_images(open_page, case):
    page = open_page("one")
    slider, (by_class, by_type) = page.get_by_role("slider"), page.locator(".controls select").all()
    cards, boxes = page.locator("[data-gallery=run1] .card"), page.locator("[data-gallery=run1] .overlay:not([hidden])")
    worst = case.analysis.worst_images
    for index in (20, 70):
        slider.fill(str(index))
        threshold = float(case.analysis.threshold_counts.threshold[index])
        for image, card in zip(worst, cards.all(), strict=False):
            found = [one for one in (*image.detections, *image.other_detections) if one.score >= threshold]
            right = sum(one.detection_type == "correct" for one in found)
            missed = sum(one.score is None or one.score < threshold for one in image.annotations)
            caption = f"boxes: {missed} missed; detections: {len(found) - right} wrong, {right} correct"
            assert card.locator("p").inner_text() == caption
            assert card.locator(".overlay:not([hidden])").count() == missed + len(found) - right
    page.get_by_label("annotated", exact=True).uncheck()
    assert {box.get_attribute("data-kind") for box in boxes.all()} == {"detection"}
    page.get_by_label("annotated", exact=True).check()
    by_type.select_option("missed")
    by_class.select_option("1")
    kinds = {(box.get_attribute("data-kind"), box.get_attribute("data-class")) for box in boxes.all()}
    assert kinds == {("annotated", "1")}
    visible = page.locator("[data-gallery=run1] .card:visible").count()
    assert page.locator("[data-gallery=run1] [role=status]").inner_text() == f"{visible} of 4 images have such errors."


def test_the_slider_works_by_keyboard(open_page, case):
    page = open_page("one")
    slider = page.get_by_role("slider")
    slider.focus()
    start = int(slider.input_value())
    page.keyboard.press("ArrowRight")
    threshold = float(case.analysis.threshold_counts.threshold[start + 1])
    assert tiles(page) == case.expected(threshold, (0, 1, 2))


def test_enlarged_images_open_move_and_close_by_keyboard(open_page):
    page = open_page("one")
    button, position = page.locator(".enlarge").nth(1), page.locator("dialog .position")
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    assert position.inner_text() == "2 of 4"
    page.keyboard.press("ArrowRight")
    assert position.inner_text() == "3 of 4"
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert position.inner_text() == "4 of 4"
    for _ in range(9):  # Tab stays in the dialog, which has six stops
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('dialog') !== null")
    before = page.locator("dialog .boxes li").count()
    page.locator("dialog").get_by_label("also the correct ones").check()
    assert page.locator("dialog .boxes li").count() > before
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement.closest('.card').querySelector('h4').textContent") == (
        page.locator(".card h4").nth(3).text_content()
    )


def test_enlarged_images_move_by_swipes_on_a_phone(open_page):
    page = open_page("one", 375)
    page.locator(".enlarge").first.tap()
    swipe = """(x) => {
      const stage = document.querySelector("dialog .stage");
      const touch = (clientX) => new Touch({ identifier: 1, target: stage, clientX, clientY: 300 });
      stage.dispatchEvent(new TouchEvent("touchstart", { touches: [touch(180)], changedTouches: [touch(180)] }));
      stage.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: [touch(180 + x)] }));
    }"""
    places = []
    for distance in (-90, -90, 90, 10):
        page.evaluate(swipe, distance)
        places.append(page.locator("dialog .position").inner_text())
    assert places == ["2 of 4", "3 of 4", "2 of 4", "2 of 4"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_role("button", name="Close").tap()
    assert not page.locator("dialog").is_visible()


def test_two_runs_have_boxes_before_and_after(open_page):
    page = open_page("two")
    gallery = page.locator(".gallery-block[data-layer]")
    layers = {name: gallery.locator(f"[data-layer={name}]") for name in ("before", "after")}
    assert layers["before"].first.is_visible()
    assert not layers["after"].first.is_visible()
    gallery.get_by_label("after").check()
    assert layers["after"].first.is_visible()
    assert not layers["before"].first.is_visible()
    gallery.locator(".enlarge").first.click()
    page.locator("dialog").get_by_label("before").check()
    assert page.locator("dialog [data-layer=before].overlay").first.is_visible()
    assert not page.locator("dialog [data-layer=after].overlay").first.is_visible()
