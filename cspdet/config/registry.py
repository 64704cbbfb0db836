"""Registries: names in a config or on the command line mapped to classes that are imported on first use.

A registry holds strings only, so that reading a config imports neither torch nor a component that is not used:

    NECKS = Registry("neck", {"efm": "cspdet.models.necks.config:EFMConfig", ...})

`component(NECKS)` makes a config field of it, which takes `{name: efm, width: 64}` and validates the keys with the
config class of that name. A name may also be `module:Class`, a class of the user's own. Its module is imported only
where the user names it (`allow_user_modules`: their config file or command line), never because a checkpoint does.
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
    """The components of one type, by name.

    Args:
        kind: What the components are, as error messages call it: "neck", "export format".
        entries: The component of each name as `package.module:Object`.
        prefixes: Names that may have a detail behind a colon, which their config reads: `timm:resnet50`.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], prefixes: Collection[str] = ()):
        self.kind = kind
        self._entries = dict(entries)
        self._prefixes = prefixes

    def names(self) -> tuple[str, ...]:
        """The built-in names, in the order of the entries."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str) -> Any:
        """The object of this name, imported on first use.

        Args:
            name: A built-in name, or `module:Class` where user modules are allowed or the module is imported.

        Raises:
            ConfigError: unknown name, or a user's class that is not available.
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
        """The config class of this name, for registries whose components have a config.

        Args:
            name: As for `get`; a user's class may be the config class, or have it as its nested class `Config`.
            base: The class that every config of the registry extends.

        Raises:
            ConfigError: as `get`, or the user's class has no config that extends `base`.
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
    """Marks a config field as one component of a registry; made by `component`."""

    def __init__(self, registry: Registry, default: str | None):
        self.registry, self.default = registry, default
        self.base: type[ComponentConfig] = ComponentConfig

    def name_of(self, value: object) -> str | None:
        """The name that a config value gives: as text, under its key `name`, or by default."""
        if isinstance(value, str):
            return value
        name = value.get("name", self.default) if isinstance(value, dict) else None
        return name if isinstance(name, str) else None

    def config_class(self, value: object) -> type[ComponentConfig] | None:
        """The class that a config value is validated with; None where it names none that is available."""
        name = self.name_of(value)
        try:
            return None if name is None else self.registry.config_class(name, self.base)
        except ConfigError:
            return None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        self.base = source
        # A plain validator is serialized by the class of the value, with all keys of the chosen config.
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
        # JSON mode, as the config loader's: strict about bool, int, float and str, yet takes lists for tuples
        return config_class.model_validate_json(json.dumps(keys, default=str))


def component(registry: Registry, default: str | None = None) -> Component:
    """Make a config field that holds the config of one component, chosen by its `name`.

    Use: `neck: Annotated[NeckConfigBase, component(NECKS)]`. The value is a mapping with the key `name`, or the name
    alone.

    Args:
        registry: The components to choose from; the config of each extends the type of the field.
        default: The name where a mapping gives none.
    """
    return Component(registry, default)
