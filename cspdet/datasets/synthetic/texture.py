"""Backgrounds, clutter and camera noise of the built-in shapes dataset."""

from __future__ import annotations

import cv2
import numpy as np

Color = np.ndarray  # (3,) float32, blue green red, 0 to 255


def muted_color(rng: np.random.Generator) -> Color:
    """Sample a color of any hue and low saturation, from dark to bright, for background and clutter."""
    return _bgr(rng.uniform(0, 180), rng.uniform(0, 80), rng.uniform(50, 230))


def vivid_color(rng: np.random.Generator, hue: float, spread: float) -> Color:
    """Sample a saturated color with a hue within `spread` of `hue`, both as fractions of the color circle."""
    return _bgr(180 * ((hue + rng.uniform(-spread, spread)) % 1), rng.uniform(140, 255), rng.uniform(120, 255))


def _bgr(hue: float, saturation: float, value: float) -> Color:
    """Convert OpenCV's 8-bit HSV (hue below 180) to BGR."""
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def background(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw a textured background, (H, W, 3) float32 in [0, 255]: two colors blended by one or two patterns."""
    first = muted_color(rng)
    # The second color is similar to the first, so that objects have a higher contrast than the texture.
    second = np.clip(first + rng.uniform(-90, 90, 3), 0, 255).astype(np.float32)
    weight = _pattern(rng, size_hw)
    if rng.random() < 0.6:
        weight = 0.6 * weight + 0.4 * _pattern(rng, size_hw)
    # Processing each channel is many times faster than broadcasting over a last axis of size 3.
    return cv2.merge([weight * step + start for start, step in zip(first, second - first, strict=True)])


def _pattern(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Sample a pattern, (H, W) float32 in about [0, 1]: a gradient, stripes, soft blobs or grain."""
    pattern_type = rng.integers(4)
    if pattern_type == 0:
        along = _ramp(size_hw, rng.uniform(0, 2 * np.pi))
        return along / max(size_hw) + np.float32(0.5)
    if pattern_type == 1:
        along = _ramp(size_hw, rng.uniform(0, 2 * np.pi))
        wave = np.sin(along * np.float32(2 * np.pi / rng.uniform(8, 60)))
        return wave * np.float32(0.5) + np.float32(0.5)
    cells = rng.integers(3, 9) if pattern_type == 2 else rng.integers(24, 80)
    coarse = rng.random((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_CUBIC)


def _ramp(size_hw: tuple[int, int], angle: float) -> np.ndarray:
    """Return the signed distance of each pixel from the center along a direction, (H, W), in pixels."""
    rows = np.arange(size_hw[0], dtype=np.float32)[:, None] - np.float32(size_hw[0] / 2)
    columns = np.arange(size_hw[1], dtype=np.float32)[None] - np.float32(size_hw[1] / 2)
    return columns * np.float32(np.cos(angle)) + rows * np.float32(np.sin(angle))


def draw_clutter(rng: np.random.Generator, canvas: np.ndarray, count: int) -> None:
    """Draw clutter that belongs to no class into `canvas`: curved strokes, specks and lobed blobs."""
    side = min(canvas.shape[:2])
    for _ in range(count):
        color = tuple(float(c) for c in muted_color(rng))
        middle = rng.uniform(0, 1, 2) * (canvas.shape[1], canvas.shape[0])
        clutter_type = rng.integers(3)
        if clutter_type == 0:
            steps = rng.normal(0, side * 0.06, (rng.integers(3, 7), 2))
            bent = np.round((middle + steps.cumsum(0)) * 16).astype(np.int32)
            cv2.polylines(canvas, [bent], False, color, int(rng.integers(1, 4)), cv2.LINE_AA, shift=4)
        elif clutter_type == 1:
            specks = middle + rng.normal(0, side * 0.05, (rng.integers(4, 12), 2))
            for x, y in np.round(specks).astype(int).tolist():
                cv2.rectangle(canvas, (x, y), (x + int(rng.integers(1, 3)), y + 1), color, -1)
        else:
            turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            lobes, phase = rng.integers(2, 4), rng.uniform(0, 2 * np.pi)
            radius = rng.uniform(0.02, 0.08) * side * (1 + 0.55 * np.sin(lobes * turn + phase))
            outline = middle + radius[:, None] * np.stack((np.cos(turn), rng.uniform(0.4, 1) * np.sin(turn)), 1)
            cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], color, cv2.LINE_AA, shift=4)


def draw_occluding_strokes(rng: np.random.Generator, canvas: np.ndarray, count: int) -> np.ndarray:
    """Draw `count` thin strokes over the image; return the covered pixels, (H, W) bool."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for _ in range(count):
        ends = rng.uniform(0, 1, (2, 2)) * (canvas.shape[1], canvas.shape[0])
        first, second = (tuple(int(v) for v in np.round(end * 16)) for end in ends)
        color, width = tuple(float(c) for c in muted_color(rng)), int(rng.integers(1, 4))
        cv2.line(canvas, first, second, color, width, cv2.LINE_AA, shift=4)
        cv2.line(mask, first, second, 1, width, cv2.LINE_8, shift=4)
    return mask.astype(bool)


def apply_camera_noise(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Simulate a camera: a brightness gradient, blur and noise. `canvas` is modified.

    Returns:
        (H, W, 3) uint8.
    """
    light = 1 + rng.uniform(0, 0.35) * _ramp(canvas.shape[:2], rng.uniform(0, 2 * np.pi)) / max(canvas.shape[:2])
    cv2.multiply(canvas, cv2.merge((light, light, light)), dst=canvas)
    if rng.random() < 0.25:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.5, 1.2)))
    return add_gaussian_noise(rng, canvas, float(rng.uniform(2, 14)))


def add_gaussian_noise(rng: np.random.Generator, canvas: np.ndarray, sigma: float) -> np.ndarray:
    """Add Gaussian noise to an image and round it to (H, W, 3) uint8."""
    grain = rng.standard_normal(canvas.shape, dtype=np.float32)
    return cv2.addWeighted(grain, sigma, canvas, 1.0, 0.0, dtype=cv2.CV_8U)  # rounds and saturates
