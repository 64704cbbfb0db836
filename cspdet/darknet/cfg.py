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

from cspdet.darknet.schema import ALIASES, SECTION_SCHEMAS, SectionSchema
from cspdet.errors import ConfigError, did_you_mean, truncate_list

MAX_FILE_SIZE = 1_000_000  # characters; the longest released cfg has 50,000
MAX_SECTIONS = 4096
NUMBER_PATTERN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
MAX_INT = 2**31 - 1  # what Darknet's own numbers hold


@dataclass(frozen=True)
class Option:
    """What stands behind a key, and in which line."""

    text: str
    line: int


@dataclass(frozen=True)
class CfgSection:
    """One `[kind]` with its options. The readers raise ConfigError, which names file, line and key."""

    section_type: str  # the long form: `convolutional` for [conv]
    line: int
    options: Mapping[str, Option]
    source: str

    def location(self, key: str | None = None) -> str:
        """`file:line` of the section, or of one of its keys."""
        option = None if key is None else self.options.get(key)
        return f"{self.source}:{self.line if option is None else option.line}"

    def error(self, message: str, key: str | None = None) -> ConfigError:
        """The error that says `text` of this section, or of one of its keys."""
        return ConfigError(f"{self.location(key)}: [{self.section_type}] {f'{key}: ' if key else ''}{message}")

    def __contains__(self, key: str) -> bool:
        return key in self.options

    def get_int(self, key: str, default: int | None = None, *, min_value: int = 0, max_value: int = MAX_INT) -> int:
        """A whole number from `low` to `high`; a key without default has to be there."""
        if key not in self.options:
            if default is None:
                raise self.error(f"{key} is missing")
            return default
        value = self._parse_int(key, self._value_text(key))
        if not min_value <= value <= max_value:
            raise self.error(f"expected a whole number from {min_value} to {max_value}, found {value}", key)
        return value

    def get_ints(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, which has to be there."""
        if key not in self.options:
            raise self.error(f"{key} is missing")
        return tuple(self._parse_int(key, text) for text in self._value_text(key).split(","))

    def get_float(self, key: str, default: float) -> float:
        return self._parse_float(key, self._value_text(key)) if key in self.options else default

    def get_floats(self, key: str) -> tuple[float, ...]:
        """A list of numbers, which has to be there."""
        if key not in self.options:
            raise self.error(f"{key} is missing")
        return tuple(self._parse_float(key, text) for text in self._value_text(key).split(","))

    def get_choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """One of the `valid` words."""
        value = self._value_text(key) if key in self.options else default
        if value not in choices:
            raise self.error(f"unknown {value!r}{did_you_mean(value, choices)}; known: {', '.join(choices)}", key)
        return value

    def with_options(self, **values: object) -> CfgSection:
        """The section with other values for these keys."""
        new = {key: Option(str(value), self.options[key].line if key in self else self.line)
               for key, value in values.items()}  # fmt: skip
        return replace(self, options={**self.options, **new})

    def _value_text(self, key: str) -> str:
        return self.options[key].text.split("#")[0]

    def _parse_int(self, key: str, text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", text):
            raise self.error(f"expected a whole number, found {_quoted(text)}", key)
        return int(text)

    def _parse_float(self, key: str, text: str) -> float:
        if not NUMBER_PATTERN.fullmatch(text) or not math.isfinite(float(text)):
            raise self.error(f"expected a number, found {_quoted(text)}", key)
        return float(text)


@dataclass(frozen=True)
class Cfg:
    """A cfg: its [net], its layers in order, and what it says that has no say in what the network computes."""

    net: CfgSection
    layers: tuple[CfgSection, ...]
    source: str

    @property
    def ignored_keys(self) -> dict[str, int]:
        """Keys that only Darknet's own training reads, as `[kind] key`, with how often they stand there."""
        found: dict[str, int] = {}
        for section in (self.net, *self.layers):
            for key in section.options:
                if key not in SECTION_SCHEMAS[section.section_type].read_keys:
                    name = f"[{section.section_type}] {key}"
                    found[name] = found.get(name, 0) + 1
        return found

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the pictures that the network is made for."""
        return self.net.get_int("height", min_value=1, max_value=8192), self.net.get_int(
            "width", min_value=1, max_value=8192
        )

    @property
    def heads(self) -> tuple[CfgSection, ...]:
        """The [yolo] sections: none in a classifier."""
        return tuple(section for section in self.layers if section.section_type == "yolo")

    @property
    def num_classes(self) -> int:
        """How many classes the [yolo] sections tell apart, which have to agree."""
        counts = [section.get_int("classes", 20, min_value=1, max_value=2**20) for section in self.heads]
        for section, count in zip(self.heads, counts, strict=True):
            if count != counts[0]:
                raise section.error(f"expected {counts[0]} as in the first [yolo], found {count}", "classes")
        return counts[0]


def read_cfg(path: str | Path) -> str:
    """The text of a cfg file.

    Raises:
        ConfigError: missing or unreadable.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes are no cfg; expected {MAX_FILE_SIZE:,} at most")
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.cfg")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{did_you_mean(path.name, siblings)}") from None
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror or error}") from None


