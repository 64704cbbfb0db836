"""Components of a report page as plain data: sections with paragraphs, stats, charts, tables and galleries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

CellValue = str | int | float | None  # None is shown as a dash and sorted last


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    block_type: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Stat:
    """A highlighted value with a label."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Stats:
    """A row of highlighted values."""

    items: tuple[Stat, ...]
    block_type: ClassVar[str] = "stats"


@dataclass(frozen=True)
class Messages:
    """A list of messages; `level` is error, note or good."""

    level: str
    lines: tuple[str, ...]
    block_type: ClassVar[str] = "messages"


@dataclass(frozen=True)
class Column:
    """A table column, with the format and sort order of its values."""

    label: str
    digits: int | None = None  # number of decimals; None: text, counts, or four significant digits
    is_numeric: bool = False
    bar_max: float | None = None  # value at which the bar fills the cell; None: no bars
    signed: bool = False  # show a plus sign before positive values
    prose: bool = False  # long text that needs a wide column
    tooltip: str = ""  # tooltip of the column heading


@dataclass(frozen=True)
class Table:
    """A sortable table. With `collapsed`, only the caption is visible until the reader opens the table."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[CellValue, ...], ...]
    collapsed: bool = False
    block_type: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.caption}: {len(self.columns)} columns, but a row of {len(row)}")


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a legend: its text, and the CSS class that colors its swatch."""

    css_class: str
    text: str


@dataclass(frozen=True)
class Chart:
    """An SVG chart with a legend.

    `choices` are the names of the hidden series that the reader can select from a list.
    """

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...] = ()
    note: str = ""
    choices: tuple[str, ...] = ()
    wide: bool = False  # uses the full width, and scrolls horizontally on narrow screens


@dataclass(frozen=True)
class Charts:
    """Several charts, placed side by side."""

    items: tuple[Chart, ...]
    block_type: ClassVar[str] = "charts"


@dataclass(frozen=True)
class BoxOverlay:
    """A box drawn over an image, in SVG units.

    Attributes:
        x: Left side.
        y: Upper side.
        width: Width of the box.
        height: Height of the box.
        style: CSS class.
        tag: Label of one or two letters, drawn at the box.
        text: Tooltip.
    """

    x: float
    y: float
    width: float
    height: float
    style: str
    tag: str
    text: str


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that is embedded in the page, with boxes drawn over it; width and height are in SVG units."""

    data_url: str  # the image as a data: URL
    width: int
    height: int
    overlays: tuple[BoxOverlay, ...]
    alt_text: str


@dataclass(frozen=True)
class Card:
    """One or more images with captions and collapsible details."""

    images: tuple[EmbeddedImage, ...]
    title: str
    lines: tuple[str, ...] = ()
    details: tuple[str, ...] = ()  # collapsed
    summary: str = ""  # heading of the details


@dataclass(frozen=True)
class Gallery:
    """Several cards, placed side by side, with one legend."""

    title: str
    cards: tuple[Card, ...]
    legend: tuple[LegendEntry, ...] = ()
    note: str = ""
    small: bool = False  # more cards per row
    block_type: ClassVar[str] = "gallery"


Block = Paragraph | Stats | Messages | Table | Charts | Gallery


@dataclass(frozen=True)
class ReportSection:
    """A section of a page with a heading and blocks; the table of contents links to `anchor`."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    group: str = ""  # heading for consecutive sections of one group in the table of contents
