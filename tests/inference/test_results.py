"""Results of predictors: sequence, drawing, conversions; predictors: thresholds, repr."""

from __future__ import annotations

import builtins
import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from evaluation_data import image_with_square, square_model

import cspdet
from cspdet.errors import ConfigError, DataError
from cspdet.inference import image_result
from cspdet.inference.image_input import load_image
from cspdet.inference.image_result import ResultImage
from cspdet.inference.interop import to_supervision
from cspdet.inference.prediction import Prediction
from cspdet.inference.predictor import Predictor
from cspdet.inference.results import Detection, DetectionResult
from cspdet.io.names import distinct_names
from cspdet.structures import Categories, Detections

CLASSES = Categories(("disc", "bar"), (3, 17))


def result() -> DetectionResult:
    boxes = torch.tensor([[10.0, 20, 30.25, 60], [0, 0, 4, 4], [1, 2, 3, 5]])
    found = Detections(boxes, torch.tensor([0.75, 0.5, 0.25]), torch.tensor([1, 0, 1]))
    return DetectionResult.from_detections(found, CLASSES, load_image(np.zeros((64, 96, 3), np.uint8)))


@pytest.fixture
def detector() -> Predictor:
    return cspdet.load_detector(square_model(), backend="torch", device="cpu")


def test_detections_are_a_sequence():
    found = result()
    first = Detection((10.0, 20.0, 30.25, 60.0), 0.75, 1, "bar", 17)
    assert (len(found), found[0], found[-3], found[np.int64(0)]) == (3, first, first, first)
    assert [d.class_name for d in found] == ["bar", "disc", "bar"] == list(found.class_name)
    assert found.category_id == (17, 3, 17)
    with pytest.raises(IndexError, match="index 3 is out of range for 3 detections"):
        found[3]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(None, 2), [0.75, 0.5]),
        (slice(None, None, 2), [0.75, 0.25]),
        ([2, 0], [0.25, 0.75]),
        ([], []),
        ([True, False, True], [0.75, 0.25]),
        (np.array([False, True, False]), [0.5]),
        (torch.tensor([1, -1]), [0.5, 0.25]),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_slices_indices_and_masks_select_detections(index, expected):
    part = result()[index]
    assert isinstance(part, DetectionResult)
    assert part.score.tolist() == expected
    assert [d.score for d in part] == expected
    assert part.to("cpu").categories == CLASSES


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(IndexError):
        result()[[True, False]]


def test_conversions_have_the_values_of_the_detections():
    found = result()
    values = found.to_dict()
    assert json.loads(found.to_json()) == values
    assert (values["source"], values["width"], values["height"], len(values["detections"])) == ("image", 96, 64, 3)
    assert values["detections"][0] == {
        "box_xyxy": [10.0, 20.0, 30.25, 60.0], "score": 0.75, "class_id": 1, "class_name": "bar", "category_id": 17,
    }  # fmt: skip
    assert found[:1].to_coco(image_id=7) == [
        {"image_id": 7, "category_id": 17, "bbox": [10.0, 20.0, 20.25, 40.0], "score": 0.75}
    ]
    assert result()[[]].to_dict()["detections"] == result()[[]].to_coco(1) == []


def test_tables_need_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="to_df: pandas is not installed: pip install pandas"):
        result().to_df()


def test_tables_have_a_row_per_detection(monkeypatch):
    pandas = types.SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    columns = ["x1", "y1", "x2", "y2", "score", "class_id", "class_name", "category_id"]
    rows, names = result().to_df()
    assert (list(rows[0]), names) == (columns, columns)
    assert [row["y2"] for row in rows] == [60, 4, 5]
    assert result()[[]].to_df() == ([], columns), "a table without detections has its columns"


def test_an_installed_package_with_a_missing_dependency_is_not_called_missing(monkeypatch):
    original = builtins.__import__

    def broken(name: str, *arguments: object) -> object:
        if name == "supervision":
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
        return original(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(
        ConfigError, match=r"supervision is installed, but cannot be imported \(No module named 'scipy'"
    ):
        to_supervision(result())


def test_drawing_leaves_the_image_and_the_source_alone(tmp_path, monkeypatch, detector):
    source = tmp_path / "street.png"
    cv2.imwrite(str(source), image_with_square(1, 2))
    before = source.read_bytes()
    found = detector(source)
    drawn = found.plot()
    assert drawn.shape == (64, 96, 3)
    assert (drawn != image_with_square(1, 2)).any()
    assert np.array_equal(found.image.pixels, image_with_square(1, 2))
    assert np.array_equal(cv2.imread(str(found.save(tmp_path / "new" / "out.png")))[..., ::-1], drawn)
    with pytest.raises(ConfigError, match=r"street\.png: is the original image"):
        found.save(tmp_path / "new" / ".." / "street.png")
    for name in ("out.txt", "out"):
        with pytest.raises(ConfigError, match="expected a file name that ends in"):
            found.save(tmp_path / name)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "street.png"]
    displayed = []
    monkeypatch.setattr(
        image_result.Image.Image, "show", lambda self, title: displayed.append((np.asarray(self), title))
    )
    found.show()
    assert np.array_equal(displayed[0][0], drawn)
    assert repr(found) == f"DetectionResult(1 detection in {source} 96x64: disc 1.00)"
    assert repr(found[:0]).endswith("96x64: none)")


