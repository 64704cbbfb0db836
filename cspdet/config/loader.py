"""Strict YAML 1.2 into frozen pydantic models, with every mistake reported at once.

A mistake is told as `file:line: dotted.path: what was expected, what was found (did you mean ...?)`. What a user may
write beside the file itself: `key.path=value` overrides, and any mapping of a config given as the path of another
YAML file (`train=configs/train/paper.yaml`). Knows no schema of its own.
"""

from __future__ import annotations

import io
import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cspdet.errors import ConfigError, nearest

KeyPath = tuple[str | int, ...]  # where a value stands: ("model", "head", "anchors", 0)
OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


class ConfigModel(BaseModel):
    """Base of every config section: unknown keys are errors, types are exact, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=BaseModel)


def load_config(path: str | Path, schema: type[Schema], overrides: Sequence[str] = ()) -> Schema:
    """Read `path`, apply `overrides` (`key.path=value`, in order) and validate against `schema`.

    Relative paths inside a file are made absolute against that file; those in overrides against the working directory.

    Raises:
        ConfigError: with one line for each mistake.
    """
    path = Path(path)
    tree = _Tree(schema)
    tree.read(path, ())
    return tree.finish(str(path), overrides)


def parse_config(values: dict[str, Any], schema: type[Schema], where: str, overrides: Sequence[str] = ()) -> Schema:
    """Validate values that were read from a checkpoint or another safe place, named `where` in messages."""
    tree = _Tree(schema)
    tree.values = values
    tree.origin[()] = where
    return tree.finish(where, overrides)


def dump_config(config: BaseModel) -> str:
    """Every value, defaults included, as YAML that `load_config` reads back to an equal config."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def read_yaml(path: str | Path) -> tuple[Any, dict[KeyPath, str]]:
    """A YAML 1.2 file as plain values, and the `file:line` that each key and item came from.

    Raises:
        ConfigError: missing, unreadable, empty or malformed file; duplicate key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{nearest(path.name, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as a YAML text file: {error}") from None
    values, origin = _parse(text, str(path))
    if values is None:
        raise ConfigError(f"{path}: the file is empty; expected a mapping of keys to values")
    return values, origin


def _parse(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    try:
        node = yaml.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        key = re.search(r'duplicate key "([^"]*)"', str(error.problem))
        raise ConfigError(f"{name}:{line}: duplicate key {key.group(1) if key else ''!r}; write it once") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{name}:{mark.line + 1 if mark else '?'}: not valid YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    origin: dict[KeyPath, str] = {}
    try:
        values = _plain(node, name, (), origin)
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias that contains itself") from None
    origin[()] = name
    return values, origin


def _plain(node: Any, name: str, path: KeyPath, origin: dict[KeyPath, str]) -> Any:
    """ruamel's round-trip values as plain ones, noting the line of each."""
    if isinstance(node, CommentedMap):
        if getattr(node, "merge", None):
            raise ConfigError(f"{name}:{node.lc.line + 1}: merge keys (<<) are not supported; write the values out")
        result = {}
        for key, value in node.items():
            if not isinstance(key, str):
                raise ConfigError(f"{name}:{node.lc.line + 1}: keys are words; found {key!r}")
            origin[path + (key,)] = f"{name}:{node.lc.key(key)[0] + 1}"
            result[str(key)] = _plain(value, name, (*path, key), origin)
        return result
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            origin[path + (i,)] = f"{name}:{node.lc.item(i)[0] + 1}"
        return [_plain(value, name, (*path, i), origin) for i, value in enumerate(node)]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            # ruamel keeps the spelling of booleans as an int subclass, so ask for its own type first
            return bool(node) if type(node).__name__ == "ScalarBoolean" else kind(node)
    if node is None:
        return None
    raise ConfigError(f"{origin.get(path, name)}: {dotted(path)}: {node!r} is not a plain YAML value")


