"""The same image in every type that users have it in gives the same pixels; other values are refused."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cspdet.errors import DataError
from cspdet.inference.image_input import is_single_image, load_image, load_images

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GRAY = RGB[..., 0]
GRAY_RGB = np.repeat(GRAY[..., None], 3, axis=2)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        ((RGB / 255).astype(np.float16), None),  # 11 bits are enough for 8
        (RGB.astype(np.uint16) * 257, RGB),
        (np.dstack((RGB, GRAY)), RGB),
        (np.asfortranarray(RGB), RGB),
        (GRAY, GRAY_RGB),
        (GRAY[..., None], GRAY_RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(np.dstack((RGB, GRAY))), RGB),
        (Image.fromarray(GRAY), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY_RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
        (torch.from_numpy(GRAY), GRAY_RGB),
        (torch.from_numpy(GRAY)[None], GRAY_RGB),
        (png(RGB), RGB),
        (bytearray(png(RGB)), RGB),
        (io.BytesIO(png(RGB)), RGB),
    ],
)
def test_an_image_of_any_type_has_the_same_pixels(image, expected):
    assert is_single_image(image)
    loaded = load_image(image)
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags.c_contiguous
    assert np.array_equal(loaded.pixels, RGB if expected is None else expected)
    assert (loaded.size_hw, loaded.path) == ((5, 7), None)


def test_files_are_read_by_path(tmp_path):
    (tmp_path / "a.png").write_bytes(png(RGB))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        loaded = load_image(path, bgr=True)  # a file has its order of channels
        assert np.array_equal(loaded.pixels, RGB)
        assert loaded.path == Path(path)


def test_arrays_of_opencv_are_bgr():
    decoded = cv2.imdecode(np.frombuffer(png(RGB), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(load_image(decoded, bgr=True).pixels, RGB)
    assert not np.array_equal(load_image(decoded).pixels, RGB)
    assert np.array_equal(load_image(np.dstack((decoded, GRAY)), bgr=True).pixels, RGB)


def test_the_orientation_of_pil_images_is_applied():
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 3
    assert np.array_equal(load_image(image).pixels, RGB[::-1, ::-1])


@pytest.mark.parametrize("several", [[RGB, GRAY], (RGB,), np.stack([RGB, RGB]), torch.zeros(2, 3, 5, 7), iter([RGB])])
def test_lists_and_batches_are_several_images(several):
    assert not is_single_image(several)
    assert [image.size_hw for image in load_images(several)] in ([(5, 7)], [(5, 7)] * 2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            RGB.transpose(2, 0, 1),
            r"image: expected an array \(H, W, 3\).*found \(3, 5, 7\) uint8.*transpose\(1, 2, 0\)",
        ),
        (torch.from_numpy(RGB), r"expected a tensor \(3, H, W\).*found \(5, 7, 3\).*permute\(2, 0, 1\)"),
        (np.zeros((5, 7, 2), np.uint8), r"found \(5, 7, 2\)"),
        (np.zeros((0, 7, 3), np.uint8), r"found \(0, 7, 3\)"),
        (np.zeros(7, np.uint8), r"found \(7,\)"),
        (RGB.astype(np.float32), "expected float32 values from 0 to 1, found 0 to 2"),
        (RGB / 255 * 2 - 1, "from 0 to 1, found -1 to 0.9"),
        (np.full((5, 7, 3), np.nan), "found nan to nan"),
        (RGB.astype(np.int64), "expected uint8, uint16, or floats from 0 to 1, found int64"),
        (RGB > 3, "found bool"),
        (None, "got NoneType"),
        ({"image": RGB}, "got dict"),
        (io.StringIO("text"), "image: expected a file that is open in binary mode"),
        ({"image": RGB}.items, "got builtin"),
    ],
)
def test_other_values_are_refused_with_what_was_found(image, message):
    with pytest.raises(ValueError, match=message):
        load_image(image)


@pytest.mark.parametrize("data", [b"", b"no image", png(RGB)[:50]])
def test_bytes_of_no_image_are_refused(data):
    with pytest.raises(DataError, match="image 2: "):
        list(load_images([RGB, GRAY, data]))
