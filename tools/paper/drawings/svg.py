"""Minimal SVG writer; the output is identical on all machines."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
TEXT_COLOR, MUTED_COLOR = "#24292f", "#57606a"
LINE_HEIGHT = 14
# Colors of the drawings, and their colors for readers with a dark color scheme.
DARK_COLORS = {
    "#ffffff": "#14181d", "#f6f8fa": "#1e242a", "#eaeef2": "#2a313a", "#ddf4ff": "#12365c", "#ffd8b5": "#5a3210",
    "#d2f4d3": "#144a22", "#e9d8fd": "#43306b", "#ffb77c": "#8a4b12", "#fff1e5": "#3a2a1c", "#ffc1ba": "#6e2a25",
    "#bc4c00": "#f0883e", "#0969da": "#58a6ff", "#1a7f37": "#56d364", "#57606a": "#9aa5b0", "#24292f": "#e6e9ec",
}  # fmt: skip


def dark_style() -> str:
    """Return the style element with the dark colors."""
    rules = "".join(
        f'[{name}="{light}"]{{{name}:{dark}}}' for light, dark in DARK_COLORS.items() for name in ("fill", "stroke")
    )
    return f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"


class SvgRect(NamedTuple):
    """A rectangle in pixels; x and y are the top left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + self.height / 2


class SvgCanvas:
    """An SVG image with a white background; later elements cover earlier ones."""

    def __init__(self, width: int, height: int, title: str):
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
            f' font-family="{FONT}">',
            f"<title>{escape(title)}</title>",
            dark_style(),
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])

    def box(self, box: SvgRect, lines: tuple[str, ...], fill: str) -> None:
        """Draw a rounded rectangle with centered lines of text, the first line in bold."""
        x, y, width, height = map(_format_number, box)
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{TEXT_COLOR}"/>'
        )
        top = box.y + (box.height - LINE_HEIGHT * len(lines)) / 2 + 11
        for i, line in enumerate(lines):
            self.text(
                box.x + box.width / 2,
                top + i * LINE_HEIGHT,
                line,
                size=11,
                anchor="middle",
                bold=i == 0,
                color=TEXT_COLOR,
            )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 12,
        anchor: str = "start",
        bold: bool = False,
        color: str = MUTED_COLOR,
    ) -> None:
        """Draw a line of text; y is the baseline."""
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{_format_number(x)}" y="{_format_number(y)}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{color}"{weight}>'
            f"{escape(text)}</text>"
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
        """Draw an arrow from left to right: straight, or an S-curve if the heights differ."""
        (x, y), (to_x, to_y) = start, end
        bend = (x + to_x) / 2
        tip = to_x - 5
        control = [_format_number(n) for n in (x, y, bend, y, bend, to_y, tip, to_y)]
        self._parts.append(
            f'<path d="M{control[0]} {control[1]} C{control[2]} {control[3]} {control[4]} {control[5]}'
            f' {control[6]} {control[7]}" fill="none" stroke="{color}" stroke-width="2"/>'
        )
        head = [(to_x, to_y), (to_x - 8, to_y - 4), (to_x - 8, to_y + 4)]
        points = " ".join(f"{_format_number(a)},{_format_number(b)}" for a, b in head)
        self._parts.append(f'<polygon points="{points}" fill="{color}"/>')

    def band(self, box: SvgRect, fill: str) -> None:
        """Draw a rectangle without border, as a background."""
        x, y, width, height = map(_format_number, box)
        self._parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"/>')


def _format_number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
