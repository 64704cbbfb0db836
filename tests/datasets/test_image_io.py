"""Images: every mode against Pillow, EXIF, and each kind of damage."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from cspdet.datasets.image_io import image_size, read_image, read_image_header
from cspdet.datasets.pillow_io import MAX_PIXELS
from cspdet.errors import DataError

RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (61, 45))
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "GIF": {}, "WEBP": {"lossless": True, "exact": True}}


def in_mode(mode: str) -> Image.Image:
    pil_image = Image.fromarray(RGB)
    if mode in ("RGBA", "LA"):
        pil_image = pil_image.convert(mode)
        pil_image.putalpha(Image.fromarray(RGB[..., 1]))  # alpha from 0 to 255: multiplying by it would show
        return pil_image
    return pil_image.convert(mode)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_lossless_formats_equal_pillow(tmp_path, mode, kind):
    path = tmp_path / f"image.{kind.lower()}"
    try:
        in_mode(mode).save(path, kind, **LOSSLESS[kind])
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    found = read_image(path)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    assert image_size(path) == (45, 61)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_within_three_levels_of_pillow(tmp_path, mode, progressive):
    path = tmp_path / "image.jpg"
    in_mode(mode).save(path, quality=95, progressive=progressive)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 3
    assert image_size(path) == (45, 61)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix, channels):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    stack = np.stack((ramp, ramp.T, ramp[::-1], ramp), axis=-1)[..., :channels]
    path = tmp_path / f"image{suffix}"
    bgr = stack[..., 0] if channels == 1 else stack[..., [2, 1, 0, 3][:channels]]
    path.write_bytes(cv2.imencode(suffix, bgr)[1].tobytes())
    expected = np.repeat(stack, 3, axis=-1) if channels == 1 else stack[..., :3]
    found = read_image(path)
    assert np.abs(found - expected / 257).max() < 1  # 65535 / 257 = 255; decoders drop the low byte or round
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(tmp_path, kind, orientation):
    path = tmp_path / f"image.{kind.lower()}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else LOSSLESS[kind]))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = read_image(path)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (3 if kind == "JPEG" else 0)
    assert image_size(path) == found.shape[:2]


def test_orientation_of_either_byte_order_and_of_nonsense(tmp_path):
    for order, mark in (("<", b"II"), (">", b"MM")):
        for value, size in ((6, (61, 45)), (0, (45, 61)), (99, (45, 61))):
            tiff = (
                mark + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}HHHIHHI", 1, 0x0112, 3, 1, value, 0, 0)
            )
            path = tmp_path / "image.jpg"
            Image.fromarray(RGB).save(path, exif=b"Exif\0\0" + tiff)
            assert image_size(path) == read_image(path).shape[:2] == size


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(cv2.resize(RGB, (160, 120))).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.7, 0.98])
def test_truncated_files_are_errors_and_quiet(tmp_path, capfd, kind, fraction):
    data = encoded(kind)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(DataError, match=r"^[^\n]*cut: [^\n]+$"):
        read_image(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_header_check_sees_truncation_too(tmp_path, kind):
    data = encoded(kind)
    path = tmp_path / "cut"
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + bytes(len(data) // 2)):
        path.write_bytes(damaged)
        for read in (read_image, image_size):
            with pytest.raises(DataError, match="truncated"):
                read(path)


def test_thumbnail_does_not_lend_its_end_to_truncated_jpeg(tmp_path):
    # the EXIF block carries a whole small JPEG with its own 0xFFD9
    tiff = b"II" + struct.pack("<HI", 42, 8) + struct.pack("<HI", 0, 0) + encoded("JPEG", quality=5)
    data = encoded("JPEG", exif=b"Exif\0\0" + tiff)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data)
    assert image_size(path) == (120, 160)
    path.write_bytes(data[:-40])
    with pytest.raises(DataError, match="truncated JPEG"):
        image_size(path)


def test_bytes_behind_the_end_are_no_damage(tmp_path):
    for kind in ("JPEG", "PNG"):
        path = tmp_path / kind
        path.write_bytes(encoded(kind) + b"\0trailer" * 1000)
        assert read_image(path).shape == (120, 160, 3)
        assert image_size(path) == (120, 160)


def test_what_is_no_image(tmp_path, capfd):
    cases = {
        "empty": b"",
        "text": b"hello\n" * 9,
        "noise": np.random.default_rng(1).bytes(999),
        "one": b"\xff",
    }
    cases |= {"soi": b"\xff\xd8", "fill": b"\xff\xd8" + b"\xff" * 999, "signature": b"\x89PNG\r\n\x1a\n"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    for name in (*cases, "missing", "."):
        for read in (read_image, image_size):
            with pytest.raises(DataError) as caught:
                read(tmp_path / name)
            assert len(caught.value.problems) == 1
            assert str(caught.value).startswith(f"{tmp_path / name}: ")
            assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="empty"):
        read_image(tmp_path / "empty")
    with pytest.raises(DataError, match="no such image"):
        image_size(tmp_path / "missing")
    assert capfd.readouterr().err == ""


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_decompression_bombs_are_refused_by_their_header(tmp_path, kind):
    path = tmp_path / "bomb"
    data = png_claiming(60_000, 60_000)
    if kind == "BMP":
        data = bytearray(encoded("BMP"))
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    path.write_bytes(data)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=str(MAX_PIXELS)):
            read(path)


def test_extreme_but_legal_sizes(tmp_path):
    for size_hw in ((1, 1), (20, 20_000), (20_000, 20)):
        for suffix in (".png", ".jpg"):
            path = tmp_path / f"image{suffix}"
            path.write_bytes(cv2.imencode(suffix, np.full((*size_hw, 3), 200, np.uint8))[1].tobytes())
            assert read_image(path).shape == (*size_hw, 3)
            assert image_size(path) == size_hw


def test_reading_leaves_opencv_logging_as_it_was(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encoded("PNG"))
    before = cv2.utils.logging.getLogLevel()
    read_image(path)
    assert cv2.utils.logging.getLogLevel() == before


def test_paths_beyond_ascii_and_text_paths(tmp_path):
    path: Path = tmp_path / "été 東京.png"
    path.write_bytes(encoded("PNG"))
    assert read_image(str(path)).shape == (120, 160, 3)
    assert read_image_header(path).file_format == "PNG"


def test_float_images_have_no_range_to_scale(tmp_path):
    path = tmp_path / "float.tiff"
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(path)
    with pytest.raises(DataError, match="float32 have no fixed range"):
        read_image(path)