def parse_cfg(text: str, source: str) -> Cfg:
    """Sections of a cfg, every kind and key of it known.

    Raises:
        ConfigError: with one line for each mistake, `source:line: ...`.
    """
    sections, problems = _parse_sections(text, source)
    for section in sections:
        if section.section_type in SECTION_SCHEMAS:
            problems += _unsupported_keys(section, SECTION_SCHEMAS[section.section_type])
        else:
            known = f"; known: {', '.join(f'[{section_type}]' for section_type in SECTION_SCHEMAS)}"
            problems.append(
                f"{section.location()}: unknown section [{section.section_type}]{did_you_mean(section.section_type, SECTION_SCHEMAS)}{known}"
            )
    if problems:
        raise ConfigError(*truncate_list(problems))
    if not sections or sections[0].section_type != "net":
        raise ConfigError(f"{source}: a cfg begins with a [net] section")
    if len(sections) > MAX_SECTIONS:
        raise ConfigError(f"{source}: {len(sections)} sections; expected {MAX_SECTIONS} at most")
    duplicates = [section for section in sections[1:] if section.section_type == "net"]
    if duplicates:
        raise duplicates[0].error("stands a second time")
    if len(sections) == 1:
        raise ConfigError(f"{source}: has no layer behind its [net]")
    return Cfg(sections[0], tuple(sections[1:]), source)


def with_num_classes(cfg: Cfg, num_classes: int) -> Cfg:
    """The cfg for another number of classes: its [yolo] sections, and the filters of the convolutions before them.

    Raises:
        ConfigError: a [yolo] without a convolution before it.
    """
    layers = list(cfg.layers)
    for i, section in enumerate(cfg.layers):
        if section.section_type != "yolo" or section.get_int("classes", 20) == num_classes:
            continue
        if i == 0 or layers[i - 1].section_type != "convolutional":
            raise section.error("stands behind no [convolutional], whose filters could follow the number of classes")
        layers[i] = section.with_options(classes=num_classes)
        layers[i - 1] = layers[i - 1].with_options(filters=len(anchor_mask(section)) * (5 + num_classes))
    return replace(cfg, layers=tuple(layers))


def anchor_mask(yolo: CfgSection) -> tuple[int, ...]:
    """Which of its anchors a [yolo] section uses: those that it names, else all."""
    return (
        yolo.get_ints("mask") if "mask" in yolo else tuple(range(yolo.get_int("num", 1, min_value=1, max_value=1000)))
    )


def _parse_sections(text: str, source: str) -> tuple[list[CfgSection], list[str]]:
    if len(text) > MAX_FILE_SIZE:
        raise ConfigError(f"{source}: {len(text):,} characters are no cfg; expected {MAX_FILE_SIZE:,} at most")
    sections: list[CfgSection] = []
    problems: list[str] = []
    options: dict[str, Option] = {}
    for line_number, raw in enumerate(text.split("\n"), start=1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        if heading := re.fullmatch(r"\[([^\]]*)\](#.*)?", line):
            options = {}
            section_type = ALIASES.get(heading.group(1), heading.group(1))
            sections.append(CfgSection(section_type, line_number, options, source))
        elif "=" not in line or line[0] in "[=":
            problems.append(f"{source}:{line_number}: expected [section] or key=value, found {_quoted(line)}")
        elif not sections:
            problems.append(f"{source}:{line_number}: {_quoted(line)} stands before the first [section]")
        else:
            key, value = line.split("=", 1)
            options.setdefault(key, Option(value, line_number))
    return sections, problems


def _unsupported_keys(section: CfgSection, schema: SectionSchema) -> list[str]:
    """One line for each key that is not known, or that asks for what is not implemented."""
    problems = []
    for key, option in section.options.items():
        if key in schema.fixed_values:
            plain = option.text.split("#")[0]
            if plain not in schema.fixed_values[key]:
                found = f"{key}={plain} is not supported; only {key}={schema.fixed_values[key][0]} is"
                problems.append(f"{section.location(key)}: [{section.section_type}] {found}")
        elif key not in schema.known_keys:
            hint = did_you_mean(key, sorted(schema.known_keys))
            problems.append(f"{section.location(key)}: [{section.section_type}] unknown key {_quoted(key)}{hint}")
    return problems


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."
