"""Read YAML files of other programs: scalars stay text as written, and size and aliases cannot exhaust the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from cspdet.config.read import nests_too_deeply
from cspdet.errors import DataError
from cspdet.io.text import read_text

MAX_YAML_BYTES = 2**22  # a list of 100,000 class names has 2 MB


class PlainScalar(str):
    """The text of a YAML scalar whose type is not string, such as `5`, `1.0` or `true`, as written in the file."""

    __slots__ = ()


def load_yaml(file: Path) -> Any:
    """Read a YAML file as dict, list, str and None; keys are str. All aliases of an anchor are the same object.

    Raises:
        DataError: The file cannot be read, or is not valid YAML.
    """
    text = read_text(file, max_bytes=MAX_YAML_BYTES)
    try:
        if nests_too_deeply(text):
            raise RecursionError
        return _to_values(YAML(typ="safe", pure=True).compose(text), str(file), {})
    except RecursionError:
        raise DataError(f"{file}: not readable as YAML: nested too deeply") from None
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        reason = getattr(error, "problem", None) or error
        raise DataError(f"{where}: not readable as YAML: {str(reason).splitlines()[0]}") from None


def _to_values(node: Node | None, name: str, known: dict[int, Any]) -> Any:
    """Convert a node of ruamel to dict, list, str or None; `known` maps the ids of converted nodes to their values."""
    if node is None:
        return None
    if id(node) in known:
        return known[id(node)]
    value: Any
    if isinstance(node, ScalarNode):
        kind = str(node.tag).rpartition(":")[2]
        value = None if kind == "null" else str(node.value) if kind == "str" else PlainScalar(node.value)
    elif isinstance(node, MappingNode):
        value = known[id(node)] = {}
        for key, item in node.value:
            value[_key(key, value, name)] = _to_values(item, name, known)
    else:
        value = known[id(node)] = []
        value.extend(_to_values(item, name, known) for item in node.value)
    known[id(node)] = value
    return value


def _key(node: Node, mapping: dict[str, Any], name: str) -> str:
    where = f"{name}:{node.start_mark.line + 1}"
    if not isinstance(node, ScalarNode):
        raise DataError(f"{where}: expected text as a key, found a list or a mapping")
    if str(node.tag).endswith(":merge"):
        raise DataError(f"{where}: merge keys (<<) are not supported; write the values out")
    if node.value in mapping:
        raise DataError(f"{where}: duplicate key {node.value!r}; write it once")
    return str(node.value)
