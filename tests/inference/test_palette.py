"""Colors: differences that color-blind readers see, contrast of texts, and the tables themselves.

Differences are computed here: CIEDE2000 (Sharma, Wu and Dalal 2005), after the matrices of Machado, Oliveira and
Fernandes (2009) for full deuteranopia and protanopia, and those of Vienot, Brettel and Mollon (1999).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cspdet.inference.palette import (
    CLASS_COLORS,
    DARK_PAGE,
    LIGHT_PAGE,
    SERIES_ON_DARK,
    SERIES_ON_LIGHT,
    class_color,
    contrast,
    text_color,
    to_rgb,
)

# Linear RGB as other eyes see it.
MACHADO_DEUTAN = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
MACHADO_PROTAN = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
RGB_TO_LMS = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
LMS_PROTAN = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
LMS_DEUTAN = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
EYES = {
    "deuteranopia (Machado)": MACHADO_DEUTAN,
    "protanopia (Machado)": MACHADO_PROTAN,
    "deuteranopia (Vienot)": np.linalg.inv(RGB_TO_LMS) @ LMS_DEUTAN @ RGB_TO_LMS,
    "protanopia (Vienot)": np.linalg.inv(RGB_TO_LMS) @ LMS_PROTAN @ RGB_TO_LMS,
}
SRGB_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                        [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
WHITE_XYZ = np.array([0.95047, 1.0, 1.08883])  # D65


def linear(colors):
    values = np.array([to_rgb(color) for color in colors]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb):
    ratio = linear_rgb @ SRGB_TO_XYZ.T / WHITE_XYZ
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def ciede2000(first, second):
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = np.arctan2(b1, a1 * stretch), np.arctan2(b2, a2 * stretch)
    turn = np.where(c1 * c2 > 0, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi, 0)
    hue = np.where(c1 * c2 > 0, h1 + turn / 2, h1 + h2)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = (1 - 0.17 * np.cos(hue - np.radians(30)) + 0.24 * np.cos(2 * hue)
         + 0.32 * np.cos(3 * hue + np.radians(6)) - 0.2 * np.cos(4 * hue - np.radians(63)))  # fmt: skip
    at_blue = np.exp(-(((np.degrees(hue) % 360 - 275) / 25) ** 2))
    rotation = -np.sin(np.radians(60) * at_blue) * 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    dl = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * chroma * t)
    return np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh)


def smallest_difference(colors, eye=None):
    seen = linear(colors)
    seen = lab(seen if eye is None else np.clip(seen @ eye.T, 0, 1))
    return float((ciede2000(seen[:, None], seen[None]) + np.eye(len(colors)) * 999).min())


@pytest.mark.parametrize(
    ("first", "second", "expected"),  # Sharma, Wu and Dalal 2005, table 1: pairs 1, 7, 10, 14, 17, 19, 25, 32 and 33
    [
        ((50.0000, 2.6772, -79.7751), (50.0000, 0.0000, -82.7485), 2.0425),
        ((50.0000, 0.0000, 0.0000), (50.0000, -1.0000, 2.0000), 2.3669),
        ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0010), 7.1792),
        ((50.0000, -0.0010, 2.4900), (50.0000, 0.0011, -2.4900), 4.7461),
        ((50.0000, 2.5000, 0.0000), (73.0000, 25.0000, -18.0000), 27.1492),
        ((50.0000, 2.5000, 0.0000), (56.0000, -27.0000, -3.0000), 31.9030),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_of_the_tests_has_the_published_values(first, second, expected):
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=5e-5)


def test_the_lab_of_the_tests_has_the_published_values():
    assert lab(linear(["#ff0000", "#ffffff"])) == pytest.approx(
        np.array([[53.24, 80.09, 67.20], [100, 0, 0]]), abs=0.02
    )


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colors", [CLASS_COLORS[:8], SERIES_ON_LIGHT, SERIES_ON_DARK])
def test_all_pairs_differ_for_color_blind_readers(colors, eye):
    assert smallest_difference(colors, EYES[eye]) > 12


def test_the_smallest_differences_of_the_first_8_classes():
    assert smallest_difference(CLASS_COLORS[:8]) == pytest.approx(22.2, abs=0.1)
    assert smallest_difference(CLASS_COLORS[:8], MACHADO_DEUTAN) == pytest.approx(13.1, abs=0.1)
    assert smallest_difference(CLASS_COLORS[:8], MACHADO_PROTAN) == pytest.approx(12.6, abs=0.1)
    okabe_ito = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000")
    assert smallest_difference(okabe_ito, MACHADO_DEUTAN) == pytest.approx(11.6, abs=0.1), "why the colors are changed"


def test_80_classes_have_80_colors_of_varied_lightness():
    lightness = lab(linear(CLASS_COLORS))[:, 0]
    assert len(CLASS_COLORS) == len({class_color(i) for i in range(80)}) == 80
    assert lightness.min() > 30
    assert lightness.max() < 94
    assert lightness.std() > 15
    assert smallest_difference(CLASS_COLORS) > 7.5
    assert min(smallest_difference(CLASS_COLORS, eye) for eye in (MACHADO_DEUTAN, MACHADO_PROTAN)) > 3.9
    assert class_color(83) == class_color(3) == (0xC2, 0x7B, 0xA4)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_texts_have_enough_contrast_on_any_background(background):
    assert contrast(text_color(background), background) >= 4.5


def test_contrast_has_the_values_of_wcag():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x77, 0x77, 0x77), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)
    assert contrast((9, 9, 9), (9, 9, 9)) == 1


@pytest.mark.parametrize(("page", "colors"), [(LIGHT_PAGE, SERIES_ON_LIGHT), (DARK_PAGE, SERIES_ON_DARK)])
def test_lines_of_charts_stand_out_from_the_page(page, colors):
    assert min(contrast(to_rgb(color), to_rgb(page)) for color in colors) >= 3
