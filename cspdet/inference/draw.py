"""Drawing of boxes with labels on images, with NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cspdet.inference.label_layout import place_labels
from cspdet.inference.palette import BLACK, RGB, class_color, text_color
from cspdet.io.terminal import escape_text
from cspdet.structures import Detections

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are exclusive

FONT = cv2.FONT_HERSHEY_SIMPLEX
MIN_TEXT_SCALE = 0.4  # smaller letters of OpenCV's font are not legible
MAX_LINE_WIDTH = 100  # pixels


@dataclass(frozen=True)
class TextStyle:
    """Size of the letters of labels.

    Attributes:
        scale: Font scale of OpenCV.
        weight: Line width of the letters in pixels.
        pad: Margin around a text in pixels.
    """

    scale: float
    weight: int
    pad: int

    @classmethod
    def for_lines(cls, width: float) -> TextStyle:
        """Return the style that fits box lines of this width in pixels."""
        return cls(max(MIN_TEXT_SCALE, 0.25 + 0.13 * width), max(1, round(width / 2)), round(width) + 1)

    def size_wh(self, text: str) -> tuple[int, int]:
        """Return the size of a label in pixels, with its margin."""
        (width, height), baseline = cv2.getTextSize(text, FONT, self.scale, self.weight)
        return width + 2 * self.pad, height + baseline + 2 * self.pad

    def fit(self, text: str, image_wh: tuple[int, int]) -> str:
        """Shorten a text, so that its label fits into an image.

        The end of the text is replaced by `...`. A last word of up to 5 letters, often a score, is kept after it. The
        result is empty if no label fits.
        """
        text = escape_text(text)  # OpenCV ends the process for lone surrogates
        if text == "" or self._fits(text, image_wh):
            return text
        name, _, end = text.rpartition(" ")
        name, end = (name, f" {end}") if name and len(end) <= 5 else (text, "")
        lengths = range(min(len(name), image_wh[0]) - 1, 0, -1)
        shorter = (*(f"{name[:length]}...{end}" for length in lengths), end.strip())
        return next((short for short in shorter if short and self._fits(short, image_wh)), "")

    def wrap(self, text: str, width: int) -> list[str]:
        """Break a text at spaces into lines whose labels are not wider than `width` pixels, if the words allow it."""
        lines = [""]
        for word in escape_text(text).split():
            longer = f"{lines[-1]} {word}".strip()
            lines = [*lines[:-1], longer] if self.size_wh(longer)[0] <= width else [*lines, word]
        return [line for line in lines if line]

    def _fits(self, text: str, image_wh: tuple[int, int]) -> bool:
        width, height = self.size_wh(text)
        return width <= image_wh[0] and height <= image_wh[1]


def line_width(size_hw: tuple[int, int]) -> int:
    """Return the default line width in pixels for an image of this size: 0.3% of the mean side, at least 1."""
    return max(1, round(_exact_line_width(size_hw)))


def _exact_line_width(size_hw: tuple[int, int]) -> float:
    return sum(size_hw) / 2 * 0.003


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    *,
    width: int | None = None,
    hide_labels: bool = False,
    track_ids: Sequence[int | None] | None = None,
    in_place: bool = False,
) -> np.ndarray:
    """Draw the boxes of detections on an image, with class name and score.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: Detections in image pixels.
        class_names: Names of the classes, by class index.
        width: Line width in pixels; None: computed from the image size.
        hide_labels: Draw the boxes only.
        track_ids: Track id of each detection, or None without a track. The id is drawn before the class name and
            determines the color.
        in_place: Draw on `image` itself if it is writable.

    Returns:
        The annotated image.
    """
    labels, colors = label_detections(detections, class_names, track_ids)
    boxes = detections.box_xyxy.cpu().numpy()
    return draw_boxes(image, boxes, None if hide_labels else labels, colors, width=width, in_place=in_place)


def label_detections(
    detections: Detections, class_names: Sequence[str], track_ids: Sequence[int | None] | None = None
) -> tuple[list[str], list[RGB]]:
    """Return the label (track id, class name, score) and the color of each detection."""
    class_id = detections.class_id.tolist()
    ids = track_ids if track_ids is not None else [None] * len(class_id)
    labels = [
        f"{'' if track_id is None else f'#{track_id} '}{class_names[i]} {score:.2f}"
        for i, score, track_id in zip(class_id, detections.score.tolist(), ids, strict=True)
    ]
    return labels, [class_color(i if track_id is None else track_id) for i, track_id in zip(class_id, ids, strict=True)]


def draw_boxes(
    image: np.ndarray,
    box_xyxy: np.ndarray,
    labels: Sequence[str] | None = None,
    colors: Sequence[RGB] | None = None,
    *,
    width: int | None = None,
    caption: str = "",
    in_place: bool = False,
) -> np.ndarray:
    """Draw boxes on an image, and their labels above all boxes.

    The first box is drawn last, above the others, because it usually has the highest score. Lines have a black or white
    outline, so that they are visible on any background. Labels cover each other only if there is no free space at their
    boxes.

    Args:
        image: (H, W, 3) uint8 RGB.
        box_xyxy: (N, 4) boxes in image pixels.
        labels: N texts; no label is drawn for an empty text. None: no labels.
        colors: N RGB colors; None: the color of class 0 for all boxes.
        width: Line width in pixels; None: computed from the image size.
        caption: Text in the upper left corner, which labels do not cover if there is free space.
        in_place: Draw on `image` itself if it is writable.

    Returns:
        The annotated image.

    Raises:
        ValueError: The image has another shape or type or no pixels, a coordinate is not finite, the width is out of
            range, or the lengths differ.
    """
    _check_drawing(image, box_xyxy, width)
    count = len(box_xyxy)
    labels = labels if labels is not None else [""] * count
    colors = colors if colors is not None else [class_color(0)] * count
    if len(labels) != count or len(colors) != count:
        raise ValueError(f"{count} boxes need as many labels and colors; got {len(labels)} and {len(colors)}")
    draw_in_place = in_place and image.flags.writeable and image.flags.c_contiguous
    drawn = image if draw_in_place else np.ascontiguousarray(image).copy()
    boxes = _to_pixels(box_xyxy, drawn.shape[:2])
    exact_width = _exact_line_width(drawn.shape[:2]) if width is None else width
    for box, color in reversed(list(zip(boxes.tolist(), colors, strict=True))):
        _draw_outlined_box(drawn, box, color, max(1, round(exact_width)))
    style = TextStyle.for_lines(exact_width)
    _draw_labels(drawn, boxes, labels, colors, style, draw_caption(drawn, caption))
    return drawn


def _check_drawing(image: np.ndarray, box_xyxy: np.ndarray, width: int | None) -> None:
    """Raise ValueError for values that OpenCV cannot draw, such as a huge line width."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an image of (H, W, 3) uint8; got {image.shape} {image.dtype}")
    if width is not None and not 1 <= width <= MAX_LINE_WIDTH:
        raise ValueError(f"expected a line width from 1 to {MAX_LINE_WIDTH}; got {width}")
    if not np.isfinite(box_xyxy).all():
        raise ValueError("expected boxes with finite coordinates; got NaN or infinity")


