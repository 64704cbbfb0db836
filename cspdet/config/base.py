"""Base classes of config sections and of component configs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cspdet.config.user_modules import import_user_object


class ConfigModel(BaseModel):
    """Base class of config sections: unknown keys are errors, types are strict, and instances are immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ComponentConfig(ConfigModel):
    """Base class of the configs of components, such as backbones and losses. The key `name` selects the component.

    A user-defined component is either a subclass of this class with a method `build`, or any class with a nested
    subclass `Config` of this class. In the second case, the component is created as `Class(config, *args)`, where
    `args` are the arguments of `build`.
    """

    name: str = Field(description="Name of the component: a built-in name, or `module:Class`.")

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Build the user-defined component `module:Class` that `name` refers to.

        Raises:
            ConfigError: The module is not imported, or does not contain this class.
        """
        return import_user_object(self.name)(self, *args, **kwargs)
