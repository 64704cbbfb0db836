"""Random changes of hue, saturation and brightness, as in Darknet."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import cv2
import numpy as np


class HsvRanges(Protocol):
    """The config keys that `random_hsv_gains` reads."""

    @property
    def hue(self) -> float:
        """Maximum hue shift, as a fraction of the color circle."""

    @property
    def saturation(self) -> float:
        """Maximum factor of the saturation, 1 or more."""

    @property
    def exposure(self) -> float:
        """Maximum factor of the brightness, 1 or more."""


class HsvGains(NamedTuple):
    """A color change in HSV."""

    hue: float  # shift, as a fraction of the color circle
    saturation: float  # factor
    value: float  # factor


def random_hsv_gains(config: HsvRanges, rng: np.random.Generator) -> HsvGains | None:
    """Draw random HSV gains as in Darknet; return None if the config does not change colors.

    The hue shift is drawn from [-hue, hue]. Each factor is drawn from [1, maximum], and inverted with probability 0.5.
    """
    if config.hue == 0 and config.saturation == 1 and config.exposure == 1:
        return None
    hue, saturation, divide_saturation, value, divide_value = rng.random(5).tolist()
    saturation, value = 1 + saturation * (config.saturation - 1), 1 + value * (config.exposure - 1)
    return HsvGains(
        (2 * hue - 1) * config.hue,
        1 / saturation if divide_saturation < 0.5 else saturation,
        1 / value if divide_value < 0.5 else value,
    )


def apply_hsv(image: np.ndarray, gains: HsvGains) -> np.ndarray:
    """Apply HSV gains to a uint8 RGB or RGBA image (h, w, 3 or 4); return a new RGB image (h, w, 3).

    Values outside of [0, 255] are clipped.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    height, width = hsv.shape[:2]
    # Processing whole rows is faster than a lookup table per channel. Hue uses the full range of uint8, so that sums
    # wrap around like the color circle. The factors are stored as uint8 multiples of 1 / unit.
    rows = hsv.reshape(height, 3 * width)
    rows += _repeat_pixel((round(gains.hue * 256) % 256, 0, 0), width)
    unit = int(255 / max(1.0, gains.saturation, gains.value))
    factors = np.empty_like(rows)
    factors[...] = _repeat_pixel((unit, round(gains.saturation * unit), round(gains.value * unit)), width)
    cv2.multiply(rows, factors, dst=rows, scale=1 / unit)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv)


def _repeat_pixel(pixel: tuple[int, int, int], width: int) -> np.ndarray:
    """Return a row of `width` equal pixels, (3 * width,) uint8."""
    row = np.empty((width, 3), np.uint8)
    row[...] = pixel
    return row.reshape(-1)
