"""Processing of config values before validation: read section files, apply overrides, resolve relative paths."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cspdet.config.aliases import ASSIGNER, ASSIGNER_KEYS, log_renamed, rename_key, upgrade_keys
from cspdet.config.read import FileContent, KeyPath, describe, format_key_path, parse_yaml, read_yaml
from cspdet.config.released import find_section
from cspdet.config.schema import annotation_at, select_model, takes_component, takes_mapping, union_members
from cspdet.errors import ConfigError
from cspdet.io.text import is_text

OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


class ConfigTree:
    """Plain config values, together with the source of each value: file and line, or override.

    Attributes:
        schema: The pydantic model of the whole config.
        name: Source in error messages about values without a location.
        values: The values.
        source_locations: `file:line` or `override '...'` of each key path.
    """

    def __init__(self, schema: type[BaseModel], name: str, notice_level: int = logging.WARNING):
        """Create an empty tree.

        Args:
            schema: The pydantic model of the whole config.
            name: Source of the values, for error messages.
            notice_level: Log level of the notice about key names of cspdet 1.
        """
        self.schema, self.name, self._notice_level = schema, name, notice_level
        self.values: Any = {}
        self.source_locations: dict[KeyPath, str] = {(): name}
        self._has_old_assigner = False

    def set_values(self, values: dict[str, Any]) -> None:
        """Set the values and rename the keys of cspdet 1. Section files are not read, and paths are not resolved."""
        self.values = values
        self._rename_old_keys(self.name)

    def read(self, path: Path, key_path: KeyPath, content: FileContent | None = None) -> None:
        """Read a YAML file and its section files into the section at `key_path`.

        Raises:
            ConfigError: The file cannot be read, or its content is not a mapping.
        """
        values, source_locations = content or read_yaml(path)
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a mapping of keys to values, found {describe(values)}")
        self._put(key_path, values)
        self.source_locations.update({key_path + part: where for part, where in source_locations.items()})
        self._rename_old_keys(str(path))
        self._resolve(key_path, path.parent)

    def override(self, overrides: Sequence[str]) -> None:
        """Apply `key.path=value` overrides in order.

        Raises:
            ConfigError: Overrides are malformed or do not fit the sections; the message has one line per override.
        """
        if isinstance(overrides, str):
            raise ConfigError(f"overrides: expected a list of key.path=value, found the text {overrides!r}")
        problems = [problem for text in overrides if (problem := self._override(text)) is not None]
        if problems:
            raise ConfigError(*problems)
        if self._has_old_assigner:
            self._drop_unused_keys(ASSIGNER, ASSIGNER_KEYS)

    def get(self, key_path: KeyPath) -> Any:
        """Return the value at an existing key path."""
        value = self.values
        for key in key_path:
            value = value[key]
        return value

    def _replace(self, key_path: KeyPath, value: Any, name: str) -> None:
        """Set a value and its source `name`; the sources of the old value and of keys below it are removed."""
        for replaced in [path for path in self.source_locations if path[: len(key_path)] == key_path]:
            del self.source_locations[replaced]
        self._put(key_path, value)
        self.source_locations[key_path] = name

    def _override(self, text: str) -> str | None:
        """Apply one override. Return an error message if the override cannot be applied, else None."""
        match = OVERRIDE.fullmatch(text)
        if not match:
            return f"override {text!r}: expected key.path=value"
        name = f"override {text!r}"
        try:  # bytes that are not UTF-8 are no YAML; `validate` reports them
            value = parse_yaml(match.group(2), name)[0] if is_text(match.group(2)) else match.group(2)
        except ConfigError as error:
            return error.problems[0]
        old_path: KeyPath = tuple(match.group(1).split("."))
        key_path = rename_key(old_path)
        for i in range(1, len(key_path)):
            if (problem := self._open_section(key_path[:i])) is not None:
                return f"{name}: {problem}"
        self._replace(key_path, value, name)
        if old_path != key_path:
            log_renamed({format_key_path(old_path): format_key_path(key_path)}, name, self._notice_level)
            self._has_old_assigner |= key_path[:2] == ASSIGNER
        self._rename_old_keys(name)
        if key_path[-1] == "name":
            self._drop_unused_keys(key_path[:-1])
        self._resolve(key_path, Path.cwd())
        return None

    def _open_section(self, key_path: KeyPath) -> str | None:
        """Prepare the section at `key_path` for an override of one of its keys.

        A missing section becomes an empty mapping. A component name becomes a mapping with the key `name`. Return an
        error message if the value has another type, else None.
        """
        parent = self.get(key_path[:-1])
        value = parent.get(key_path[-1])
        if value is None:  # a missing section, or one that was set to null
            parent[key_path[-1]] = {}
        elif isinstance(value, str) and takes_component(annotation_at(self.schema, self.values, key_path)):
            parent[key_path[-1]] = {"name": value}
        elif not isinstance(value, dict):
            return f"{format_key_path(key_path)} is {describe(value)}, not a mapping with keys"
        return None

    def _rename_old_keys(self, source: str) -> None:
        renamed = upgrade_keys(self.values, self.source_locations)
        self._has_old_assigner |= "train.assign" in renamed
        log_renamed(renamed, source, self._notice_level)

    def _drop_unused_keys(self, key_path: KeyPath, only: Iterable[str] | None = None) -> None:
        """Remove the keys of a section that its component does not have; the key `name` selects the component.

        Args:
            key_path: Key path of the section.
            only: Keys that may be removed; None: all keys.
        """
        annotation = annotation_at(self.schema, self.values, key_path)
        if not takes_component(annotation):
            return
        values = self.get(key_path)
        chosen = select_model(annotation, values)
        if chosen is not None:
            unused = [key for key in values if key not in chosen.model_fields and (only is None or key in only)]
            for key in unused:
                del values[key]

    def _put(self, key_path: KeyPath, value: Any) -> None:
        if not key_path:
            self.values = value
            return
        self.get(key_path[:-1])[key_path[-1]] = value

    def _resolve(self, key_path: KeyPath, folder: Path) -> None:
        """Read the section files in the value at `key_path`, and resolve its relative paths against `folder`."""
        value = self.get(key_path)
        annotation = annotation_at(self.schema, self.values, key_path)
        if isinstance(value, str) and annotation is not None:
            if takes_mapping(annotation) and value.endswith((".yaml", ".yml")):
                self.read(find_section(value, folder), key_path)
            elif Path in union_members(annotation) and "\n" not in value:  # with line breaks: file content
                self._put(key_path, str((folder / os.path.expanduser(value)).absolute()))
        elif isinstance(value, (dict, list)):
            for key in value if isinstance(value, dict) else range(len(value)):
                self._resolve((*key_path, key), folder)
