"""Preprocessing against torchvision, an evaluation's numbers against ones derived by hand, and `eval-classifier`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_data import SHARPNESS, ColorTeller, color_model, color_recipe, save, write_colors
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms

from cspdet.cli.main import run_command
from cspdet.config.loader import parse_config
from cspdet.datasets.classification.crops import ImageCrop, build_image_crop, short_side
from cspdet.datasets.classification.image_folder import ImageFolderDataset, load_image_folder
from cspdet.datasets.image_io import read_image
from cspdet.device import to_float_tensor
from cspdet.errors import ConfigError, DataError
from cspdet.evaluation.classification import (
    ClassifierMetrics,
    compute_metrics,
    evaluate_classifier,
    match_image_classes,
)
from cspdet.evaluation.predictors import NetworkClassifier, evaluation_mode
from cspdet.inference.classifier import override_eval_config
from cspdet.models.classifier import predict_probabilities
from cspdet.models.config import ClassifierConfig, ClassifierEvalConfig
from cspdet.models.published import CLASSIFIERS

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# --- preprocessing ---------------------------------------------------------------------------------

SIZES = [(37, 53), (200, 31), (64, 64), (1, 9), (301, 1)]  # width, height
MODES = ["RGB.png", "RGB.jpg", "L.png", "L.jpg", "RGBA.png", "LA.png", "P.png", "P.gif", "CMYK.jpg", "I;16.png"]


def odd_picture(folder: Path, mode: str, size: tuple[int, int], orientation: int) -> Path:
    """A picture of noise, which no two ways of resizing make the same."""
    kind, suffix = mode.split(".")
    noise = np.random.default_rng(hash((size, orientation)) % 2**32)
    shape = (size[1], size[0])
    if kind == "I;16":
        image = Image.fromarray(noise.integers(0, 65536, shape, dtype=np.uint16))
    elif kind == "P":
        image = Image.fromarray(noise.integers(0, 256, (*shape, 3), dtype=np.uint8)).quantize(64)
    else:
        bands = len(Image.new(kind, (1, 1)).getbands())
        pixels = noise.integers(0, 256, shape if bands == 1 else (*shape, bands), dtype=np.uint8)
        image = Image.fromarray(pixels, mode=None if kind != "CMYK" else "CMYK") if kind != "LA" else Image.merge(
            "LA", [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(2)]
        )  # fmt: skip
    path = folder / f"{kind.replace(';', '')}-{size[0]}x{size[1]}-{orientation}.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, **({"exif": exif} if suffix == "jpg" else {}))
    return path


def as_torchvision_reads(path: Path) -> Image.Image:
    """RGB, upright; Pillow would cut 16 bits off at 255."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            return Image.fromarray((np.asarray(upright).astype(np.uint32) // 256).astype(np.uint8)).convert("RGB")
        return upright.convert("RGB")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_of_all_modes_and_odd_sizes_become_what_torchvision_makes_of_them(tmp_path, interpolation):
    values = {"backbone": {"name": "peleenet"}, "normalize": {"mean": list(MEAN), "std": list(STD)}}
    with torch.device("meta"):
        model = parse_config(values, ClassifierConfig, "test").build(pretrained=False)
    model.mean, model.std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    mode = transforms.InterpolationMode(interpolation)
    theirs = transforms.Compose([
        transforms.Resize(36, mode), transforms.CenterCrop((32, 32)), transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    crop = ImageCrop((32, 32), 36, interpolation=interpolation)
    paths = [odd_picture(tmp_path, kind, size, 1 + i % 8) for kind in MODES for i, size in enumerate(SIZES)]
    paths += [odd_picture(tmp_path, "RGB.jpg", (41, 23), turn) for turn in range(1, 9)]
    assert len(paths) >= 50
    for path in paths:
        ours = model.normalize(to_float_tensor(torch.from_numpy(crop(read_image(path), "x")), CPU))[0]
        expected = theirs(as_torchvision_reads(path))
        assert (ours - expected).abs().max() <= 1e-6, path.name


def test_ten_crops_are_those_of_torchvision(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)
    expected = transforms.TenCrop((32, 40))(transforms.Resize(44)(Image.fromarray(image)))
    views = ImageCrop((32, 40), 44, ten_crop=True)(image, "x")
    assert views.shape == (10, 3, 32, 40)
    for view, crop in zip(views, expected, strict=True):
        assert np.array_equal(view.transpose(1, 2, 0), np.asarray(crop))


def test_the_short_side_of_the_published_settings():
    # 256 / 0.887 = 288.6, 224 / 0.875 = 256, 224 / 0.887 = 252.5; mmpretrain's CSP networks have 288 for 256
    assert [short_side((n, n), share) for n, share in ((256, 0.887), (224, 0.875), (224, 0.887), (224, 1.0))] == [
        288, 256, 252, 224,
    ]  # fmt: skip
    assert short_side((96, 128), 0.5) == 256


@given(st.integers(1, 2000), st.floats(0.01, 1.0))
def test_the_short_side_always_holds_the_input(side, share):
    assert short_side((side, side), share) >= side
    ImageCrop((side, side), short_side((side, side), share))


def test_crops_that_cannot_be():
    with pytest.raises(ConfigError, match="resize: expected the 256 pixels of the input or more, found 224"):
        ImageCrop((224, 256), 224)
    with pytest.raises(DataError, match=r"^thin\.png: 40000x1 pixels are too narrow for a short side of 288$"):
        ImageCrop((256, 256), 288)(np.zeros((1, 40_000, 3), np.uint8), "thin.png")


def test_settings_given_replace_those_of_the_model():
    base = ClassifierEvalConfig(resize=100, ten_crop=True)
    assert override_eval_config(base, {"crop": 0.5}) == ClassifierEvalConfig(crop=0.5, ten_crop=True)
    assert override_eval_config(base, {"crop": 0.5, "resize": 90}).resize == 90
    with pytest.raises(ConfigError, match="crop"):
        override_eval_config(base, {"crop": 1.5})


# --- numbers ---------------------------------------------------------------------------------------


def image_set(label: list[int], classes: tuple[str, ...]) -> ImageFolderDataset:
    n = len(label)
    return ImageFolderDataset(Path("set"), "val", classes, np.array(label, np.int32), b"x" * n, np.arange(n + 1), ())


def test_the_numbers_of_a_small_case():
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


def test_top5_of_five_classes_is_none_and_outputs_that_are_not_finite_are_wrong(telling):
    ranked = np.array([[0, 1, 2, 3, 4]] * 2, np.int32)
    scores = np.array([[0.6, 0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0, 0]], np.float32)
    metrics = compute_metrics(image_set([0, 0], tuple("abcde")), ranked, scores)
    assert (metrics.top1, metrics.top5) == (0.5, None)
    assert "1 images have outputs that are not finite" in telling.text


def test_a_ten_crop_averages_probabilities():
    model = ColorTeller()
    views = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    views[0, 0, 0], views[0, 1, 1] = 255, 255  # a red view and a green one
    e = float(np.exp(SHARPNESS))
    share = e / (e + 2)  # softmax of (SHARPNESS, 0, 0)
    expected = [(share + (1 - share) / 2) / 2] * 2 + [(1 - share) / 2]
    assert predict_probabilities(model, views, CPU)[0].tolist() == pytest.approx(expected)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    assert predict_probabilities(model, views, CPU).tolist() == [[0.0, 0.0, 0.0]]


def evaluate(model: ColorTeller, images: ImageFolderDataset, eval_: ClassifierEvalConfig) -> ClassifierMetrics:
    crop = build_image_crop(color_recipe().input, eval_, "bilinear")
    return evaluate_classifier(NetworkClassifier(model, CPU), images, crop, eval_)


@pytest.mark.parametrize("more", [{}, {"ten_crop": True}, {"batch_size": 1}, {"workers": 1, "batch_size": 4}])
def test_pictures_of_one_color(tmp_path, more):
    images = load_image_folder(write_colors(tmp_path), "val", ("red", "green", "blue"))
    model = ColorTeller().train()
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


def test_unreadable_pictures_are_all_told(tmp_path):
    images = load_image_folder(write_colors(tmp_path), "val")
    for name in ("blue/1.png", "red/2.png"):
        (tmp_path / "val" / name).write_bytes(b"no picture")
    images = match_image_classes(images, ("red", "green", "blue"), "set")
    model = ColorTeller()
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


def test_classes_are_matched_by_name_else_by_number(telling):
    images = image_set([0, 1, 1], ("a", "b"))
    assert match_image_classes(images, ("a", "b"), "set") is images
    other = match_image_classes(images, ("b", "c", "a"), "set")
    assert (other.classes, other.label.tolist()) == (("b", "c", "a"), [2, 0, 0])
    assert "set: has 2 of the model's 3 classes" in telling.text
    for names in (("class 1", "class 2"), ("0", "1")):
        assert match_image_classes(images, names, "set").label.tolist() == [0, 1, 1]
        assert f"matched by their order: a is {names[0]}" in telling.text
    with pytest.raises(DataError) as error:
        match_image_classes(images, ("a", "x"), "set")
    assert error.value.problems == (
        "set: the classes differ from the model's: expected 2 (a, x); found 2 (a, b)",
        "set: class 'b' is unknown to the model",
    )
    with pytest.raises(DataError, match="have the same name"):
        match_image_classes(images, ("a", "a", "b"), "set")


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture
def colors(tmp_path, monkeypatch):
    loaded = color_model(more=3)
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: loaded)
    monkeypatch.chdir(tmp_path)
    Path("colors.pt").touch()
    return write_colors(tmp_path / "data")


def test_the_command_prints_and_writes(colors, capsys):
    assert run_command("eval-classifier", ["colors.pt", "--data", "data", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert "6 images, center of 32x32, short side 36" in printed
    assert "top-1  83.33%" in printed
    assert "top-5 100.00%" in printed  # the three colors stand before the three other classes
    assert "     1  blue for red" in printed
    document = json.loads(Path("out/metrics.json").read_text())
    assert document["top1"] == pytest.approx(5 / 6)
    assert document["per_class"]["blue"] == {"images": 2, "top1": 0.5, "top5": 1.0}
    assert document["per_class"]["other0"] == {"images": 0, "top1": None, "top5": None}
    assert document["confusions"] == [{"class": "blue", "predicted": "red", "images": 1}]
    assert (document["model"], document["size"], document["resize"]) == ("colors", [32, 32], 36)
    rows = list(csv.DictReader(io.StringIO(Path("out/predictions.csv").read_text())))
    assert [(row["path"], row["class"], row["correct"], row["predicted_1"]) for row in rows][1] == (
        "val/blue/2.png", "blue", "0", "red",
    )  # fmt: skip
    assert len(rows) == 6


def test_the_flags_reach_the_crop_and_json_is_one_document(colors, capsys):
    words = ["--resize", "50", "--ten-crop", "--interpolation", "bicubic", "--batch-size", "2", "--json"]
    assert run_command("eval-classifier", ["colors.pt", "--data", "data", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["resize"], document["ten_crop"], document["interpolation"]) == (50, True, "bicubic")
    assert json.loads(Path("runs/eval-classifier/metrics.json").read_text()) == document


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data DIR is missing"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "data", "--split", "train"], "no train split"),
        (["--data", "data", "--resize", "20"], "resize: expected the 32 pixels of the input or more, found 20"),
        (["--data", "data", "--crop", "0"], "crop"),
        (["--data", "data", "--batch-size", "0"], "batch_size"),
        (["--data", "other"], "other (val): class 'pink' is unknown to the model"),
    ],
)
def test_mistakes_are_errors(colors, capsys, words, message):
    save(Path("other/val/pink/1.png"), "red")
    assert run_command("eval-classifier", ["colors.pt", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not Path("runs/eval-classifier").exists()


def test_the_page_has_the_published_figures():
    text = (Path(__file__).parents[2] / "docs/classification.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")
    ]
    shown = {row[0]: row[1:6] for row in rows if len(row) == 8}
    assert shown == {
        name: [str(p.size[0]), f"{p.conv_weights / 1e6:.2f}", f"{p.bflops:g}", f"{p.top1:.1f}", f"{p.top5:.1f}"]
        for name, p in CLASSIFIERS.items()
    }
