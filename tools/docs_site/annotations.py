"""Types, ranges and defaults of config keys in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cspdet.config.base import ComponentConfig
from cspdet.config.registry import Component
from docs_site.markdown import code

WORDS: dict[Any, str] = {
    bool: "true or false", int: "integer", float: "number", str: "text", Path: "path", type(None): "null",
}  # fmt: skip
PLURALS = {"list": "lists", "number": "numbers", "integer": "integers", "text": "texts", "section": "sections",
           "name": "names"}  # fmt: skip
LIMITS = {"ge": (annotated_types.Ge, "≥"), "gt": (annotated_types.Gt, ">"),
          "le": (annotated_types.Le, "≤"), "lt": (annotated_types.Lt, "<")}  # fmt: skip


def type_of(field: FieldInfo) -> str:
    """Return the type of a field with its range, such as `number > 0, ≤ 1, or null`, as Markdown."""
    if any(isinstance(entry, Component) for entry in field.metadata):
        return "name or section"
    limits = range_of(field.metadata)
    if limits and "null" in (words := describe(field.annotation)):
        return f"{words.removesuffix(' or null')} {limits}, or null"
    return f"{describe(field.annotation)} {limits}".strip()


def range_of(metadata: Iterable[Any]) -> str:
    """Return the limits in the metadata of a field or type, such as `≥ 0, < 1`."""
    limits = []
    for entry in metadata:
        inner = entry.metadata if isinstance(entry, FieldInfo) else [entry]
        for limit in inner:
            limits += [f"{sign} {_number(getattr(limit, name))}" for name, (kind, sign) in LIMITS.items()
                       if isinstance(limit, kind)]  # fmt: skip
    return ", ".join(limits)


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def describe(annotation: Any) -> str:
    """Return a type in words, as Markdown."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        if any(isinstance(entry, Component) for entry in arguments[1:]):
            return "name or section"
        return f"{describe(arguments[0])} {range_of(arguments[1:])}".strip()
    if origin is Literal:
        return ", ".join(code(str(value)) for value in arguments)
    if origin in (types.UnionType, typing.Union):
        members = [describe(member) for member in arguments]
        return " or ".join(dict.fromkeys(members))
    if origin is tuple:
        return _describe_list(arguments)
    if origin is dict:
        return "mapping"
    if origin is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return WORDS.get(annotation, "any value")


def _describe_list(items: tuple[Any, ...]) -> str:
    words = [member.split(" ", 1) for member in describe(items[0]).split(" or ")]
    plural = " or ".join(" ".join([PLURALS.get(first, first), *rest]) for first, *rest in words)
    return f"list of {plural}" if items[-1] is Ellipsis else f"{len(items)} {plural}"


def default_of(field: FieldInfo) -> str:
    """Return the default of a field as it would be written in YAML: Markdown."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return code(value.name) if isinstance(value, ComponentConfig) else "see its keys"
    return code(yaml(value))


def yaml(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", ""))
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml(entry)}" for key, entry in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) and value == int(value) else str(value)
