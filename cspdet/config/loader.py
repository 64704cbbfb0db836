"""Strict YAML 1.2 into frozen pydantic models, with every mistake reported at once.

A mistake is told as `file:line: dotted.path: what was expected, what was found (did you mean ...?)`. What a user may
write beside the file itself: `key.path=value` overrides, and any mapping of a config given as the path of another
YAML file (`train=configs/train/paper.yaml`). Knows no schema of its own.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from cspdet.config.read import KeyPath, describe, format_key_path, parse_yaml, read_yaml
from cspdet.config.schema import annotation_at, select_model, takes_component, takes_mapping, union_members
from cspdet.config.user_modules import USER_NAME, allow_user_modules
from cspdet.errors import ConfigError, did_you_mean

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
            value, _ = parse_yaml(found.group(2), name)
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
        if key_path[-1] == "name":
            self._drop_keys_of_other_component(key_path[:-1])
        self._resolve(key_path, Path.cwd())
        return None

    def _drop_keys_of_other_component(self, key_path: KeyPath) -> None:
        """Where an override chose another component, keep only the keys that it has too."""
        annotation, values = annotation_at(self.schema, self.values, key_path), self._get(key_path)
        chosen = takes_component(annotation) and select_model(annotation, values)
        if chosen:
            for key in [key for key in values if key not in chosen.model_fields]:
                del values[key]

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
        annotation = annotation_at(self.schema, self.values, key_path)
        if isinstance(value, str) and annotation is not None:
            if takes_mapping(annotation) and value.endswith((".yaml", ".yml")):
                self.read(folder / value, key_path)
            elif (
                Path in union_members(annotation) and "\n" not in value
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
            model = select_model(annotation_at(self.schema, self.values, path[:-1]), self._get(path[:-1]))
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
