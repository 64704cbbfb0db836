"""Images: every mode against Pillow, EXIF, and each kind of damage."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def jpeg_with(change: Callable[[bytearray, int, int], None], **options: Any) -> bytes:
    """A JPEG whose coded data `change` damages, given the file and the range of these data."""
    noise = np.random.default_rng(5).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(options.pop("mode", "RGB")).save(buffer, "JPEG", **options)
    data = bytearray(buffer.getvalue())
    change(data, data.rindex(b"\xff\xda") + 14, len(data) - 2)
    return bytes(data)


def fill(value: int) -> Callable[[bytearray, int, int], None]:
    def change(data: bytearray, start: int, end: int) -> None:
        data[start + 200 : end] = bytes([value]) * (end - start - 200)

    return change


def remove(data: bytearray, start: int, end: int) -> None:
    del data[start + 500 : end - 500]


def swap(data: bytearray, start: int, end: int) -> None:
    middle = (start + end) // 2
    data[middle : middle + 60] = np.random.default_rng(2).bytes(60).replace(b"\xff", b"\0")


@pytest.mark.parametrize("change", [fill(0), fill(0x55), remove, swap], ids=["zeros", "fives", "gap", "noise"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"mode": "CMYK"}], ids=str)
def test_damage_inside_of_a_jpeg_is_an_error_and_quiet(tmp_path, capfd, change, options):
    path = tmp_path / "inside.jpg"
    path.write_bytes(jpeg_with(lambda *_: None, **options))
    assert read_image(path).shape == (240, 320, 3)
    path.write_bytes(jpeg_with(change, **options))
    assert image_size(path) == (240, 320), "the header is whole"
    with pytest.raises(DataError, match=r"inside\.jpg: damaged JPEG: [^\n]+$"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_what_the_decoder_of_opencv_calls_corrupt_is_refused(tmp_path, capfd):
    refused = 0
    for seed in range(40):
        random = np.random.default_rng(seed)

        def flip(data: bytearray, start: int, end: int, random: np.random.Generator = random) -> None:
            data[random.integers(start, end)] ^= 1 << random.integers(8)

        data = jpeg_with(flip)
        (tmp_path / "flip.jpg").write_bytes(data)
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if "orrupt JPEG" in capfd.readouterr().err:
            refused += 1
            with pytest.raises(DataError, match="damaged JPEG"):
                read_image(tmp_path / "flip.jpg")
    assert refused > 5


def test_a_jpeg_with_a_few_zeros_before_its_end_is_whole(tmp_path):
    data = encoded("JPEG")
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "padded.jpg").write_bytes(data[:-2] + bytes(64) + data[-2:])
    np.testing.assert_array_equal(read_image(tmp_path / "padded.jpg"), read_image(tmp_path / "whole.jpg"))


def test_jpeg_files_are_read_without_simplejpeg_too(tmp_path, monkeypatch):
    for mode in ("RGB", "CMYK", "L"):
        in_mode(mode).save(tmp_path / f"{mode}.jpg")
        with_simplejpeg = read_image(tmp_path / f"{mode}.jpg")
        with monkeypatch.context() as context:
            context.setitem(sys.modules, "simplejpeg", None)
            np.testing.assert_array_equal(read_image(tmp_path / f"{mode}.jpg"), with_simplejpeg)


def test_a_wrong_checksum_in_a_png_is_an_error(tmp_path):
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") + 40] ^= 4
    path = tmp_path / "flip.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged PNG: wrong checksum of the chunk 'IDAT'"):
        read_image(path)


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


def test_large_images_are_refused_only_if_a_few_bytes_declare_them(tmp_path, monkeypatch):
    monkeypatch.setattr("cspdet.datasets.image_header.BOMB_PIXELS", 500_000)
    Image.new("1", (1000, 1000)).save(tmp_path / "blank.tif", compression="group4")
    Image.effect_noise((1000, 1000), 90).save(tmp_path / "photo.jpg")
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"blank\.tif: 1000x1000 pixels in \d+ bytes: a decompression bomb"):
            read(tmp_path / "blank.tif")
    assert read_image(tmp_path / "photo.jpg").shape == (1000, 1000, 3)


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


def test_endless_files_are_refused_without_reading_them(tmp_path):
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("zero.jpg", "pipe.jpg", "sparse.jpg"):
        for read in (read_image, image_size):
            with pytest.raises(DataError, match=r"(it is a named pipe, socket or device|more than the limit)"):
                read(tmp_path / name)


def test_a_failing_disk_is_an_error_of_the_image(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        limit = 0

        def read(self, size: int | None = -1) -> bytes:
            if size is None or size < 0 or self.tell() + size > self.limit:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"):
        (tmp_path / "image").write_bytes(encoded(kind))
        for limit in (0, 1 << 17):  # at once, and when all is read
            file = Failing(encoded(kind))
            file.limit = limit
            monkeypatch.setattr("cspdet.datasets.image_io.open_image", lambda _, file=file: file)
            with pytest.raises(DataError, match="image: cannot be read: Input/output error"):
                read_image(tmp_path / "image")


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "PCX", "TGA", "PDF", "DDS"])
def test_only_the_documented_formats_are_opened_whatever_a_file_is_called(tmp_path, monkeypatch, kind):
    def start(*words: object, **_: object) -> None:
        pytest.fail(f"a program is started: {words}")

    monkeypatch.setattr("subprocess.Popen", start)
    Image.fromarray(RGB).save(tmp_path / "image.jpg", kind)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match="not an image of a known format"):
            read(tmp_path / "image.jpg")


def test_large_images_are_converted_in_strips(tmp_path, monkeypatch):
    monkeypatch.setattr("cspdet.datasets.pillow_io.STRIP_ROWS", 7)
    for mode in ("1", "P", "RGBA", "CMYK"):
        in_mode(mode).save(tmp_path / "image.tiff")
        with Image.open(tmp_path / "image.tiff") as image:
            np.testing.assert_array_equal(read_image(tmp_path / "image.tiff"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_damaged_headers_are_errors_or_images_and_quiet(tmp_path, capfd, kind):
    whole = encoded(kind)
    path = tmp_path / "fuzz"
    for seed in range(50):
        random = np.random.default_rng(seed)
        data = bytearray(whole[: random.integers(2, len(whole))] if seed % 5 == 0 else whole)
        for _ in range(random.integers(1, 5)):
            at = int(random.integers(min(len(data), 200 if seed % 2 else len(data))))
            data[at : at + 4] = bytes([data[at] ^ 1 << random.integers(8)]) if seed % 3 else random.bytes(4)
        path.write_bytes(data)
        for read in (read_image, image_size):
            with contextlib.suppress(DataError):
                found = read(path)
                assert read is image_size or (found.ndim, found.shape[2], found.dtype) == (3, 3, np.uint8)
    assert capfd.readouterr().err == ""


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