def dotted(path: KeyPath) -> str:
    """("model", "anchors", 0) as `model.anchors[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Tree:
    """Plain values on their way to a schema, each knowing the file and line or the override that it came from."""

    def __init__(self, schema: type[BaseModel]):
        self.schema = schema
        self.values: Any = {}
        self.origin: dict[KeyPath, str] = {}

    def read(self, path: Path, at: KeyPath) -> None:
        """Put the content of a YAML file at `at`, following the sections that it gives as further files."""
        values, origin = read_yaml(path)
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a mapping of keys to values, found {describe(values)}")
        self._put(at, values)
        self.origin.update({at + part: where for part, where in origin.items()})
        self._resolve(at, path.parent)

    def override(self, text: str) -> str | None:
        """Apply one `key.path=value`; a mistake in its form comes back as a message."""
        found = OVERRIDE.fullmatch(text)
        if not found:
            return f"override {text!r}: expected key.path=value"
        at: KeyPath = tuple(found.group(1).split("."))
        name = f"override {text!r}"
        try:
            value, _ = _parse(found.group(2), name)
        except ConfigError as error:
            return error.problems[0]
        parent = self.values
        for i, key in enumerate(at[:-1]):
            if parent.get(key) is None:  # a section that was left out, or switched off with null
                parent[key] = {}
            parent = parent[key]
            if not isinstance(parent, dict):
                return f"{name}: {dotted(at[: i + 1])} is {describe(parent)} and has no keys of its own"
        for stale in [path for path in self.origin if path[: len(at)] == at]:
            del self.origin[stale]
        self._put(at, value)
        self.origin[at] = name
        self._resolve(at, Path.cwd())
        return None

    def _put(self, at: KeyPath, value: Any) -> None:
        if not at:
            self.values = value
            return
        parent = self.values
        for key in at[:-1]:
            parent = parent[key]
        parent[at[-1]] = value

    def _resolve(self, at: KeyPath, folder: Path) -> None:
        """Below `at`: read sections that are given as files, and make path values absolute against `folder`."""
        value = self._get(at)
        kind = _kind_at(self.schema, self.values, at)
        if isinstance(value, str) and kind is not None:
            if _model_of(kind, {}) is not None and value.endswith((".yaml", ".yml")):
                self.read(folder / value, at)
            elif Path in _options(kind) and "\n" not in value:  # not a text in the place of the file that holds it
                self._put(at, str((folder / Path(value).expanduser()).absolute()))
        elif isinstance(value, dict):
            for key in value:
                self._resolve((*at, key), folder)

    def _get(self, at: KeyPath) -> Any:
        value = self.values
        for key in at:
            value = value[key]
        return value

    def finish(self, name: str, overrides: Sequence[str]) -> Any:
        """Apply the overrides in order and validate everything."""
        problems = [problem for text in overrides if (problem := self.override(text)) is not None]
        if problems:
            raise ConfigError(*problems)
        return self.validate(name)

    def validate(self, name: str) -> Any:
        try:
            # JSON mode: strict about bool, int, float and str, yet takes lists for tuples and text for paths
            return self.schema.model_validate_json(json.dumps(self.values), strict=True)
        except ValidationError as error:
            problems = dict.fromkeys(self._explain(entry, name) for entry in error.errors())
            raise ConfigError(*problems) from None

    def _explain(self, entry: Any, name: str) -> str:
        path = self._strip_tags(entry["loc"])
        message = self._message(entry, path)
        if entry["type"] == "union_tag_invalid":
            path = (*path, "name")
        # A rule between several keys of a section begins with the key that it blames
        blamed, _, rest = message.partition(": ")
        if entry["type"] == "value_error" and rest and isinstance(self._get(path), dict) and blamed in self._get(path):
            path, message = (*path, blamed), rest
        where = next(
            (self.origin[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.origin),
            name,
        )
        return f"{where}: {dotted(path) or 'config'}: {message}"

    def _message(self, entry: Any, path: KeyPath) -> str:
        kind, context = entry["type"], entry.get("ctx", {})
        if kind == "extra_forbidden":
            model = _model_of(_kind_at(self.schema, self.values, path[:-1]), self._get(path[:-1]))
            valid = list(model.model_fields) if model else []
            return f"unknown key{nearest(str(path[-1]), valid)}; valid keys: {', '.join(valid)}"
        if kind == "missing":
            return "missing key"
        if kind == "union_tag_not_found":
            return f"missing key 'name', which says what to build: {context.get('discriminator')}"
        if kind == "union_tag_invalid":
            valid = re.findall(r"'([^']*)'", str(context["expected_tags"]))
            return f"unknown name {context['tag']!r}{nearest(str(context['tag']), valid)}; valid: {', '.join(valid)}"
        if kind == "literal_error":
            valid = re.findall(r"'([^']*)'", str(context["expected"]))
            found = entry["input"]
            return f"expected {context['expected']}, found {describe(found)}{nearest(str(found), valid)}"
        if kind == "value_error":
            return f"{context['error']}"
        return f"{_expected(entry['msg'])}, found {describe(entry['input'])}"

    def _strip_tags(self, location: tuple[str | int, ...]) -> KeyPath:
        """pydantic names the chosen member of a union inside the location; keep only the keys that the user wrote."""
        path: list[str | int] = []
        value, last = self.values, len(location) - 1
        for i, part in enumerate(location):
            if isinstance(value, dict) and isinstance(part, str) and (part in value or i == last):
                path.append(part)
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                path.append(part)
                value = value[part]
        return tuple(path)


def _expected(message: str) -> str:
    message = message.replace("Input should be", "expected").replace("a valid ", "a ")
    plain = {
        "expected a string": "expected text",
        "expected a array": "expected a list",
        "expected a integer": "expected a whole number",
        "expected a boolean": "expected true or false",
        "expected an object": "expected a mapping of keys to values",
    }
    return plain.get(message, message)


def describe(value: Any) -> str:
    """A value as a message quotes it, with its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) < 60 else f"a text of {len(value)} characters"
    if isinstance(value, (int, float)):
        return repr(value)
    return f"a list of {len(value)}" if isinstance(value, list) else "a mapping"


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself; Annotated is seen through."""
    if typing.get_origin(kind) is typing.Annotated:
        return _options(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return tuple(option for member in typing.get_args(kind) for option in _options(member))
    return (kind,)


def _model_of(kind: Any, value: Any) -> type[BaseModel] | None:
    """The pydantic model that `value` is meant for: of a union, the one whose `name` it gives."""
    models = [option for option in _options(kind) if isinstance(option, type) and issubclass(option, BaseModel)]
    if len(models) > 1 and isinstance(value, dict):
        name = str(value.get("name")).partition(":")[0]  # `timm:resnet50` is a short form of the one named `timm`
        for model in models:
            if "name" in model.model_fields and name in typing.get_args(model.model_fields["name"].annotation):
                return model
    return models[0] if models else None


def _kind_at(schema: type[BaseModel], values: Any, at: KeyPath) -> Any:
    """The declared type at a path, or None where the schema has no such place."""
    kind: Any = schema
    for key in at:
        model = _model_of(kind, values)
        if model is None or not isinstance(key, str) or key not in model.model_fields:
            return None
        field = model.model_fields[key]
        kind = field.annotation
        values = values.get(key) if isinstance(values, dict) else None
    return kind
