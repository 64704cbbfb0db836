"""The metrics of classifiers against ones computed by hand, and the matching of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from classification_data import SHARPNESS, ColorClassifier, color_recipe, write_colors

from cspdet.datasets.classification.crops import build_image_crop
from cspdet.datasets.classification.image_folder import ImageFolderDataset, load_image_folder
from cspdet.errors import DataError
from cspdet.evaluation.classification import (
    ClassifierMetrics,
    compute_metrics,
    evaluate_classifier,
    match_image_classes,
)
from cspdet.evaluation.predictors import NetworkClassifier, evaluation_mode
from cspdet.models.classifier import predict_probabilities
from cspdet.models.config import ClassifierEvalConfig

CPU = torch.device("cpu")


def image_set(label: list[int], classes: tuple[str, ...]) -> ImageFolderDataset:
    n = len(label)
    return ImageFolderDataset(Path("set"), "val", classes, np.array(label, np.int32), b"x" * n, np.arange(n + 1), ())


def test_metrics_of_a_small_case():
    # classes 0 0 1 2 of six; first places 0 1 1 3, and class 2 only stands sixth
    images = image_set([0, 0, 1, 2], tuple("abcdef"))
    ranked = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0], [1, 0, 2, 3, 4], [3, 0, 1, 4, 5]], np.int32)
    metrics = compute_metrics(images, ranked, np.full((4, 5), 0.2, np.float32))
    assert (metrics.top1, metrics.top5, metrics.images) == (0.5, 0.75, 4)
    assert metrics.per_class["a"] == (2, 0.5, 1.0)
    assert metrics.per_class["c"] == (1, 0.0, 0.0)
    assert metrics.per_class["f"] == (0, None, None)
    expected = np.zeros((6, 6), int)
    expected[0, 0] = expected[0, 1] = expected[1, 1] = expected[2, 3] = 1
    assert np.array_equal(metrics.confusion, expected)


def test_top5_of_five_classes_is_none_and_outputs_that_are_not_finite_are_wrong(log_capture):
    ranked = np.array([[0, 1, 2, 3, 4]] * 2, np.int32)
    scores = np.array([[0.6, 0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0, 0]], np.float32)
    metrics = compute_metrics(image_set([0, 0], tuple("abcde")), ranked, scores)
    assert (metrics.top1, metrics.top5) == (0.5, None)
    assert "1 images have outputs that are not finite" in log_capture.text


def test_a_ten_crop_averages_probabilities():
    model = ColorClassifier()
    views = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    views[0, 0, 0], views[0, 1, 1] = 255, 255  # a red view and a green one
    e = float(np.exp(SHARPNESS))
    highest = e / (e + 2)  # softmax of (SHARPNESS, 0, 0)
    expected = [(highest + (1 - highest) / 2) / 2] * 2 + [(1 - highest) / 2]
    assert predict_probabilities(model, views, CPU)[0].tolist() == pytest.approx(expected)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    assert predict_probabilities(model, views, CPU).tolist() == [[0.0, 0.0, 0.0]]


def evaluate(model: ColorClassifier, images: ImageFolderDataset, eval_: ClassifierEvalConfig) -> ClassifierMetrics:
    crop = build_image_crop(color_recipe().input, eval_, "bilinear")
    return evaluate_classifier(NetworkClassifier(model, CPU), images, crop, eval_)


@pytest.mark.parametrize("more", [{}, {"ten_crop": True}, {"batch_size": 1}, {"workers": 1, "batch_size": 4}])
def test_images_of_one_color(tmp_path, more):
    images = load_image_folder(write_colors(tmp_path), "val", ("red", "green", "blue"))
    model = ColorClassifier().train()
    eval_ = ClassifierEvalConfig(**{"workers": 0, **more})
    with evaluation_mode(model):
        assert not model.training
        metrics = evaluate(model, images, eval_)
    assert metrics.top1 == pytest.approx(5 / 6)
    assert {name: found.top1 for name, found in metrics.per_class.items()} == {"red": 1, "green": 1, "blue": 0.5}
    assert metrics.confusion.tolist() == [[2, 0, 0], [0, 2, 0], [1, 0, 1]]
    e = float(np.exp(SHARPNESS))
    assert metrics.scores[:, 0].tolist() == pytest.approx([e / (e + 2)] * 6)
    assert model.training


def test_unreadable_images_are_all_reported(tmp_path):
    images = load_image_folder(write_colors(tmp_path), "val")
    for name in ("blue/1.png", "red/2.png"):
        (tmp_path / "val" / name).write_bytes(b"no image")
    images = match_image_classes(images, ("red", "green", "blue"), "set")
    model = ColorClassifier()
    eval_ = ClassifierEvalConfig(workers=0, batch_size=2)
    with pytest.raises(DataError) as error:
        evaluate(model, images, eval_)
    heading, *lines = error.value.problems
    assert heading.endswith("2 of 6 images cannot be read")
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / f"val/{n}") for n in ("blue/1.png", "red/2.png")]
    assert model.calls == 0  # the first batch has one already: nothing was computed in vain
    with pytest.raises(DataError, match="2 classes, but the model has 3"):
        evaluate(model, image_set([0], ("a", "b")), eval_)
    with pytest.raises(DataError, match="no images"):
        evaluate(model, image_set([], ("a", "b", "c")), eval_)


def test_classes_are_matched_by_name_else_by_number(log_capture):
    images = image_set([0, 1, 1], ("a", "b"))
    assert match_image_classes(images, ("a", "b"), "set") is images
    other = match_image_classes(images, ("b", "c", "a"), "set")
    assert (other.classes, other.label.tolist()) == (("b", "c", "a"), [2, 0, 0])
    assert "set: has 2 of the model's 3 classes" in log_capture.text
    for names in (("class 1", "class 2"), ("0", "1")):
        assert match_image_classes(images, names, "set").label.tolist() == [0, 1, 1]
        assert f"matched by their order: a is {names[0]}" in log_capture.text
    with pytest.raises(DataError) as error:
        match_image_classes(images, ("a", "x"), "set")
    assert error.value.problems == (
        "set: the classes differ from the model's: expected 2 (a, x); found 2 (a, b)",
        "set: class 'b' is unknown to the model",
    )
    with pytest.raises(DataError, match="have the same name"):
        match_image_classes(images, ("a", "a", "b"), "set")
