"""Lookup of the declared type at a key path of a config, through unions and registry components."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel

from cspdet.config.read import KeyPath
from cspdet.config.registry import Component


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union as a flat tuple. Another type is returned as a tuple with one member.

    The member for `Annotated[T, component(...)]` is the `Component`. For other annotated types, the member is T.
    """
    if typing.get_origin(annotation) is typing.Annotated:
        member, *metadata = typing.get_args(annotation)
        components = tuple(entry for entry in metadata if isinstance(entry, Component))
        return components or union_members(member)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return tuple(option for member in typing.get_args(annotation) for option in union_members(member))
    return (annotation,)


def select_model(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the pydantic model for `value`, or None. If a type has several models, the key `name` selects one."""
    members = union_members(annotation)
    for member in members:
        if isinstance(member, Component):
            return member.config_class(value)
    models = [option for option in members if _is_model(option)]
    if len(models) > 1 and isinstance(value, dict):
        name = str(value.get("name")).partition(":")[0]  # `timm:resnet50` selects the model with the name `timm`
        for model in models:
            if "name" in model.model_fields and name in typing.get_args(model.model_fields["name"].annotation):
                return model
    return models[0] if models else None


def takes_component(annotation: Any) -> bool:
    """Return whether values of this type select a component of a registry."""
    return any(isinstance(member, Component) for member in union_members(annotation))


def takes_mapping(annotation: Any) -> bool:
    """Return whether a type includes a pydantic model or a registry component."""
    return any(isinstance(member, Component) or _is_model(member) for member in union_members(annotation))


def _is_model(annotation: Any) -> bool:
    """Return whether a type is a pydantic model; `dict[str, int]` and other generic types are not."""
    is_class = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return is_class and issubclass(annotation, BaseModel)


def annotation_at(schema: type[BaseModel], values: Any, key_path: KeyPath) -> Any:
    """Return the declared type at a key path, or None if the schema does not have this key."""
    annotation: Any = schema
    for key in key_path:
        if isinstance(key, int):  # an item of a list: tuple[Item, ...]
            annotation = next((typing.get_args(member)[0] for member in union_members(annotation)
                               if typing.get_origin(member) is tuple), None)  # fmt: skip
            values = values[key] if isinstance(values, list) and key < len(values) else None
            continue
        model = select_model(annotation, values)
        if model is None or key not in model.model_fields:
            return None
        field = model.model_fields[key]
        components = [entry for entry in field.metadata if isinstance(entry, Component)]
        annotation = typing.Annotated[field.annotation, components[0]] if components else field.annotation
        values = values.get(key) if isinstance(values, dict) else None
    return annotation
