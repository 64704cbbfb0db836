"""Config validation: all errors are reported together, with their location and the expected value."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cspdet.config.read import KeyPath, describe, format_key_path
from cspdet.config.resolve import ConfigTree
from cspdet.config.schema import annotation_at, select_model
from cspdet.errors import ConfigError, did_you_mean
from cspdet.io.text import is_text

SchemaT = TypeVar("SchemaT", bound=BaseModel)


def validate(tree: ConfigTree, schema: type[SchemaT]) -> SchemaT:
    """Validate config values against a pydantic model, and return the model instance.

    Raises:
        ConfigError: Values are invalid; the message has one line per error.
    """
    if places := list(_not_text(tree.values, ())):
        raise ConfigError(
            *(_at(tree, path, f"expected UTF-8 text, found {tree.get(path)!r}; rename the folder") for path in places)
        )
    try:
        # JSON mode: strict for bool, int, float and str, but accepts lists for tuples and text for paths
        return schema.model_validate_json(json.dumps(tree.values), strict=True)
    except ValidationError as error:
        problems = dict.fromkeys(_format_error(tree, entry) for entry in error.errors())
        raise ConfigError(*problems) from None


def _not_text(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the key path of each string with lone surrogates (bytes that are not UTF-8)."""
    if isinstance(value, str) and not is_text(value):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _not_text(item, (*path, key))


def drop_invalid(tree: ConfigTree, schema: type[BaseModel], required: Collection[str]) -> list[str]:
    """Remove invalid config values, so that their defaults apply.

    Args:
        tree: The config; it is modified.
        schema: The pydantic model of the whole config.
        required: Root keys whose values are kept even if they are invalid.

    Returns:
        The removed keys, formatted as `train.loss.name`.
    """
    dropped: list[str] = []
    while True:
        try:
            schema.model_validate_json(json.dumps(tree.values), strict=True)
        except ValidationError as error:
            paths = {_removable(tree, entry) for entry in error.errors()}
        else:
            return dropped
        removable = sorted((path for path in paths if path and path[0] not in required), key=len, reverse=True)
        if not removable:
            return dropped
        for path in removable:
            del tree.get(path[:-1])[path[-1]]
            dropped.append(format_key_path(path))


def _removable(tree: ConfigTree, entry: Any) -> KeyPath:
    """Return the key path of the innermost mapping entry that contains the invalid value; (): there is none."""
    path, _ = _locate(tree, entry)
    end = next((i for i, part in enumerate(path) if isinstance(part, int)), len(path))
    while end and not (isinstance(section := tree.get(path[: end - 1]), dict) and path[end - 1] in section):
        end -= 1
    return path[:end]


def _format_error(tree: ConfigTree, entry: Any) -> str:
    """Format one pydantic error as `where: key.path: message`."""
    path, message = _locate(tree, entry)
    if entry["type"] == "component_unknown":
        path = (*path, "name")
    return _at(tree, path, message)


def _at(tree: ConfigTree, path: KeyPath, message: str) -> str:
    where = next(
        (tree.source_locations[path[:n]] for n in range(len(path), -1, -1) if path[:n] in tree.source_locations),
        tree.name,
    )
    return f"{where}: {format_key_path(path) or 'config'}: {message}"


def _locate(tree: ConfigTree, entry: Any) -> tuple[KeyPath, str]:
    """Return the key path of the invalid value of a pydantic error, and the error message."""
    path = _strip_tags(tree.values, entry["loc"])
    message = _error_message(tree, entry, path)
    # The message of a validator for several keys of a section starts with the wrong key
    key, _, rest = message.partition(": ")
    if entry["type"] == "value_error" and rest and isinstance(tree.get(path), dict) and key in tree.get(path):
        return (*path, key), rest
    return path, message


def _error_message(tree: ConfigTree, entry: Any, path: KeyPath) -> str:
    error_type, context = entry["type"], entry.get("ctx", {})
    if error_type == "extra_forbidden":
        model = select_model(annotation_at(tree.schema, tree.values, path[:-1]), tree.get(path[:-1]))
        valid = list(model.model_fields) if model else []
        return f"unknown key{did_you_mean(str(path[-1]), valid)}; valid keys: {', '.join(valid)}"
    if error_type == "too_long" or (error_type == "missing" and isinstance(entry["loc"][-1], int)):
        return _length_message(entry, len(tree.get(path)))
    if error_type == "missing":
        return "missing key"
    if error_type == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context["expected"]))
        value = entry["input"]
        return f"expected {context['expected']}, found {describe(value)}{did_you_mean(str(value), valid)}"
    if error_type == "value_error":
        return f"{context['error']}"
    if error_type in ("component_name", "component_unknown"):
        return str(entry["msg"])
    return f"{_simplify_message(entry['msg'])}, found {describe(entry['input'])}"


def _length_message(entry: Any, found: int) -> str:
    """Return the message of a list with too few or too many values, such as `input.size: [96]`."""
    count = entry["ctx"]["max_length"] if entry["type"] == "too_long" else int(entry["loc"][-1]) + 1
    return f"expected {'' if entry['type'] == 'too_long' else 'at least '}{count} values, found {found}"


def _strip_tags(values: Any, location: tuple[str | int, ...]) -> KeyPath:
    """Return the key path of a pydantic error location, without the union tags that pydantic adds."""
    path: list[str | int] = []
    value, last = values, len(location) - 1
    for i, part in enumerate(location):
        if isinstance(value, dict) and isinstance(part, str) and (part in value or i == last):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _simplify_message(message: str) -> str:
    message = message.replace("Input should be", "expected").replace("a valid ", "a ")
    plain = {
        "expected a string": "expected text",
        "expected a array": "expected a list",
        "expected a integer": "expected a whole number",
        "expected a boolean": "expected true or false",
        "expected an object": "expected a mapping of keys to values",
    }
    return plain.get(message, message)
