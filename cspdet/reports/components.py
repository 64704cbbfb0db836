"""Components of a report page as plain data: sections with paragraphs, charts, tables, galleries and controls."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Charts:
    """Several charts, placed side by side."""

    items: tuple[Chart, ...]
    block_type: ClassVar[str] = "charts"


@dataclass(frozen=True)
class Matrix:
    """A matrix of counts as a table; the color of a cell shows its fraction of the total of its row.

    Attributes:
        caption: Title of the table.
        row_label: What the rows are.
        column_label: What the columns are.
        rows: Names of the rows.
        columns: Names of the columns.
        counts: Count of each cell, by row and column.
        totals: Total of each row, including columns that are left out.
    """

    caption: str
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[int, ...]
    block_type: ClassVar[str] = "matrix"


@dataclass(frozen=True)
class Explorer:
    """A slider of the score threshold with the counts at the threshold, and filters by class and error type.

    Attributes:
        key: Identifier in the page, shared with the gallery that the slider and the filters change.
        data: Thresholds, classes and counts as JSON values, for the script of the page.
        start: Index of the initial threshold in `data["thresholds"]`.
        values: Counts, precision, recall and F1 of all classes at the initial threshold.
        classes: The same values of each class at the initial threshold.
        error_types: Number of errors of each type at the initial threshold.
    """

    key: str
    data: Mapping[str, object]
    start: int
    values: tuple[tuple[str, CellValue], ...]
    classes: Table
    error_types: Table
    block_type: ClassVar[str] = "explorer"


@dataclass(frozen=True)
class Preformatted:
    """Text with its line breaks, such as a config file, collapsed under its title."""

    title: str
    text: str
    block_type: ClassVar[str] = "preformatted"


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
        data: Names and values of the data attributes that the script of the page reads.
        is_hidden: Whether the box is hidden until the reader selects it.
    """

    x: float
    y: float
    width: float
    height: float
    style: str
    tag: str
    text: str
    data: tuple[tuple[str, str], ...] = ()
    is_hidden: bool = False


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
    large: bool = False  # at most two cards per row
    explorer_key: str = ""  # of the explorer that selects cards and boxes
    layers: tuple[str, ...] = ()  # names of the sets of boxes, of which one at a time is visible
    block_type: ClassVar[str] = "gallery"


Block = Paragraph | Stats | Messages | Table | Charts | Matrix | Explorer | Preformatted | Gallery


@dataclass(frozen=True)
class ReportSection:
    """A section of a page with a heading and blocks; the table of contents links to `anchor`."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    group: str = ""  # heading for consecutive sections of one group in the table of contents
