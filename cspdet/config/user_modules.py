"""Classes of the user's own, named `module:Class` in a config file or on the command line.

A module is imported only where the user names it, never because a checkpoint does: naming a module runs its code.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from cspdet.errors import ConfigError, did_you_mean

USER_NAME = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)")


class _Permission(NamedTuple):
    """Which modules may be imported because a config names them, and where they are looked for."""

    folders: tuple[Path, ...]
    modules: Collection[str] | None  # None: any


_FORBIDDEN = _Permission((), ())  # compared by identity: allow_user_modules does not lift it
_permission: ContextVar[_Permission | None] = ContextVar("user_modules", default=None)


@contextmanager
def allow_user_modules(*folders: Path, modules: Collection[str] | None = None) -> Iterator[None]:
    """Let names of the form `module:Class` import their module inside the `with` block.

    Args:
        folders: Where modules are searched, in addition to the installed ones and the working directory.
        modules: The modules that may be imported; None allows any.
    """
    if _permission.get() is _FORBIDDEN:
        yield
        return
    token = _permission.set(_Permission((Path.cwd(), *folders), modules))
    try:
        yield
    finally:
        _permission.reset(token)


@contextmanager
def forbid_user_modules() -> Iterator[None]:
    """Import no user modules inside the `with` block, not even those that a config file read there names.

    For config files that a checkpoint names, not the user. Modules that are imported already can be used.
    """
    token = _permission.set(_FORBIDDEN)
    try:
        yield
    finally:
        _permission.reset(token)


def import_user_module(module: str, *folders: Path) -> None:
    """Import a module that the user named, from the installed ones, the working directory or `folders`.

    The folders stay on the module search path: worker processes have to import the same module again.

    Raises:
        ConfigError: there is no such module, or its code raises an exception.
    """
    for folder in (Path.cwd(), *folders):
        if str(folder.absolute()) not in sys.path:
            sys.path.append(str(folder.absolute()))  # last, so that no installed module is replaced
    importlib.invalidate_caches()
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"no module {error.name!r}; expected one that is installed, in the working directory or beside the "
                "config"
            ) from None
        raise ConfigError(f"module {module!r} cannot be imported: {error}") from error
    except Exception as error:
        raise ConfigError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error


def import_user_object(name: str) -> Any:
    """The object that `module:Class` names.

    Raises:
        ConfigError: the module may not be imported here, cannot be imported, or has no such object.
    """
    match = USER_NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"expected module:Class, found {name!r}")
    module, attribute = match.groups()
    if module not in sys.modules:
        permission = _permission.get()
        if permission is None or (permission.modules is not None and module not in permission.modules):
            raise ConfigError(f"{name!r} is in the module {module!r}, which is not imported; add --import {module}")
        import_user_module(module, *permission.folders)
    content = vars(sys.modules[module])
    if attribute not in content:
        raise ConfigError(f"module {module!r} has no {attribute!r}{did_you_mean(attribute, content)}")
    return content[attribute]
