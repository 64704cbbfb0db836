"""Anchors: figures by hand, laws of recall and k-means, and a command whose words train can take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cspdet.cli.main import main
from cspdet.config.input import InputConfig
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.detection.anchors import (
    best_anchors,
    best_possible_recall,
    box_sizes_at_input,
    evaluate_anchors,
    kmeans_anchors,
)
from cspdet.datasets.formats.coco import load_coco
from cspdet.errors import DataError
from cspdet.models.config import YoloHeadConfig
from cspdet.models.head import Anchors
from cspdet.recipe import load_recipe
from cspdet.structures import Targets
from cspdet.training.assigners.anchor_iou import assign_by_anchor_iou
from cspdet.training.assigners.priors import PriorLayout

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/csppelee_efm.yaml"

SIDES = st.floats(0.5, 600)
ANCHORS = arrays(np.float64, st.tuples(st.integers(1, 9), st.just(2)), elements=SIDES)
BOXES = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=SIDES)


def test_figures_by_hand():
    boxes = np.array([[10.0, 10.0], [20.0, 10.0], [40.0, 40.0], [4.0, 4.0]])
    anchors = np.array([[10.0, 10.0], [20.0, 20.0]])
    # IoU with the first: 1, 1/2, 1/16, 16/100; with the second: 1/4, 1/2, 1/4, 16/400
    best = best_anchors(boxes, anchors)
    assert best.iou == pytest.approx([1, 0.5, 0.25, 0.16])
    assert best.anchor.tolist() == [0, 0, 1, 0]  # of equals the first
    fit = evaluate_anchors(boxes, anchors, 0.2)
    assert fit.recall == best_possible_recall(boxes, anchors, 0.2) == 0.75
    assert fit.recall50 == 0.25  # 1/2 is not above 1/2
    assert fit.mean_iou == pytest.approx(1.91 / 4)
    assert fit.anchors_per_box == (2 + 2 + 1 + 1) / 4  # above 0.2, and the best in any case
    assert fit.best_match_fraction == (0.75, 0.25)
    without = evaluate_anchors(boxes, anchors, None)
    assert (without.recall, without.anchors_per_box) == (None, 1.0)


@settings(max_examples=50)
@given(BOXES, ANCHORS, st.floats(0.05, 0.9))
def test_recall_lies_within_0_and_1_and_falls_with_the_threshold(boxes, anchors, match_iou):
    recall = best_possible_recall(boxes, anchors, match_iou)
    assert 0 <= recall <= 1
    assert recall >= best_possible_recall(boxes, anchors, match_iou + 0.05)
    assert best_possible_recall(boxes, np.concatenate((anchors, boxes[:1])), match_iou) >= recall
    assert best_possible_recall(boxes[::-1], anchors[::-1], match_iou) == recall
    assert sum(evaluate_anchors(boxes, anchors, match_iou).best_match_fraction) == pytest.approx(1)


@given(BOXES, st.floats(0.05, 0.99))
def test_boxes_that_are_anchors_are_all_recalled(boxes, match_iou):
    assert best_possible_recall(boxes, boxes, match_iou) == 1


@settings(max_examples=40)
@given(BOXES, st.sampled_from([None, 0.213, 0.6]))
def test_the_anchors_that_answer_are_those_of_training(boxes, match_iou):
    # One image a box, so that no two boxes want one slot.
    anchors = Anchors(YoloHeadConfig(), (8, 16, 32))
    corners = torch.cat((torch.zeros(len(boxes), 2), torch.from_numpy(boxes).float()), dim=1)
    count = torch.arange(len(boxes))
    targets = Targets(count, torch.zeros_like(count), corners, torch.zeros(len(boxes), dtype=torch.bool))
    layout = PriorLayout.from_level_sizes([(76, 76), (38, 38), (19, 19)], 3, torch.device("cpu"))
    given_to = assign_by_anchor_iou(targets, anchors, layout, match_iou)
    fit = evaluate_anchors(boxes.astype(np.float32), anchors.wh.flatten(0, 1).numpy(), match_iou)
    assert fit.anchors_per_box * len(boxes) == pytest.approx(len(given_to.prior), abs=1)  # float32 against float64


# --- k-means -------------------------------------------------------------------------------------


def test_kmeans_finds_clusters_that_are_there():
    rng = np.random.default_rng(0)
    centers = np.array([[10.0, 30.0], [60.0, 20.0], [100.0, 140.0]])
    boxes = (centers[:, None] + rng.normal(0, 0.5, (3, 200, 2))).reshape(-1, 2)
    found = kmeans_anchors(boxes, 3, 0)
    assert found == pytest.approx(centers, abs=0.3)  # ascending by area: 300, 1200, 14000


def test_one_anchor_is_the_median_or_the_box_that_is_better():
    boxes = np.array([[10.0, 50.0], [12.0, 10.0], [90.0, 40.0]])
    # its seed is one of the boxes and its first step the median (12, 40); the best of both over all restarts is kept
    found = kmeans_anchors(boxes, 1, 0)
    candidates = np.concatenate((boxes, np.median(boxes, axis=0)[None]))
    best = max(best_anchors(boxes, wh[None]).iou.mean() for wh in candidates)
    assert best_anchors(boxes, found).iou.mean() == pytest.approx(best)


@settings(max_examples=20)
@given(BOXES, st.integers(1, 5), st.integers(0, 3), st.randoms(use_true_random=False))
def test_kmeans_depends_on_boxes_and_seed_alone(boxes, count, seed, random):
    boxes = np.round(boxes, 1)
    if len(np.unique(boxes, axis=0)) < count:
        with pytest.raises(DataError, match="different box sizes"):
            kmeans_anchors(boxes, count, seed)
        return
    found = kmeans_anchors(boxes, count, seed)
    order = list(range(len(boxes)))
    random.shuffle(order)
    assert (kmeans_anchors(boxes[order], count, seed) == found).all()
    assert found.shape == (count, 2)
    assert (found > 0).all()
    assert (np.diff(found.prod(axis=1)) >= -1e-9).all()
    assert found.min() >= boxes.min() - 0.05
    assert found.max() <= boxes.max() + 0.05


def test_as_many_anchors_as_sizes_fit_every_box():
    boxes = np.array([[10.0, 20.0], [30.0, 31.0], [70.0, 9.0], [200.0, 111.0]])
    found = kmeans_anchors(np.repeat(boxes, 5, axis=0), 4, 0)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, boxes.tolist()))
    assert best_possible_recall(boxes, found, 0.99) == 1


def test_many_boxes_are_sampled_and_rare_sizes_still_count():
    boxes = np.concatenate((np.full((30_000, 2), 50.0), [[10.0, 10.0], [300.0, 200.0]]))
    found = kmeans_anchors(boxes, 3, 0)
    assert found.tolist() == [[10.0, 10.0], [50.0, 50.0], [300.0, 200.0]]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((0, 2)), "found none"),
        (np.array([[3.0, 4.0], [0.0, 4.0]]), "found 1 others of 2; the first, box 1, is 0x4"),
        (np.array([[np.nan, 4.0]]), "the first, box 0, is nanx4"),
        (np.array([[3.0, np.inf], [-1.0, 2.0]]), "found 2 others of 2"),
    ],
)
def test_sizes_that_are_none_are_refused(boxes, message):
    for call in (
        lambda: kmeans_anchors(boxes, 1, 0),
        lambda: best_possible_recall(boxes, np.ones((1, 2)), 0.5),
        lambda: evaluate_anchors(boxes, np.ones((1, 2)), 0.5),
    ):
        with pytest.raises(DataError, match=message):
            call()


# --- the command ---------------------------------------------------------------------------------


def write_set(folder: Path, boxes: list[list[float]], crowd: list[float] | None = None) -> Path:
    """A train split: an image of 200x100 (width x height) and one of 100x100, with the same boxes each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    annotations, images = [], []
    for number, width in enumerate((200, 100)):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.zeros((100, width, 3), np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": 100, "width": width})
        annotations += [{"image_id": number, "category_id": 1, "bbox": box} for box in boxes]
    if crowd:
        annotations.append({"image_id": 0, "category_id": 1, "bbox": crowd, "iscrowd": 1})
    for number, entry in enumerate(annotations):
        entry["id"] = number
    content = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text("train: {images: images, annotations: train.json}\n")
    return folder / "data.yaml"


VARIED = [[0, 0, 10 + 3 * i, 8 + 5 * (i % 7)] for i in range(12)]


def test_boxes_are_measured_in_the_input(tmp_path):
    descriptor = load_dataset_config(write_set(tmp_path, [[10, 10, 20, 40]], crowd=[0, 0, 50, 50]))
    coco = load_coco(descriptor.split("train"), "train")
    # 200x100 into 400x400 keeps its aspect at 2; 100x100 at 4. Stretched: 2 across and 4 down, and 4 both ways.
    letterboxed = box_sizes_at_input(coco, InputConfig(size=(400, 400)))
    assert letterboxed.tolist() == [[40, 80], [80, 160]]
    stretched = box_sizes_at_input(coco, InputConfig(size=(400, 400), resize="stretch"))
    assert stretched.tolist() == [[40, 160], [80, 160]]


def test_the_override_that_is_printed_trains_with_the_anchors(tmp_path, capsys):
    data = write_set(tmp_path, VARIED)
    assert main(["anchors", str(data), "--config", str(CONFIG), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = document["kmeans_anchors"]
    recipe = load_recipe(CONFIG, [found["override"]])
    assert json.loads(json.dumps(recipe.model.head.anchors)) == found["anchors"]
    assert [len(level) for level in found["anchors"]] == [3, 3, 3]
    areas = [w * h for level in found["anchors"] for w, h in level]
    assert areas == sorted(areas)
    assert document["config_anchors"]["anchors"][0] == [[10, 13], [16, 30], [33, 23]]
    assert (document["boxes"], document["size"], document["strides"]) == (24, [416, 416], [8, 16, 32])
    assert document["match_iou"] == recipe.train.assigner.match_iou == 0.213
    assert found["mean_iou"] > document["config_anchors"]["mean_iou"]


def test_anchors_given_back_as_the_own_ones_have_the_same_figures(tmp_path, capsys):
    data = str(write_set(tmp_path, VARIED))
    assert main(["anchors", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["kmeans_anchors"]
    words = ["--config", str(CONFIG), "--json", found["override"], "train.assigner.match_iou=null"]
    assert main(["anchors", data, *words]) == 0
    again = json.loads(capsys.readouterr().out)["config_anchors"]
    assert again == {key: found[key] for key in again}


def test_the_text_says_what_json_says_and_the_seed_repeats_it(tmp_path, capsys):
    data = write_set(tmp_path, VARIED, crowd=[0, 0, 50, 50])
    words = ["anchors", str(data), "--config", str(CONFIG), "--size", "320x416", "--seed", "3"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out == text
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert f"'{document['kmeans_anchors']['override']}'" in text
    assert "24 boxes, without 1 crowd, of 2 images, letterboxed to 320x416" in text
    for fit in (document["config_anchors"], document["kmeans_anchors"]):
        assert f"{fit['recall']:.2%}" in text
        assert f"{fit['mean_iou']:.4f}" in text


def test_without_config_there_are_the_nine_of_yolov3(tmp_path, capsys):
    assert main(["anchors", str(write_set(tmp_path, VARIED)), "--json", "--size", "608", "--count", "6"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["config"] is document["match_iou"] is document["config_anchors"]["recall"] is None
    assert document["size"] == [608, 608]
    assert [len(level) for level in document["kmeans_anchors"]["anchors"]] == [2, 2, 2]
    assert document["config_anchors"]["anchors_per_box"] == 1.0


def test_cfg_gets_the_line_for_its_yolo_sections(tmp_path, capsys):
    (tmp_path / "small.cfg").write_text(
        "[net]\nwidth=64\nheight=64\nchannels=3\n[convolutional]\nfilters=12\nsize=1\nstride=32\npad=1\n"
        "activation=linear\n[yolo]\nmask=0,1\nanchors=10,20, 30,40\nclasses=1\nnum=2\n"
    )
    config = tmp_path / "small.yaml"
    config.write_text("model: {name: darknet, cfg: small.cfg}\ninput: {size: 64}\ndata: data.yaml\n")
    data = write_set(tmp_path, VARIED)
    assert main(["anchors", str(data), "--config", str(config)]) == 0
    assert "write into each [yolo] section of the cfg\n  anchors = " in capsys.readouterr().out
    assert main(["anchors", str(data), "--config", str(config), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["config_anchors"]["anchors"] == [[[10, 20], [30, 40]]]
    assert document["strides"] == [32]
    assert main(["anchors", str(data), "--config", str(config), "--count", "3"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "4"], "--count: expected a multiple of 3, the number of scales of the head, found 4"),
        (["--count", "0"], "--count: expected a multiple of 3"),
        (["--size", "big"], "--size: expected a side such as 416"),
        (["--size", "400"], "input.size: expected multiples of 32, found 400x400"),
        (["--seed", "-1"], "--seed: expected 0 or more, found -1"),
        (["--split", "val"], "no split 'val'"),
        (["--count", "27"], "anchors: 27 anchors need as many different box sizes, found 24"),
        (["train.assigner.match_iou=2"], "train.assigner.match_iou"),
    ],
)
def test_errors_are_reported(tmp_path, capsys, caplog, words, message):
    data = write_set(tmp_path, VARIED)
    assert main(["anchors", str(data), "--config", str(CONFIG), *words]) == 2
    output = capsys.readouterr()
    assert message in output.err + caplog.text
    assert output.out == ""


def test_errors_without_config_and_without_boxes(tmp_path, capsys, caplog):
    data = write_set(tmp_path, VARIED)
    assert main(["anchors", str(data), "input.size=64"]) == 2
    assert main(["anchors", str(data), "--size", "8"]) == 2
    crowds = write_set(tmp_path / "crowds", [], crowd=[0, 0, 50, 50])
    assert main(["anchors", str(crowds)]) == 2
    output = capsys.readouterr().err + caplog.text
    assert "there is no --config that 'input.size=64' could override" in output
    assert "expected sides from 32 to 8192 pixels, found 8x8" in output
    assert "expected boxes that are not crowds, found none" in output


@pytest.mark.e2e
def test_the_script_runs(tmp_path):
    data = write_set(tmp_path, VARIED)
    words = [sys.executable, str(ROOT / "tools/anchors.py"), str(data), "--config", str(CONFIG)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'model.head.anchors=[[[" in done.stdout
