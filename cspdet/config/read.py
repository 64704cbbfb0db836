"""Read YAML 1.2 to built-in types with line numbers."""

from __future__ import annotations

import os
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedKeySeq, CommentedMap, CommentedOrderedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cspdet.errors import ConfigError, did_you_mean
from cspdet.io.text import read_text

KeyPath = tuple[str | int, ...]  # keys from the root to a value: ("model", "head", "anchors", 0)
FileContent = tuple[Any, dict[KeyPath, str]]  # values of built-in types, and the `file:line` of each key and item
MAX_YAML_BYTES = 2**20  # ruamel reads it in 30 s; the longest released config has 6 kB
MAX_YAML_VALUES = 100_000  # with the values of aliases, which can multiply
MAX_YAML_BRACKETS = 1000
BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}
MAX_INTEGER = 2**63


def read_yaml(path: str | Path) -> FileContent:
    """Read a YAML 1.2 file.

    Returns:
        The content as plain values, and the `file:line` of each key and list item.

    Raises:
        ConfigError: The file is missing, unreadable, empty or malformed, or has a duplicate key.
    """
    path = Path(path)
    if not os.path.exists(path):
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{did_you_mean(path.name, siblings)}")
    text = read_text(path, max_bytes=MAX_YAML_BYTES, error=ConfigError)
    values, source_locations = parse_yaml(text, str(path))
    if values is None:
        raise ConfigError(f"{path}: the file is empty; expected a mapping of keys to values")
    return values, source_locations


def parse_yaml(text: str, name: str) -> FileContent:
    """Parse YAML text.

    Returns:
        The content as plain values, and the `name:line` of each key and list item.

    Raises:
        ConfigError: The text is malformed, or has a duplicate key.
    """
    node = _load_yaml(text, name)
    source_locations: dict[KeyPath, str] = {}
    try:
        values = _to_builtin(node, name, (), source_locations)
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias that contains itself") from None
    source_locations[()] = name
    return values, source_locations


def nests_too_deeply(text: str) -> bool:
    """Whether more than MAX_YAML_BRACKETS brackets are open at once. The parser takes quadratic time for such text."""
    if text.count("[") + text.count("{") <= MAX_YAML_BRACKETS:
        return False
    return max(accumulate(BRACKETS.get(character, 0) for character in text)) > MAX_YAML_BRACKETS


def _load_yaml(text: str, name: str) -> Any:
    """Parse YAML text with ruamel's round-trip loader. Its mappings and lists store their line numbers."""
    if nests_too_deeply(text):
        raise ConfigError(f"{name}: not valid YAML: nested too deeply")
    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    yaml.composer.warn_double_anchors = False  # YAML allows it: an alias is the last anchor of its name
    try:
        return yaml.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        key = re.search(r'duplicate key "([^"]*)"', str(error.problem))
        raise ConfigError(f"{name}:{line}: duplicate key {key.group(1) if key else ''!r}; write it once") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{name}:{mark.line + 1 if mark else '?'}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply") from None
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:  # all from tags such as !!bool x
        known = isinstance(error, (YAMLError, ValueError)) and str(error).strip()
        reason = str(error).strip().splitlines()[0] if known else "a value does not fit its tag"
        raise ConfigError(f"{name}: not valid YAML: {reason[:200]}") from None


def _mapping_to_builtin(
    node: CommentedMap, name: str, path: KeyPath, source_locations: dict[KeyPath, str]
) -> dict[str, Any]:
    if getattr(node, "merge", None):
        raise ConfigError(f"{name}:{node.lc.line + 1}: merge keys (<<) are not supported; write the values out")
    result = {}
    for key, value in node.items():
        if not isinstance(key, str):
            raise ConfigError(f"{name}:{node.lc.line + 1}: expected text as a key, found {key!r}")
        _add_location(source_locations, (*path, key), name, node.lc.key(key)[0])
        result[str(key)] = _to_builtin(value, name, (*path, key), source_locations)
    return result


def _to_builtin(node: Any, name: str, path: KeyPath, source_locations: dict[KeyPath, str]) -> Any:
    """Convert a ruamel value to built-in types. The line of each key and list item is added to `source_locations`."""
    tagged = isinstance(node, (CommentedMap, CommentedSeq)) and node.tag.value is not None
    if tagged or isinstance(node, (CommentedOrderedMap, CommentedKeySeq)):
        where = f"{name}:{node.lc.line + 1}"
        raise ConfigError(f"{where}: {format_key_path(path) or 'the file'}: tags (!...) are not supported")
    if isinstance(node, CommentedMap):
        return _mapping_to_builtin(node, name, path, source_locations)
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            _add_location(source_locations, (*path, i), name, node.lc.item(i)[0])
        return [_to_builtin(value, name, (*path, i), source_locations) for i, value in enumerate(node)]
    if isinstance(node, int) and abs(node) > MAX_INTEGER:
        raise ConfigError(f"{source_locations.get(path, name)}: {format_key_path(path)}: a number of too many digits")
    for builtin_type in (bool, int, float, str):
        if isinstance(node, builtin_type):
            # ruamel stores booleans with their spelling as a subclass of int
            return bool(node) if type(node).__name__ == "ScalarBoolean" else builtin_type(node)
    if node is None:
        return None
    raise ConfigError(
        f"{source_locations.get(path, name)}: {format_key_path(path)}: {repr(node)[:80]} is not a plain YAML value"
    )


def _add_location(source_locations: dict[KeyPath, str], path: KeyPath, name: str, line: int) -> None:
    if len(source_locations) >= MAX_YAML_VALUES:
        raise ConfigError(f"{name}: more than {MAX_YAML_VALUES:,} values, with those that aliases repeat")
    source_locations[path] = f"{name}:{line + 1}"


def format_key_path(path: KeyPath) -> str:
    """Format a key path: ("model", "anchors", 0) -> `model.anchors[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def describe(value: Any) -> str:
    """Describe a value and its type in words, for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) < 60 else f"a text of {len(value)} characters"
    if isinstance(value, (int, float)):
        return repr(value)
    return f"a list of {len(value)}" if isinstance(value, list) else "a mapping"
