"""What a classifier sees of an image: compared with torchvision, and the limits of the crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms

from cspdet.config.loader import parse_config
from cspdet.datasets.classification.crops import ImageCrop, short_side
from cspdet.datasets.image_io import read_image
from cspdet.device import to_float_tensor
from cspdet.errors import ConfigError, DataError
from cspdet.models.config import ClassifierConfig

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SIZES = [(37, 53), (200, 31), (64, 64), (1, 9), (301, 1)]  # width, height
MODES = ["RGB.png", "RGB.jpg", "L.png", "L.jpg", "RGBA.png", "LA.png", "P.png", "P.gif", "CMYK.jpg", "I;16.png"]


def odd_image(folder: Path, mode: str, size: tuple[int, int], orientation: int) -> Path:
    """An image of noise, which no two ways of resizing make the same."""
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
def test_images_of_all_modes_and_odd_sizes_are_those_of_torchvision(tmp_path, interpolation):
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
    paths = [odd_image(tmp_path, kind, size, 1 + i % 8) for kind in MODES for i, size in enumerate(SIZES)]
    paths += [odd_image(tmp_path, "RGB.jpg", (41, 23), turn) for turn in range(1, 9)]
    assert len(paths) >= 50
    for path in paths:
        actual = model.normalize(to_float_tensor(torch.from_numpy(crop(read_image(path), "x")), CPU))[0]
        expected = theirs(as_torchvision_reads(path))
        assert (actual - expected).abs().max() <= 1e-6, path.name


def test_ten_crops_are_those_of_torchvision(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)
    expected = transforms.TenCrop((32, 40))(transforms.Resize(44)(Image.fromarray(image)))
    views = ImageCrop((32, 40), 44, ten_crop=True)(image, "x")
    assert views.shape == (10, 3, 32, 40)
    for view, crop in zip(views, expected, strict=True):
        assert np.array_equal(view.transpose(1, 2, 0), np.asarray(crop))


def test_the_short_side_of_the_published_settings():
    # 256 / 0.887 = 288.6, 224 / 0.875 = 256, 224 / 0.887 = 252.5; mmpretrain's CSP networks have 288 for 256
    assert [short_side((n, n), fraction) for n, fraction in ((256, 0.887), (224, 0.875), (224, 0.887), (224, 1.0))] == [
        288, 256, 252, 224,
    ]  # fmt: skip
    assert short_side((96, 128), 0.5) == 256


@given(st.integers(1, 2000), st.floats(0.01, 1.0))
def test_the_short_side_always_holds_the_input(side, fraction):
    assert short_side((side, side), fraction) >= side
    ImageCrop((side, side), short_side((side, side), fraction))


def test_crops_that_cannot_be():
    with pytest.raises(ConfigError, match="resize: expected the 256 pixels of the input or more, found 224"):
        ImageCrop((224, 256), 224)
    with pytest.raises(DataError, match=r"^thin\.png: 40000x1 pixels are too narrow for a short side of 288$"):
        ImageCrop((256, 256), 288)(np.zeros((1, 40_000, 3), np.uint8), "thin.png")