def draw_caption(image: np.ndarray, text: str) -> list[Rectangle]:
    """Draw a text in the upper left corner of an (H, W, 3) uint8 image, in place; long texts are wrapped at spaces.

    Returns:
        The rectangle of each line, x1, y1, x2, y2 in pixels.
    """
    style = TextStyle.for_lines(_exact_line_width(image.shape[:2]))
    drawn: list[Rectangle] = []
    for line in style.wrap(text, image.shape[1]):
        top = drawn[-1][3] if drawn else 0
        fitting = style.fit(line, (image.shape[1], image.shape[0] - top))
        if fitting:
            drawn.append(_draw_label(image, fitting, (0, top), BLACK, style))
    return drawn


def _to_pixels(box_xyxy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Round (N, 4) boxes to int64 pixels and clip them to the image; each box keeps at least one pixel."""
    limit = np.array([size_hw[1], size_hw[0]])
    corners = np.clip(np.round(np.asarray(box_xyxy, np.float64).reshape(-1, 4)), 0, np.tile(limit, 2)).astype(np.int64)
    low = np.minimum(corners[:, :2], limit - 1)
    return np.concatenate((low, np.maximum(corners[:, 2:], low + 1)), axis=1)


def _draw_outlined_box(image: np.ndarray, box: Sequence[int], color: RGB, width: int) -> None:
    """Draw the lines of a box, with an outline, inside the box, so that the image border does not cut off lines."""
    x1, y1, x2, y2 = box
    outline = max(1, width // 3)
    inner = outline if min(x2 - x1, y2 - y1) >= 4 * (width + outline) else 0
    outer_box = max(x1 - outline, 0), max(y1 - outline, 0), x2 + outline, y2 + outline
    _draw_sides(image, outer_box, text_color(color), width + outline + inner)
    _draw_sides(image, (x1, y1, x2, y2), color, width)


def _draw_sides(image: np.ndarray, box: tuple[int, int, int, int], color: RGB, width: int) -> None:
    """Fill the pixels of a box that are less than `width` away from its sides."""
    x1, y1, x2, y2 = box[0], box[1], min(box[2], image.shape[1]) - 1, min(box[3], image.shape[0]) - 1
    right, bottom = min(x1 + width - 1, x2), min(y1 + width - 1, y2)
    for corner, opposite in (
        ((x1, y1), (x2, bottom)),
        ((x1, max(y2 - width + 1, y1)), (x2, y2)),
        ((x1, y1), (right, y2)),
        ((max(x2 - width + 1, x1), y1), (x2, y2)),
    ):
        cv2.rectangle(image, corner, opposite, color, cv2.FILLED)


def _draw_labels(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[RGB],
    style: TextStyle,
    occupied: Sequence[Rectangle],
) -> None:
    image_wh = image.shape[1], image.shape[0]
    texts = {i: text for i, label in enumerate(labels) if (text := style.fit(label, image_wh))}
    sizes = np.array([style.size_wh(text) for text in texts.values()])
    corners = place_labels(boxes[list(texts)], sizes, image_wh, occupied)
    for (i, text), corner in reversed(list(zip(texts.items(), corners.tolist(), strict=True))):
        _draw_label(image, text, corner, colors[i], style)


def _draw_label(image: np.ndarray, text: str, corner: Sequence[int], color: RGB, style: TextStyle) -> Rectangle:
    """Draw a text on a filled rectangle with the upper left corner (x, y); return the rectangle."""
    x, y = corner
    ascent = cv2.getTextSize(text, FONT, style.scale, style.weight)[0][1]
    label_w, label_h = style.size_wh(text)
    cv2.rectangle(image, (x, y), (x + label_w - 1, y + label_h - 1), color, cv2.FILLED)
    at = x + style.pad, y + style.pad + ascent
    cv2.putText(image, text, at, FONT, style.scale, text_color(color), style.weight, cv2.LINE_AA)
    return x, y, x + label_w, y + label_h
