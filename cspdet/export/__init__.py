"""Networks as files of other programs: the formats of `cspdet.export`, which is this package and a function.

`cspdet.export(model, "onnx")` calls `cspdet.api.export`; `cspdet.export.onnx` is a module. Python gives both one name.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    """A package that calls the function of the API of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("cspdet.api").export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
