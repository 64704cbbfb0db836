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

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cspdet.config.registry import Component
from cspdet.config.user_modules import USER_NAME, allow_user_modules
from cspdet.errors import ConfigError, did_you_mean

KeyPath = tuple[str | int, ...]  # where a value stands: ("model", "head", "anchors", 0)
OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


SchemaT = TypeVar("SchemaT", bound=BaseModel)


def load_config(path: str | Path, schema: type[SchemaT], overrides: Sequence[str] = ()) -> SchemaT:
    """Read `path`, apply `overrides` (`key.path=value`, in order) and validate against `schema`.

    Relative paths inside a file are made absolute against that file; those in overrides against the working directory.

    Raises:
        ConfigError: with one line for each mistake.
    """
    path = Path(path)
    tree = _ConfigLoader(schema)
    with allow_user_modules(path.parent):
        tree.read(path, ())
        return tree.apply_and_validate(str(path), overrides)


def parse_config(values: dict[str, Any], schema: type[SchemaT], where: str, overrides: Sequence[str] = ()) -> SchemaT:
    """Validate values that were read from a checkpoint or another file, named `where` in messages.

    Only `overrides`, which the user wrote, may have modules imported (`cspdet.config.user_modules`); the values may not.

    Raises:
        ConfigError: with one line for each mistake.
    """
    tree = _ConfigLoader(schema)
    tree.values = values
    tree.source_locations[()] = where
    named_by_user = {module for text in overrides for module, _ in USER_NAME.findall(text)}
    with allow_user_modules(modules=named_by_user):
        return tree.apply_and_validate(where, overrides)


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
        raise ConfigError(f"{path}: no such file{did_you_mean(path.name, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as a YAML text file: {error}") from None
    values, source_locations = _parse(text, str(path))
    if values is None:
        raise ConfigError(f"{path}: the file is empty; expected a mapping of keys to values")
    return values, source_locations


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
    source_locations: dict[KeyPath, str] = {}
    try:
        values = _to_builtin(node, name, (), source_locations)
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias that contains itself") from None
    source_locations[()] = name
    return values, source_locations


def _to_builtin(node: Any, name: str, path: KeyPath, source_locations: dict[KeyPath, str]) -> Any:
    """ruamel's round-trip values as plain ones, noting the line of each."""
    if isinstance(node, CommentedMap):
        if getattr(node, "merge", None):
            raise ConfigError(f"{name}:{node.lc.line + 1}: merge keys (<<) are not supported; write the values out")
        result = {}
        for key, value in node.items():
            if not isinstance(key, str):
                raise ConfigError(f"{name}:{node.lc.line + 1}: keys are words; found {key!r}")
            source_locations[path + (key,)] = f"{name}:{node.lc.key(key)[0] + 1}"
            result[str(key)] = _to_builtin(value, name, (*path, key), source_locations)
        return result
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            source_locations[path + (i,)] = f"{name}:{node.lc.item(i)[0] + 1}"
        return [_to_builtin(value, name, (*path, i), source_locations) for i, value in enumerate(node)]
    for builtin_type in (bool, int, float, str):
        if isinstance(node, builtin_type):
            # ruamel keeps the spelling of booleans as an int subclass, so ask for its own type first
            return bool(node) if type(node).__name__ == "ScalarBoolean" else builtin_type(node)
    if node is None:
        return None
    raise ConfigError(
        f"{source_locations.get(path, name)}: {format_key_path(path)}: {node!r} is not a plain YAML value"
    )


