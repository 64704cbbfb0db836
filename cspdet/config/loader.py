"""Configs: strict YAML 1.2 into frozen pydantic models, with all errors reported together.

Reading (`read`), resolving of overrides, section files and paths (`resolve`), validation with error messages
(`validate`). In addition to a file, a user can give `key.path=value` overrides, and the path of a YAML
file in place of any section (`train=configs/train/paper.yaml`). No schema is known here.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from ruamel.yaml import YAML

from cspdet.config.read import FileContent
from cspdet.config.resolve import ConfigTree
from cspdet.config.user_modules import USER_NAME, allow_user_modules
from cspdet.config.validate import validate

SchemaT = TypeVar("SchemaT", bound=BaseModel)


def load_config(
    path: str | Path, schema: type[SchemaT], overrides: Sequence[str] = (), content: FileContent | None = None
) -> SchemaT:
    """Read a YAML file, apply overrides and validate against a schema.

    Args:
        path: The file. Relative paths inside are made absolute against its folder, key names of cspdet 1 are renamed,
            and components of the user's own (`module:Class`) are imported.
        schema: The model of the root of the file.
        overrides: `key.path=value`, applied in order; relative paths are made absolute against the working directory.
        content: What `read_yaml` returned for the file, where it has been read already.

    Raises:
        ConfigError: with one line per error: `file:line: key.path: what was expected, what was found`.
    """
    path = Path(path)
    tree = ConfigTree(schema, str(path))
    with allow_user_modules(path.parent):
        tree.read(path, (), content)
        tree.override(overrides)
        return validate(tree, schema)


def parse_config(values: dict[str, Any], schema: type[SchemaT], where: str, overrides: Sequence[str] = ()) -> SchemaT:
    """Validate values that were read from a checkpoint or another file.

    Args:
        values: The values, which stay unchanged. Key names of cspdet 1 are renamed; modules that the values name are
            not imported.
        schema: The model of the root of the values.
        where: What errors name as the source of the values.
        overrides: `key.path=value`, applied in order; the modules that they name are imported, as the user wrote them.

    Raises:
        ConfigError: with one line per error.
    """
    tree = ConfigTree(schema, where, logging.INFO)
    tree.set_values(copy.deepcopy(values))
    named_by_user = {module for text in overrides for module, _ in USER_NAME.findall(text)}
    with allow_user_modules(modules=named_by_user):
        tree.override(overrides)
        return validate(tree, schema)


def dump_config(config: BaseModel) -> str:
    """All values of a config, defaults included, as YAML that `load_config` reads to an equal config."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()
