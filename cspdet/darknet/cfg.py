"""Parser for Darknet cfg files. It stores sections of key=value options with their line numbers.

The grammar is that of Darknet. All whitespace is removed. `#` and `;` start a comment only at the beginning of a line.
A value ends at a `#`. If a section repeats a key, the first value is used. Darknet silently ignores lines and numbers
that it cannot parse; this parser reports them as errors.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cspdet.darknet.schema import ALIASES, HEAD_SECTIONS, SECTION_SCHEMAS, SectionSchema
from cspdet.errors import ConfigError, did_you_mean, truncate_list
from cspdet.io.text import decode_text, read_bytes

MAX_FILE_SIZE = 1_000_000  # characters; the longest released cfg has 50,000
MAX_SECTIONS = 4096
NUMBER_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
MAX_INT = 2**31 - 1  # Darknet parses C int values


@dataclass(frozen=True)
class Option:
    """Value of a key as text, with its line number."""

    text: str
    line: int


@dataclass(frozen=True)
class CfgSection:
    """A `[type]` section with its options. For an invalid value, `get_*` raises ConfigError with file, line and key."""

    section_type: str  # the long form: `convolutional` for [conv]
    line: int
    options: Mapping[str, Option]
    source: str

    def location(self, key: str | None = None) -> str:
        """Return `file:line` of the section or, if `key` is given, of this key."""
        option = None if key is None else self.options.get(key)
        return f"{self.source}:{self.line if option is None else option.line}"

    def error(self, message: str, key: str | None = None) -> ConfigError:
        """Create an error about the section or, if `key` is given, about this key."""
        return ConfigError(f"{self.location(key)}: [{self.section_type}] {f'{key}: ' if key else ''}{message}")

    def __contains__(self, key: str) -> bool:
        return key in self.options

    def get_int(self, key: str, default: int | None = None, *, min_value: int = 0, max_value: int = MAX_INT) -> int:
        """Return the integer value of a key, or `default` if the key is missing.

        Raises:
            ConfigError: The value is not an integer from `min_value` to `max_value`, or the key is missing and
                `default` is None.
        """
        if key not in self.options:
            if default is None:
                raise self.error(f"{key} is missing")
            return default
        value = self._parse_int(key, self._value_text(key))
        if not min_value <= value <= max_value:
            raise self.error(f"expected an integer from {min_value} to {max_value}, found {value}", key)
        return value

    def get_ints(self, key: str) -> tuple[int, ...]:
        """Return the comma-separated integers of a key. Raise ConfigError if the key is missing or an item invalid."""
        if key not in self.options:
            raise self.error(f"{key} is missing")
        return tuple(self._parse_int(key, text) for text in self._list_items(key))

    def get_float(self, key: str, default: float) -> float:
        """Return the finite number of a key, or `default` if the key is missing."""
        return self._parse_float(key, self._value_text(key)) if key in self.options else default

    def get_floats(self, key: str) -> tuple[float, ...]:
        """Return the comma-separated numbers of a key. Raise ConfigError if the key is missing or an item invalid."""
        if key not in self.options:
            raise self.error(f"{key} is missing")
        return tuple(self._parse_float(key, text) for text in self._list_items(key))

    def get_choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """Return the value of a key, or `default` if the key is missing. The value must be one of `choices`."""
        value = self._value_text(key) if key in self.options else default
        if value not in choices:
            raise self.error(f"unknown {value!r}{did_you_mean(value, choices)}; known: {', '.join(choices)}", key)
        return value

    def with_options(self, **values: object) -> CfgSection:
        """Return a copy of the section in which the given keys have new values."""
        new = {key: Option(str(value), self.options[key].line if key in self else self.line)
               for key, value in values.items()}  # fmt: skip
        return replace(self, options={**self.options, **new})

    def _value_text(self, key: str) -> str:
        return self.options[key].text.split("#")[0]

    def _list_items(self, key: str) -> list[str]:
        """Return the items of a comma-separated value; as in Darknet, the value may end with a comma."""
        return self._value_text(key).removesuffix(",").split(",")

    def _parse_int(self, key: str, text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", text):
            raise self.error(f"expected an integer, found {_quoted(text)}", key)
        return int(text)

    def _parse_float(self, key: str, text: str) -> float:
        if not NUMBER_PATTERN.fullmatch(text) or not math.isfinite(float(text)):
            raise self.error(f"expected a number, found {_quoted(text)}", key)
        return float(text)


@dataclass(frozen=True)
class Cfg:
    """A parsed cfg: the [net] section, and the layers in file order."""

    net: CfgSection
    layers: tuple[CfgSection, ...]
    source: str

    @property
    def ignored_keys(self) -> dict[str, int]:
        """Number of occurrences of each key that does not affect the network. A key is written as `[type] key`."""
        counts: dict[str, int] = {}
        for section in (self.net, *self.layers):
            for key in section.options:
                if key not in SECTION_SCHEMAS[section.section_type].read_keys:
                    name = f"[{section.section_type}] {key}"
                    counts[name] = counts.get(name, 0) + 1
        return counts

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.net.get_int("height", min_value=1, max_value=8192), self.net.get_int(
            "width", min_value=1, max_value=8192
        )

    @property
    def heads(self) -> tuple[CfgSection, ...]:
        """The [yolo] and [region] sections; empty for a classifier."""
        return tuple(section for section in self.layers if section.section_type in HEAD_SECTIONS)

    @property
    def num_classes(self) -> int:
        """Number of classes. Raises ConfigError if it is not equal in all [yolo] and [region] sections."""
        counts = [section.get_int("classes", 20, min_value=1, max_value=2**20) for section in self.heads]
        for section, count in zip(self.heads, counts, strict=True):
            if count != counts[0]:
                first = self.heads[0].section_type
                raise section.error(f"expected {counts[0]} as in the first [{first}], found {count}", "classes")
        return counts[0]


def read_cfg(path: str | Path) -> str:
    """Return the text of a cfg file.

    Raises:
        ConfigError: The file is missing, unreadable or too large.
    """
    path = Path(path)
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*.cfg")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{did_you_mean(path.name, siblings)}")
    data = read_bytes(path, MAX_FILE_SIZE, error=ConfigError)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return decode_text(data, str(path), error=ConfigError)
    return data.decode("utf-8-sig", errors="replace")  # comments may have any encoding


def _section_problems(section: CfgSection) -> list[str]:
    if section.section_type in SECTION_SCHEMAS:
        return _unsupported_keys(section, SECTION_SCHEMAS[section.section_type])
    known = ", ".join(f"[{section_type}]" for section_type in SECTION_SCHEMAS)
    unknown = f"[{section.section_type}]{did_you_mean(section.section_type, SECTION_SCHEMAS)}"
    return [f"{section.location()}: unknown section {unknown}; known: {known}"]


def parse_cfg(text: str, source: str) -> Cfg:
    """Parse the text of a cfg and check the types and keys of its sections.

    Args:
        source: Name of the file for messages.

    Raises:
        ConfigError: The cfg is invalid. The message has one line per error; each line starts with `source:line`.
    """
    sections, problems = _parse_sections(text, source)
    for section in sections:
        problems += _section_problems(section)
    if problems:
        raise ConfigError(*truncate_list(problems))
    if not sections or sections[0].section_type != "net":
        raise ConfigError(f"{source}: expected [net] as the first section")
    if len(sections) > MAX_SECTIONS:
        raise ConfigError(f"{source}: {len(sections)} sections; expected at most {MAX_SECTIONS}")
    duplicates = [section for section in sections[1:] if section.section_type == "net"]
    if duplicates:
        raise duplicates[0].error("is not the first [net]; expected only one")
    if len(sections) == 1:
        raise ConfigError(f"{source}: expected layers after [net], found none")
    return Cfg(sections[0], tuple(sections[1:]), source)


def anchor_mask(head: CfgSection) -> tuple[int, ...]:
    """Return the indices of the anchors that a [yolo] or [region] uses: its `mask`, or all if the key is missing."""
    return (
        head.get_ints("mask") if "mask" in head else tuple(range(head.get_int("num", 1, min_value=1, max_value=1000)))
    )


def _parse_sections(text: str, source: str) -> tuple[list[CfgSection], list[str]]:
    if len(text) > MAX_FILE_SIZE:
        raise ConfigError(f"{source}: {len(text):,} characters; expected a cfg of at most {MAX_FILE_SIZE:,}")
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
            problems.append(f"{source}:{line_number}: {_quoted(line)} is before the first [section]")
        else:
            key, value = line.split("=", 1)
            options.setdefault(key, Option(value, line_number))
    return sections, problems


def _unsupported_keys(section: CfgSection, schema: SectionSchema) -> list[str]:
    """Return one error message per key that is unknown or has an unsupported value."""
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
