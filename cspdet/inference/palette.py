"""Colors of classes and of chart series, for drawings, plots and HTML pages."""

from __future__ import annotations

from functools import lru_cache

RGB = tuple[int, int, int]  # 0 to 255 each

BLACK, WHITE = (0, 0, 0), (255, 255, 255)

# The colors of Okabe and Ito (2008), changed so that all pairs of the first 8 have a CIEDE2000 difference above 12 for
# readers with deuteranopia and with protanopia; wine replaces black. Each further color is the one with the largest
# smallest difference from all earlier colors; for this, differences under color blindness count twice.
_CLASS_DIGITS = (
    "0072b2 d06010 009e73 c27ba4 56b4e9 e69f00 fbef44 882255 445522 66ffee 4400dd ffbbaa 8877ff dd3355 337777 "
    "aaaa66 ddccff cc11aa 88dd66 886644 444477 991100 ffaacc 1155ff ffdd99 77bbaa 774444 dd8888 00aabb bbeecc "
    "aa5577 ff77dd ff6644 775588 ff4499 8811aa 005555 776622 119922 bb66cc aadd00 005533 996666 bb0055 00dd99 "
    "88dddd ddaa88 aa00ee 779944 dd99ff ddeebb 558855 aa7766 aa1133 aa4400 ddee77 ee33ee 0088bb 774466 bb4433 "
    "007755 ccbb44 dd6677 881177 3388dd aa5599 aa99cc 009999 77aa88 ff88aa 1144cc 33ff99 ddaadd aa7788 00ccbb "
    "885566 ccaa55 00ddee 886688 aa9966"
)
CLASS_COLORS = tuple(f"#{digits}" for digits in _CLASS_DIGITS.split())

# Lines and bars of charts: blue, vermilion, green, purple, sky and brown or yellow. The contrast with the page is at
# least 3. All pairs differ by more than 12 (CIEDE2000) under deuteranopia and under protanopia.
SERIES_ON_LIGHT = ("#004fa8", "#d45e00", "#009e74", "#b0588f", "#0997f5", "#6c4d02")  # on LIGHT_PAGE
SERIES_ON_DARK = ("#35a7fe", "#e7863c", "#05d9a2", "#e19abe", "#c0e0ff", "#ead725")  # on DARK_PAGE
LIGHT_PAGE, DARK_PAGE = "#ffffff", "#14181d"  # backgrounds of pages and plots


def class_color(class_id: int) -> RGB:
    """Return the color of a class. The color depends only on `class_id`."""
    return to_rgb(CLASS_COLORS[class_id % len(CLASS_COLORS)])


def to_rgb(color: str) -> RGB:
    """Convert `#rrggbb` to red, green and blue."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@lru_cache(maxsize=1024)
def text_color(background: RGB) -> RGB:
    """Return the color of text on `background`: black or white, the one with the higher contrast.

    This contrast is at least 4.5.
    """
    return max(BLACK, WHITE, key=lambda color: contrast(color, background))


def contrast(first: RGB, second: RGB) -> float:
    """Compute the contrast ratio of two colors by WCAG 2: 1 for equal colors, 21 for black and white."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: RGB) -> float:
    """Compute the relative luminance of WCAG 2: 0 for black, 1 for white."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