def test_the_box_is_the_same_for_a_path_an_array_and_opencvs_array(tmp_path, detector):
    red = image_with_square(0, 1)
    red[32:, :, 0] = 200
    cv2.imwrite(str(tmp_path / "a.png"), red[..., ::-1])
    inputs = [tmp_path / "a.png", red, torch.from_numpy(red).permute(2, 0, 1)]
    for found in [*detector(inputs), detector(cv2.imread(str(tmp_path / "a.png")), bgr=True), detector(iter([red]))[0]]:
        assert found.box_xyxy.tolist() == [[32.0, 0.0, 64.0, 32.0]]
        assert np.array_equal(found.image.pixels, red)
    assert isinstance(cspdet.predict(detector, red), DetectionResult)
    assert len(cspdet.predict(detector, [red, red])) == 2
    assert len(cspdet.predict(detector, tmp_path)) == 1


def test_thresholds_are_set_for_all_calls_or_for_one(detector):
    white = np.full((64, 96, 3), 255, np.uint8)
    assert len(detector(white)) == 6
    assert len(detector(white, min_score=0.99999)) == 0
    assert len(detector(white, max_detections=2)) == len(cspdet.predict(detector, white, max_detections=2)) == 2
    assert len(detector(white)) == 6, "an argument is for one call"
    detector.min_score = 0.99999
    assert (len(detector(white)), detector.postprocess.min_score) == (0, 0.99999)
    detector.min_score, detector.max_detections = 0.5, 3
    assert (len(detector(white)), detector.nms_iou, detector.vote_iou) == (3, 0.6, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_score": 2.0}, "min_score: .*less than or equal to 1, got 2.0"),
        ({"max_detections": 0}, "max_detections"),
        ({"conf": 0.5}, r"unknown threshold 'conf' \(did you mean 'min_score'\?\)"),
        ({"min_scor": 0.5}, r"did you mean 'min_score'"),
    ],
)
def test_thresholds_are_checked(values, message, detector):
    with pytest.raises(ValueError, match=message):
        detector(image_with_square(0, 0), **values)
    if "min_scor" not in values:
        with pytest.raises((ValueError, AttributeError), match=r"min_score|max_detections"):
            setattr(detector, *next(iter(values.items())))
    assert len(detector(image_with_square(0, 0))) == 1


def test_predictors_say_what_they_are(detector):
    assert repr(detector) == (
        "Predictor(squares: 2 classes (disc, bar), 64x96 letterbox, torch fp32 on cpu, "
        "min_score=0.25, nms_iou=0.6, max_detections=100)"
    )


def test_unreadable_images_are_named(detector):
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such image"):
        detector("nowhere.jpg")
    with pytest.raises(ValueError, match="image 1: expected"):
        detector([image_with_square(0, 0), image_with_square(0, 0).astype(float)])


def test_predictions_of_classifiers_are_drawn_and_converted(tmp_path):
    image = ResultImage.from_loaded(load_image(np.zeros((40, 80, 3), np.uint8)))
    found = Prediction(("a", "b", "c"), torch.tensor([0.25, 0.5, 0.125]), image)
    assert [item.class_name for item in found] == ["b", "a", "c"]
    assert (len(found), found.to_dict(1)["predictions"]) == (3, [{"class_id": 1, "class_name": "b", "score": 0.5}])
    assert json.loads(found.to_json())["width"] == 80
    assert (cv2.imread(str(found.save(tmp_path / "a.png"))) != 0).any()


def test_paths_get_distinct_names():
    assert distinct_names(["runs/a/best.pt", "runs/b/best.pt"]) == ["a/best.pt", "b/best.pt"]
    assert distinct_names([Path("a/x/best.pt"), Path("b/x/best.pt"), Path("a/x/best.pt")]) == [
        "a/x/best.pt", "b/x/best.pt", "a/x/best.pt",
    ]  # fmt: skip
    assert distinct_names(["a.pt", "runs/b.pt"]) == ["a.pt", "b.pt"]
    assert distinct_names(["best.pt", "runs/best.pt"]) == ["best.pt", "runs/best.pt"]
    assert distinct_names([]) == []
