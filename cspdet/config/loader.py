"""Load YAML 1.2 config files into frozen pydantic models; all errors are reported together.

`cspdet.config.read` reads a file. `cspdet.config.resolve` inserts section files, resolves relative paths, and applies
overrides. `cspdet.config.validate` validates the result. An override is text `key.path=value`. A section file is a YAML
file with the keys of one section. The value of the section is then the path of this file, as in
`train=configs/train/paper.yaml`. This module works with any pydantic schema.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from cspdet.config.read import FileContent
from cspdet.config.resolve import ConfigTree
from cspdet.config.user_modules import USER_NAME, allow_user_modules
from cspdet.config.validate import drop_invalid, validate

log = logging.getLogger("cspdet")

SchemaT = TypeVar("SchemaT", bound=BaseModel)


def load_config(
    path: str | Path, schema: type[SchemaT], overrides: Sequence[str] = (), content: FileContent | None = None
) -> SchemaT:
    """Read a YAML file, apply overrides and validate the result against a schema.

    Args:
        path: The file. Relative paths in it are resolved against its folder, key names of cspdet 1 are renamed, and
            user-defined components (`module:Class`) are imported.
        schema: The pydantic model of the whole file.
        overrides: `key.path=value`, applied in order; relative paths are resolved against the working directory.
        content: Result of `read_yaml` for the file, if it has been read already.

    Raises:
        ConfigError: The config is invalid; the message has one line per error, `file:line: key.path: expected ...,
            found ...`.
    """
    path = Path(path)
    tree = ConfigTree(schema, str(path))
    with allow_user_modules(path.parent):
        tree.read(path, (), content)
        tree.override(overrides)
        return validate(tree, schema)


def parse_config(
    values: dict[str, Any],
    schema: type[SchemaT],
    where: str,
    overrides: Sequence[str] = (),
    required: Collection[str] | None = None,
) -> SchemaT:
    """Validate values from a checkpoint or another file.

    Args:
        values: The values; they are not modified. Key names of cspdet 1 are renamed in a copy. User-defined modules in
            the values are not imported.
        schema: The pydantic model of the values.
        where: Source of the values, for error messages.
        overrides: `key.path=value` from the user, applied in order. User-defined modules in them are imported.
        required: The root keys whose values must be valid. Invalid values of other root keys are ignored with a
            warning; a later version may have written them. None: all keys.

    Raises:
        ConfigError: The values are invalid; the message has one line per error.
    """
    tree = ConfigTree(schema, where, logging.INFO)
    tree.set_values(copy.deepcopy(values))
    named_by_user = {module for text in overrides for module, _ in USER_NAME.findall(text)}
    with allow_user_modules(modules=named_by_user):
        tree.override(overrides)
        ignored = [] if required is None else drop_invalid(tree, schema, required)
        if ignored:
            log.warning("%s: ignored, because this version cannot use them: %s", where, ", ".join(ignored))
        return validate(tree, schema)


class _BlockRepresenter(SafeRepresenter):
    """Writes a mapping with one key per line, and a list of numbers or of number lists in one line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        """Return the node of a mapping."""
        return super().represent_mapping(tag, mapping, flow_style=False)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        """Return the node of a list."""
        inner = [part for item in sequence if isinstance(item, list) for part in item]
        is_short = not any(isinstance(item, (dict, list)) for item in inner)
        in_line = is_short and not any(isinstance(item, dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=in_line)


def dump_config(config: BaseModel) -> str:
    """Return all values of a config as YAML, including defaults. `load_config` reads this text to an equal config."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _BlockRepresenter
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()
