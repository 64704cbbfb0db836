"""Darknet's cfg files as sections whose values know their line.

The grammar is Darknet's: all blanks of a line go, `#` and `;` begin a comment only at its start, the first of two equal
keys counts, numbers stop at a `#`. What Darknet passes over in silence, lines it cannot read and words that are no
numbers, is an error here: it has always been a mistake in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cspdet.darknet.schema import ALIASES, KINDS, Kind
from cspdet.errors import ConfigError, counted, nearest

LARGEST_FILE = 1_000_000  # characters; the longest released cfg has 50,000
MOST_SECTIONS = 4096
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
LARGEST_WHOLE_NUMBER = 2**31 - 1  # what Darknet's own numbers hold


@dataclass(frozen=True)
class Option:
    """What stands behind a key, and in which line."""

    text: str
    line: int


@dataclass(frozen=True)
class Section:
    """One `[kind]` with its options. The readers raise ConfigError, which names file, line and key."""

    kind: str  # the long form: `convolutional` for [conv]
    line: int
    options: Mapping[str, Option]
    source: str

    def where(self, key: str | None = None) -> str:
        """`file:line` of the section, or of one of its keys."""
        option = None if key is None else self.options.get(key)
        return f"{self.source}:{self.line if option is None else option.line}"

    def problem(self, text: str, key: str | None = None) -> ConfigError:
        """The error that says `text` of this section, or of one of its keys."""
        return ConfigError(f"{self.where(key)}: [{self.kind}] {f'{key}: ' if key else ''}{text}")

    def __contains__(self, key: str) -> bool:
        return key in self.options

    def whole(self, key: str, default: int | None = None, *, low: int = 0, high: int = LARGEST_WHOLE_NUMBER) -> int:
        """A whole number from `low` to `high`; a key without default has to be there."""
        if key not in self.options:
            if default is None:
                raise self.problem(f"{key} is missing")
            return default
        number = self._whole(key, self._text(key))
        if not low <= number <= high:
            raise self.problem(f"expected a whole number from {low} to {high}, found {number}", key)
        return number

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, which has to be there."""
        if key not in self.options:
            raise self.problem(f"{key} is missing")
        return tuple(self._whole(key, word) for word in self._text(key).split(","))

    def number(self, key: str, default: float) -> float:
        return self._number(key, self._text(key)) if key in self.options else default

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers, which has to be there."""
        if key not in self.options:
            raise self.problem(f"{key} is missing")
        return tuple(self._number(key, word) for word in self._text(key).split(","))

    def word(self, key: str, default: str, valid: Iterable[str]) -> str:
        """One of the `valid` words."""
        word = self._text(key) if key in self.options else default
        if word not in valid:
            raise self.problem(f"unknown {word!r}{nearest(word, valid)}; known: {', '.join(valid)}", key)
        return word

    def changed(self, **values: object) -> Section:
        """The section with other values for these keys."""
        new = {key: Option(str(value), self.options[key].line if key in self else self.line)
               for key, value in values.items()}  # fmt: skip
        return replace(self, options={**self.options, **new})

    def _text(self, key: str) -> str:
        return self.options[key].text.split("#")[0]

    def _whole(self, key: str, word: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", word):
            raise self.problem(f"expected a whole number, found {_quoted(word)}", key)
        return int(word)

    def _number(self, key: str, word: str) -> float:
        if not NUMBER.fullmatch(word) or not math.isfinite(float(word)):
            raise self.problem(f"expected a number, found {_quoted(word)}", key)
        return float(word)


@dataclass(frozen=True)
class Cfg:
    """A cfg: its [net], its layers in order, and what it says that has no say in what the network computes."""

    net: Section
    layers: tuple[Section, ...]
    source: str

    @property
    def hints(self) -> dict[str, int]:
        """Keys that only Darknet's own training reads, as `[kind] key`, with how often they stand there."""
        found: dict[str, int] = {}
        for section in (self.net, *self.layers):
            for key in section.options:
                if key not in KINDS[section.kind].read:
                    name = f"[{section.kind}] {key}"
                    found[name] = found.get(name, 0) + 1
        return found

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the pictures that the network is made for."""
        return self.net.whole("height", low=1, high=8192), self.net.whole("width", low=1, high=8192)

    @property
    def heads(self) -> tuple[Section, ...]:
        """The [yolo] sections: none in a classifier."""
        return tuple(section for section in self.layers if section.kind == "yolo")

    @property
    def classes(self) -> int:
        """How many classes the [yolo] sections tell apart, which have to agree."""
        counts = [section.whole("classes", 20, low=1, high=2**20) for section in self.heads]
        for section, count in zip(self.heads, counts, strict=True):
            if count != counts[0]:
                raise section.problem(f"expected {counts[0]} as in the first [yolo], found {count}", "classes")
        return counts[0]


def read_cfg(path: str | Path) -> str:
    """The text of a cfg file.

    Raises:
        ConfigError: missing or unreadable.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes are no cfg; expected {LARGEST_FILE:,} at most")
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.cfg")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{nearest(path.name, siblings)}") from None
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror or error}") from None


