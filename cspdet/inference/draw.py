"""Drawing of boxes with labels on images, with NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cspdet.io.terminal import escape_text
from cspdet.palette import RGB, class_color, text_color
from cspdet.structures import Detections

FONT = cv2.FONT_HERSHEY_SIMPLEX


def line_width(size_hw: tuple[int, int]) -> int:
    """Return the default line width in pixels for an image of this size: 0.3% of the mean side, at least 1."""
    return max(1, round(sum(size_hw) / 2 * 0.003))


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
    class_id = detections.class_id.tolist()
    ids = track_ids if track_ids is not None else [None] * len(class_id)
    labels = [
        f"{'' if track_id is None else f'#{track_id} '}{class_names[i]} {score:.2f}"
        for i, score, track_id in zip(class_id, detections.score.tolist(), ids, strict=True)
    ]
    colors = [class_color(i if track_id is None else track_id) for i, track_id in zip(class_id, ids, strict=True)]
    boxes = detections.box_xyxy.cpu().numpy()
    return draw_boxes(image, boxes, None if hide_labels else labels, colors, width=width, in_place=in_place)


def draw_boxes(
    image: np.ndarray,
    box_xyxy: np.ndarray,
    labels: Sequence[str] | None = None,
    colors: Sequence[RGB] | None = None,
    *,
    width: int | None = None,
    in_place: bool = False,
) -> np.ndarray:
    """Draw boxes on an image. The first box is drawn last, on top of the others, because it is usually the best one.

    Args:
        image: (H, W, 3) uint8 RGB.
        box_xyxy: (N, 4) boxes in image pixels.
        labels: N texts; no label is drawn for an empty text. None: no labels.
        colors: N RGB colors; None: the color of class 0 for all boxes.
        width: Line width in pixels; None: computed from the image size.
        in_place: Draw on `image` itself if it is writable.

    Returns:
        The annotated image.

    Raises:
        ValueError: The image has another shape or type, or the lengths differ.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an image of (H, W, 3) uint8; got {image.shape} {image.dtype}")
    count = len(box_xyxy)
    labels = labels if labels is not None else [""] * count
    colors = colors if colors is not None else [class_color(0)] * count
    if len(labels) != count or len(colors) != count:
        raise ValueError(f"{count} boxes need as many labels and colors; got {len(labels)} and {len(colors)}")
    draw_in_place = in_place and image.flags.writeable and image.flags.c_contiguous
    drawn = image if draw_in_place else np.ascontiguousarray(image).copy()
    image_h, image_w = drawn.shape[:2]
    thickness = line_width((image_h, image_w)) if width is None else width
    for box, label, color in reversed(list(zip(box_xyxy, labels, colors, strict=True))):
        # The last pixel of a box that ends at x is x - 1; sides outside of the image are drawn along its border.
        corners = np.clip(np.round(np.asarray(box, np.float64)), 0, (image_w, image_h) * 2).astype(int)
        x1, y1, x2, y2 = (int(v) for v in corners)
        x1, y1 = min(x1, image_w - 1), min(y1, image_h - 1)
        _draw_rectangle(drawn, (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), color, thickness)
        if label:
            _draw_label(drawn, label, (x1, y1), color, thickness)
    return drawn


def draw_caption(image: np.ndarray, text: str) -> None:
    """Draw a line of text in the upper left corner of an (H, W, 3) uint8 image, in place."""
    thickness = line_width(image.shape[:2])
    _draw_label(image, text, (0, 0), (0, 0, 0), thickness)


def _draw_rectangle(image: np.ndarray, box: tuple[int, int, int, int], color: RGB, thickness: int) -> None:
    """Draw the four sides of a box inside the box, so that the image border does not cut them off."""
    x1, y1, x2, y2 = box
    image[y1 : min(y1 + thickness, y2 + 1), x1 : x2 + 1] = color
    image[max(y2 + 1 - thickness, y1) : y2 + 1, x1 : x2 + 1] = color
    image[y1 : y2 + 1, x1 : min(x1 + thickness, x2 + 1)] = color
    image[y1 : y2 + 1, max(x2 + 1 - thickness, x1) : x2 + 1] = color


def _draw_label(image: np.ndarray, label: str, corner: tuple[int, int], color: RGB, thickness: int) -> None:
    """Draw a label on a filled rectangle above the point `corner` (x, y); without enough space above, below it."""
    label = escape_text(label)  # OpenCV crashes on lone surrogates
    (x, y), (height, width) = corner, image.shape[:2]
    label = label.encode("utf-8", "replace").decode()  # OpenCV ends the process for lone surrogates
    scale, weight = max(0.4, 0.25 + 0.13 * thickness), max(1, thickness // 2)
    (text_w, text_h), baseline = cv2.getTextSize(label, FONT, scale, weight)
    pad = thickness + 1
    label_w, label_h = text_w + 2 * pad, text_h + baseline + 2 * pad
    left = max(0, min(x, width - label_w))
    top = y - label_h if y >= label_h else max(0, min(y, height - label_h))
    image[top : top + label_h, left : left + label_w] = color
    cv2.putText(image, label, (left + pad, top + pad + text_h), FONT, scale, text_color(color), weight, cv2.LINE_AA)