def format_key_path(path: KeyPath) -> str:
    """("model", "anchors", 0) as `model.anchors[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _ConfigLoader:
    """Plain values on their way to a schema, each knowing the file and line or the override that it came from."""

    def __init__(self, schema: type[BaseModel]):
        self.schema = schema
        self.values: Any = {}
        self.source_locations: dict[KeyPath, str] = {}

    def read(self, path: Path, key_path: KeyPath) -> None:
        """Put the content of a YAML file at `at`, following the sections that it gives as further files."""
        values, source_locations = read_yaml(path)
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a mapping of keys to values, found {describe(values)}")
        self._put(key_path, values)
        self.source_locations.update({key_path + part: where for part, where in source_locations.items()})
        self._resolve(key_path, path.parent)

    def override(self, text: str) -> str | None:
        """Apply one `key.path=value`; a mistake in its form comes back as a message."""
        found = OVERRIDE.fullmatch(text)
        if not found:
            return f"override {text!r}: expected key.path=value"
        key_path: KeyPath = tuple(found.group(1).split("."))
        name = f"override {text!r}"
        try:
            value, _ = _parse(found.group(2), name)
        except ConfigError as error:
            return error.problems[0]
        parent = self.values
        for i, key in enumerate(key_path[:-1]):
            if parent.get(key) is None:  # a section that was left out, or switched off with null
                parent[key] = {}
            parent = parent[key]
            if not isinstance(parent, dict):
                return f"{name}: {format_key_path(key_path[: i + 1])} is {describe(parent)} and has no keys of its own"
        for stale in [path for path in self.source_locations if path[: len(key_path)] == key_path]:
            del self.source_locations[stale]
        self._put(key_path, value)
        self.source_locations[key_path] = name
        self._resolve(key_path, Path.cwd())
        return None

    def _put(self, key_path: KeyPath, value: Any) -> None:
        if not key_path:
            self.values = value
            return
        parent = self.values
        for key in key_path[:-1]:
            parent = parent[key]
        parent[key_path[-1]] = value

    def _resolve(self, key_path: KeyPath, folder: Path) -> None:
        """Below `at`: read sections that are given as files, and make path values absolute against `folder`."""
        value = self._get(key_path)
        annotation = _annotation_at(self.schema, self.values, key_path)
        if isinstance(value, str) and annotation is not None:
            if _takes_mapping(annotation) and value.endswith((".yaml", ".yml")):
                self.read(folder / value, key_path)
            elif (
                Path in _union_members(annotation) and "\n" not in value
            ):  # not a text in the place of the file that holds it
                self._put(key_path, str((folder / Path(value).expanduser()).absolute()))
        elif isinstance(value, (dict, list)):
            for key in value if isinstance(value, dict) else range(len(value)):
                self._resolve((*key_path, key), folder)

    def _get(self, key_path: KeyPath) -> Any:
        value = self.values
        for key in key_path:
            value = value[key]
        return value

    def apply_and_validate(self, name: str, overrides: Sequence[str]) -> Any:
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
            problems = dict.fromkeys(self._format_error(entry, name) for entry in error.errors())
            raise ConfigError(*problems) from None

    def _format_error(self, entry: Any, name: str) -> str:
        path = self._strip_tags(entry["loc"])
        message = self._error_message(entry, path)
        if entry["type"] in ("union_tag_invalid", "component_unknown"):
            path = (*path, "name")
        # A rule between several keys of a section begins with the key that it blames
        blamed, _, rest = message.partition(": ")
        if entry["type"] == "value_error" and rest and isinstance(self._get(path), dict) and blamed in self._get(path):
            path, message = (*path, blamed), rest
        where = next(
            (self.source_locations[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.source_locations),
            name,
        )
        return f"{where}: {format_key_path(path) or 'config'}: {message}"

    def _error_message(self, entry: Any, path: KeyPath) -> str:
        error_type, context = entry["type"], entry.get("ctx", {})
        if error_type == "extra_forbidden":
            model = _select_model(_annotation_at(self.schema, self.values, path[:-1]), self._get(path[:-1]))
            valid = list(model.model_fields) if model else []
            return f"unknown key{did_you_mean(str(path[-1]), valid)}; valid keys: {', '.join(valid)}"
        if error_type == "missing":
            return "missing key"
        if error_type == "union_tag_not_found":
            return f"missing key 'name', which says what to build: {context.get('discriminator')}"
        if error_type == "union_tag_invalid":
            valid = re.findall(r"'([^']*)'", str(context["expected_tags"]))
            return (
                f"unknown name {context['tag']!r}{did_you_mean(str(context['tag']), valid)}; valid: {', '.join(valid)}"
            )
        if error_type == "literal_error":
            valid = re.findall(r"'([^']*)'", str(context["expected"]))
            found = entry["input"]
            return f"expected {context['expected']}, found {describe(found)}{did_you_mean(str(found), valid)}"
        if error_type == "value_error":
            return f"{context['error']}"
        if error_type in ("component_name", "component_unknown"):
            return str(entry["msg"])
        return f"{_simplify_message(entry['msg'])}, found {describe(entry['input'])}"

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


def _union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself; of an annotated type its `Component`, if any."""
    if typing.get_origin(annotation) is typing.Annotated:
        member, *metadata = typing.get_args(annotation)
        components = tuple(entry for entry in metadata if isinstance(entry, Component))
        return components or _union_members(member)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return tuple(option for member in typing.get_args(annotation) for option in _union_members(member))
    return (annotation,)


def _select_model(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The pydantic model that `value` is meant for: of a union or registry, the one whose `name` it gives."""
    members = _union_members(annotation)
    for member in members:
        if isinstance(member, Component):
            return member.config_class(value)
    models = [option for option in members if isinstance(option, type) and issubclass(option, BaseModel)]
    if len(models) > 1 and isinstance(value, dict):
        name = str(value.get("name")).partition(":")[0]  # `timm:resnet50` is a short form of the one named `timm`
        for model in models:
            if "name" in model.model_fields and name in typing.get_args(model.model_fields["name"].annotation):
                return model
    return models[0] if models else None


def _takes_mapping(annotation: Any) -> bool:
    """Whether a value of this type may be given as the path of a YAML file that holds its keys."""
    return any(
        isinstance(member, Component) or (isinstance(member, type) and issubclass(member, BaseModel))
        for member in _union_members(annotation)
    )


def _annotation_at(schema: type[BaseModel], values: Any, key_path: KeyPath) -> Any:
    """The declared type at a path, or None where the schema has no such place."""
    annotation: Any = schema
    for key in key_path:
        if isinstance(key, int):  # an item of a list: tuple[Item, ...]
            annotation = next((typing.get_args(member)[0] for member in _union_members(annotation)
                               if typing.get_origin(member) is tuple), None)  # fmt: skip
            values = values[key] if isinstance(values, list) and key < len(values) else None
            continue
        model = _select_model(annotation, values)
        if model is None or key not in model.model_fields:
            return None
        field = model.model_fields[key]
        components = [entry for entry in field.metadata if isinstance(entry, Component)]
        annotation = typing.Annotated[field.annotation, components[0]] if components else field.annotation
        values = values.get(key) if isinstance(values, dict) else None
    return annotation