def parse_cfg(text: str, source: str) -> Cfg:
    """Sections of a cfg, every kind and key of it known.

    Raises:
        ConfigError: with one line for each mistake, `source:line: ...`.
    """
    sections, problems = _sections(text, source)
    for section in sections:
        if section.kind in KINDS:
            problems += _unknown_keys(section, KINDS[section.kind])
        else:
            known = f"; known: {', '.join(f'[{kind}]' for kind in KINDS)}"
            problems.append(f"{section.where()}: unknown section [{section.kind}]{nearest(section.kind, KINDS)}{known}")
    if problems:
        raise ConfigError(*counted(problems))
    if not sections or sections[0].kind != "net":
        raise ConfigError(f"{source}: a cfg begins with a [net] section")
    if len(sections) > MOST_SECTIONS:
        raise ConfigError(f"{source}: {len(sections)} sections; expected {MOST_SECTIONS} at most")
    again = [section for section in sections[1:] if section.kind == "net"]
    if again:
        raise again[0].problem("stands a second time")
    if len(sections) == 1:
        raise ConfigError(f"{source}: has no layer behind its [net]")
    return Cfg(sections[0], tuple(sections[1:]), source)


def with_classes(cfg: Cfg, classes: int) -> Cfg:
    """The cfg for another number of classes: its [yolo] sections, and the filters of the convolutions before them.

    Raises:
        ConfigError: a [yolo] without a convolution before it.
    """
    layers = list(cfg.layers)
    for i, section in enumerate(cfg.layers):
        if section.kind != "yolo" or section.whole("classes", 20) == classes:
            continue
        if i == 0 or layers[i - 1].kind != "convolutional":
            raise section.problem("stands behind no [convolutional], whose filters could follow the number of classes")
        layers[i] = section.changed(classes=classes)
        layers[i - 1] = layers[i - 1].changed(filters=len(mask_of(section)) * (5 + classes))
    return replace(cfg, layers=tuple(layers))


def mask_of(yolo: Section) -> tuple[int, ...]:
    """Which of its anchors a [yolo] section uses: those that it names, else all."""
    return yolo.wholes("mask") if "mask" in yolo else tuple(range(yolo.whole("num", 1, low=1, high=1000)))


def _sections(text: str, source: str) -> tuple[list[Section], list[str]]:
    if len(text) > LARGEST_FILE:
        raise ConfigError(f"{source}: {len(text):,} characters are no cfg; expected {LARGEST_FILE:,} at most")
    sections: list[Section] = []
    problems: list[str] = []
    options: dict[str, Option] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        if heading := re.fullmatch(r"\[([^\]]*)\](#.*)?", line):
            options = {}
            kind = ALIASES.get(heading.group(1), heading.group(1))
            sections.append(Section(kind, number, options, source))
        elif "=" not in line or line[0] in "[=":
            problems.append(f"{source}:{number}: expected [section] or key=value, found {_quoted(line)}")
        elif not sections:
            problems.append(f"{source}:{number}: {_quoted(line)} stands before the first [section]")
        else:
            key, value = line.split("=", 1)
            options.setdefault(key, Option(value, number))
    return sections, problems


def _unknown_keys(section: Section, kind: Kind) -> list[str]:
    """One line for each key that is not known, or that asks for what is not implemented."""
    problems = []
    for key, option in section.options.items():
        if key in kind.fixed:
            plain = option.text.split("#")[0]
            if plain not in kind.fixed[key]:
                found = f"{key}={plain} is not supported; only {key}={kind.fixed[key][0]} is"
                problems.append(f"{section.where(key)}: [{section.kind}] {found}")
        elif key not in kind.known:
            hint = nearest(key, sorted(kind.known))
            problems.append(f"{section.where(key)}: [{section.kind}] unknown key {_quoted(key)}{hint}")
    return problems


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."
