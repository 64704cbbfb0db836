"""Embed downscaled images in a report page, with boxes drawn over them.

The images are JPEG data in data: URLs. Their total size is limited.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from cspdet.datasets.image_io import read_image
from cspdet.errors import DataError
from cspdet.reports.components import BoxOverlay, EmbeddedImage

LONG_SIDE = 480  # pixels of a thumbnail, and SVG units of its overlay
JPEG_QUALITY = 80
MAX_EMBEDDED_BYTES = 11_000_000  # base64 bytes of all images of a page
CROP_CONTEXT = 0.75  # margin around a box on each side, as a fraction of its longer side
MIN_CROP_SIZE = 96.0  # pixels of the original image


@dataclass(frozen=True)
class GalleryBox:
    """A box to draw on an image, with CSS class, label, tooltip and data attributes; see `BoxOverlay`."""

    box_xyxy: tuple[float, float, float, float]  # pixels of the original image
    style: str
    tag: str = ""
    text: str = ""
    data: tuple[tuple[str, str], ...] = ()
    is_hidden: bool = False


@dataclass
class ThumbnailEmbedder:
    """Embeds thumbnails in a page up to a total size, and counts the omitted images."""

    max_bytes: int = MAX_EMBEDDED_BYTES
    used_bytes: int = 0
    unreadable: list[str] = field(default_factory=list)
    num_skipped: int = 0  # because of max_bytes
    _last_image: tuple[Path, np.ndarray] | None = None  # cached, because consecutive crops often use the same image

    def add(
        self,
        path: Path,
        boxes: Sequence[GalleryBox],
        alt_text: str,
        *,
        crop_xyxy: tuple[float, float, float, float] | None = None,
        long_side: int = LONG_SIDE,
    ) -> EmbeddedImage | None:
        """Embed an image or a crop of it.

        Args:
            path: The image file.
            boxes: Boxes to draw, in pixels of the original image.
            alt_text: Text alternative of the image.
            crop_xyxy: Region to show, in pixels of the original image; None: the whole image.
            long_side: Maximum length of the longer side of the thumbnail in pixels.

        Returns:
            The embedded image; None if the image is unreadable or `max_bytes` is reached.
        """
        if self.used_bytes >= self.max_bytes:
            self.num_skipped += 1
            return None
        image = self._read(path)
        if image is None:
            return None
        x1, y1, x2, y2 = _crop_to_pixels(crop_xyxy, image.shape[1], image.shape[0])
        data = _encode_jpeg(image[y1:y2, x1:x2], long_side)
        if self.used_bytes + len(data) > self.max_bytes:
            self.num_skipped += 1
            return None
        self.used_bytes += len(data)
        unit = LONG_SIDE / max(x2 - x1, y2 - y1)
        width, height = max(1, round((x2 - x1) * unit)), max(1, round((y2 - y1) * unit))
        overlays = tuple(
            overlay for box in boxes if (overlay := _to_overlay(box, (x1, y1), unit, (width, height))) is not None
        )
        return EmbeddedImage(data, width, height, overlays, alt_text)

    def messages(self) -> tuple[str, ...]:
        """Return one message per reason for which images were omitted."""
        lines = []
        if self.unreadable:
            first = self.unreadable[0]
            lines.append(f"{len(self.unreadable)} images cannot be read and are omitted; the first: {first}")
        if self.num_skipped:
            lines.append(f"{self.num_skipped} more images are omitted to limit the size of this page")
        return tuple(lines)

    def _read(self, path: Path) -> np.ndarray | None:
        if self._last_image is not None and self._last_image[0] == path:
            return self._last_image[1]
        try:
            image = read_image(path)
        except DataError as error:
            self.unreadable.append(error.problems[0])
            return None
        self._last_image = (path, image)
        return image


def square_crop(box_xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return x1, y1, x2, y2 of a square around a box, with a margin; the square may extend beyond the image.

    The margin on each side is CROP_CONTEXT times the longer side of the box. The square has at least MIN_CROP_SIZE
    pixels.
    """
    x1, y1, x2, y2 = box_xyxy
    half = max((0.5 + CROP_CONTEXT) * max(x2 - x1, y2 - y1), MIN_CROP_SIZE / 2)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half, y - half, x + half, y + half


def _crop_to_pixels(
    crop: tuple[float, float, float, float] | None, width: int, height: int
) -> tuple[int, int, int, int]:
    """Return x1, y1, x2, y2 of a region in whole pixels, clipped to the image; x2 and y2 are exclusive.

    The result contains at least one pixel. `crop` None: the whole image.
    """
    if crop is None:
        return 0, 0, width, height
    x1, y1 = min(max(0, int(crop[0])), width - 1), min(max(0, int(crop[1])), height - 1)
    x2, y2 = min(width, int(np.ceil(crop[2]))), min(height, int(np.ceil(crop[3])))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _encode_jpeg(image: np.ndarray, long_side: int) -> str:
    """Encode an (H, W, 3) uint8 RGB image as a data: URL, downscaled to at most `long_side` pixels per side."""
    height, width = image.shape[:2]
    shrink = long_side / max(height, width)
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, "OpenCV encodes every 8-bit image as JPEG"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _to_overlay(
    box: GalleryBox, origin_xy: tuple[int, int], unit: float, size_wh: tuple[int, int]
) -> BoxOverlay | None:
    """Convert a box from image pixels to SVG units and clip it; return None if it is outside the visible region."""
    x1, y1, x2, y2 = ((value - origin_xy[i % 2]) * unit for i, value in enumerate(box.box_xyxy))
    if x2 <= 0 or y2 <= 0 or x1 >= size_wh[0] or y1 >= size_wh[1]:
        return None
    x1, y1, x2, y2 = max(x1, 1.0), max(y1, 1.0), min(x2, size_wh[0] - 1.0), min(y2, size_wh[1] - 1.0)
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    return BoxOverlay(
        round(x1, 1), round(y1, 1), round(width, 1), round(height, 1), box.style, box.tag, box.text, box.data,
        box.is_hidden,
    )  # fmt: skip
