"""Registries that map component names to classes; a class is imported on first use.

A registry contains only strings, so that reading a config imports neither torch nor unused components:

    NECKS = Registry("neck", {"efm": "cspdet.models.necks.config:EFMConfig", ...})

`component(NECKS)` makes a config field accept `{name: efm, width: 64}`. The keys are validated with the config class
that is registered as `efm`. A name can also be `module:Class`, a user-defined class. Its module is imported only if the
name is in a config file or on the command line (`allow_user_modules`). A name in a checkpoint does not import the
module.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cspdet.config.base import ComponentConfig
from cspdet.config.user_modules import USER_NAME, import_user_object
from cspdet.errors import ConfigError, did_you_mean

ConfigT = TypeVar("ConfigT", bound=ComponentConfig)


class Registry:
    """Registry of the components of one type, by name.

    Args:
        kind: Component type for error messages, such as "neck" or "export format".
        entries: Maps each name to `package.module:Object`.
        prefixes: Names that can be followed by a colon and an argument, such as `timm` in `timm:resnet50`.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], prefixes: Collection[str] = ()):
        self.kind = kind
        self._entries = dict(entries)
        self._prefixes = prefixes

    def names(self) -> tuple[str, ...]:
        """Return the names of the built-in components in registration order."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str) -> Any:
        """Return the object with this name; its module is imported on first use.

        Args:
            name: A built-in name, or `module:Class` if user modules are allowed or the module is already imported.

        Raises:
            ConfigError: The name is unknown, or the user-defined class is not available.
        """
        prefix = name.partition(":")[0]
        entry = prefix if prefix in self._prefixes else name
        if entry in self._entries:
            module, _, attribute = self._entries[entry].partition(":")
            return getattr(importlib.import_module(module), attribute)
        if USER_NAME.fullmatch(name):
            return import_user_object(name)
        valid = ", ".join(self.names())
        raise ConfigError(f"unknown {self.kind} {name!r}{did_you_mean(name, self.names())}; valid: {valid}")

    def config_class(self, name: str, base: type[ConfigT]) -> type[ConfigT]:
        """Return the config class with this name.

        Args:
            name: A built-in name or `module:Class`, as for `get`. A user-defined class must be the config class itself,
                or have a nested class `Config`.
            base: Base class of the configs in this registry.

        Raises:
            ConfigError: The name is unknown, or the user-defined class is not available or has no config of type
                `base`.
        """
        found = self.get(name)
        for config in (found, getattr(found, "Config", None)):
            if isinstance(config, type) and issubclass(config, base):
                return config
        raise ConfigError(
            f"{name!r} is no {self.kind}: expected a subclass of {base.__name__}, or a class with a nested Config that "
            "is one"
        )


class Component:
    """Annotation of a config field whose value selects one component of a registry; created by `component`."""

    def __init__(self, registry: Registry, default: str | None):
        self.registry, self.default = registry, default
        self.base: type[ComponentConfig] = ComponentConfig

    def name_of(self, value: object) -> str | None:
        """Return the component name that a config value selects, or None.

        The value is the name as text, or a mapping. A mapping without the key `name` selects the default.
        """
        if isinstance(value, str):
            return value
        name = value.get("name", self.default) if isinstance(value, dict) else None
        return name if isinstance(name, str) else None

    def config_class(self, value: object) -> type[ComponentConfig] | None:
        """Return the config class that validates a value, or None if the component is not available."""
        name = self.name_of(value)
        try:
            return None if name is None else self.registry.config_class(name, self.base)
        except ConfigError:
            return None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        self.base = source
        # With a plain validator, pydantic serializes by the class of the value: all keys of the component are kept.
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: Any) -> ComponentConfig:
        if isinstance(value, self.base):
            return value
        if not isinstance(value, (dict, str)):
            raise PydanticCustomError("component_type", "expected a mapping of keys to values")
        name = self.name_of(value)
        if name is None:
            problem = "missing key 'name'" if "name" not in value else "expected text for the key 'name'"
            context = {"problem": problem, "kind": self.registry.kind, "valid": ", ".join(self.registry.names())}
            raise PydanticCustomError("component_name", "{problem}, the name of a {kind}; valid: {valid}", context)
        try:
            config_class = self.registry.config_class(name, self.base)
        except ConfigError as error:
            raise PydanticCustomError("component_unknown", "{reason}", {"reason": str(error)}) from None
        keys = {**value, "name": name} if isinstance(value, dict) else {"name": name}
        # JSON mode, as in the config loader: strict for bool, int, float and str, but accepts lists for tuples
        return config_class.model_validate_json(json.dumps(keys, default=str))


def component(registry: Registry, default: str | None = None) -> Component:
    """Annotate a config field as the config of one component, which the key `name` selects.

    Example: `neck: Annotated[NeckConfigBase, component(NECKS)]`. The value is a mapping with the key `name`, or only
    the name as text.

    Args:
        registry: The available components; their configs must be subclasses of the type of the field.
        default: Name of the component if the mapping has no key `name`.
    """
    return Component(registry, default)
