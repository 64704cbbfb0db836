"""Base classes of config sections: strict models, and the configs of components that are chosen by name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cspdet.config.user_modules import import_user_object


class ConfigModel(BaseModel):
    """Base of every config section: unknown keys are errors, types are exact, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ComponentConfig(ConfigModel):
    """Base of the config of a component that is chosen by `name`.

    A component of the user's own is either a subclass of this with `build`, or a class with a nested `Config` that is
    a subclass of this; the class is then called as `Class(config, *arguments of build)`.
    """

    name: str = Field(description="The name of the component: a built-in one, or `module:Class`.")

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Build the component that `name` names as `module:Class`.

        Raises:
            ConfigError: the module is not imported, or has no such class.
        """
        return import_user_object(self.name)(self, *args, **kwargs)
