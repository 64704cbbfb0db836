"""What a page is made of: sections of paragraphs, figures, charts, tables and galleries. Data only, no markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

CellValue = str | int | float | None  # None is shown as a dash and sorted last


@dataclass(frozen=True)
class Paragraph:
    """Text between the other parts."""

    text: str
    block_type: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Stat:
    """One figure that stands out."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Stats:
    """The figures to see first."""

    items: tuple[Stat, ...]
    block_type: ClassVar[str] = "stats"


@dataclass(frozen=True)
class Messages:
    """Lines that each tell a finding; `level` is error, note or good."""

    level: str
    lines: tuple[str, ...]
    block_type: ClassVar[str] = "messages"


@dataclass(frozen=True)
class Column:
    """How the values of a column are shown and sorted."""

    label: str
    digits: int | None = None  # behind the point, of numbers; None for text, counts, and what varies in size
    is_numeric: bool = False
    bar_max: float | None = None  # the value whose bar fills the cell; None draws no bars
    signed: bool = False  # a plus before what is above 0
    prose: bool = False  # text of some length, which needs room
    tooltip: str = ""  # told when the pointer rests on the heading


@dataclass(frozen=True)
class Table:
    """Rows under sortable headings; `folded` ones open on demand."""

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
    """An entry of a legend: the class of the mark in the style sheet, and what it means."""

    css_class: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawing with its legend; `choices` are the names that a list lets the reader pick, drawn on demand."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...] = ()
    note: str = ""
    choices: tuple[str, ...] = ()
    wide: bool = False  # needs a row of its own, and scrolls sideways where that is narrow


@dataclass(frozen=True)
class Charts:
    """Charts side by side as far as there is room."""

    items: tuple[Chart, ...]
    block_type: ClassVar[str] = "charts"


@dataclass(frozen=True)
class BoxOverlay:
    """A box on a shown picture, in units of its drawing; `tag` is a letter or two, `style` names its looks."""

    x: float
    y: float
    width: float
    height: float
    style: str
    tag: str
    text: str


@dataclass(frozen=True)
class EmbeddedImage:
    """A picture inside the page with what is drawn on it; width and height are units of the drawing."""

    data_url: str  # a data: address
    width: int
    height: int
    overlays: tuple[BoxOverlay, ...]
    alt_text: str  # for those who do not see it


@dataclass(frozen=True)
class Card:
    """One or more pictures and what there is to say of them."""

    images: tuple[EmbeddedImage, ...]
    title: str
    lines: tuple[str, ...] = ()
    details: tuple[str, ...] = ()  # folded away
    summary: str = ""  # of the details


@dataclass(frozen=True)
class Gallery:
    """Cards side by side under one legend."""

    title: str
    cards: tuple[Card, ...]
    legend: tuple[LegendEntry, ...] = ()
    note: str = ""
    small: bool = False  # more cards in a row
    block_type: ClassVar[str] = "gallery"


Block = Paragraph | Stats | Messages | Table | Charts | Gallery


@dataclass(frozen=True)
class ReportSection:
    """A heading, to which the contents link, and what stands below it."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    group: str = ""  # the contents gather sections of one group under its name
