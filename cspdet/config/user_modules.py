"""User-defined classes, named `module:Class` in a config file or on the command line.

Importing a module runs its code. Therefore a module is imported only if the user names it; a name in a checkpoint does
not import it.
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
    """Permission to import user modules: the folders that are searched, and the allowed modules."""

    folders: tuple[Path, ...]
    modules: Collection[str] | None  # None: any


_FORBIDDEN = _Permission((), ())  # compared by identity: allow_user_modules does not lift it
_permission: ContextVar[_Permission | None] = ContextVar("user_modules", default=None)


@contextmanager
def allow_user_modules(*folders: Path, modules: Collection[str] | None = None) -> Iterator[None]:
    """Allow the import of user modules, named as `module:Class`, inside the `with` block.

    Inside a block of `forbid_user_modules`, this function has no effect.

    Args:
        folders: Folders to search, in addition to installed modules and the working directory.
        modules: The modules that may be imported; None: all modules.
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
    """Forbid the import of user modules inside the `with` block, even for names in config files.

    It is used when a checkpoint refers to a config file. Modules that are already imported can still be used.
    """
    token = _permission.set(_FORBIDDEN)
    try:
        yield
    finally:
        _permission.reset(token)


def import_user_module(module: str, *folders: Path) -> None:
    """Import a user-defined module that is installed, in the working directory or in `folders`.

    The folders stay in `sys.path`, because worker processes import the module again.

    Raises:
        ConfigError: There is no such module, or its code raises an exception.
    """
    for folder in (Path.cwd(), *folders):
        if str(folder.absolute()) not in sys.path:
            sys.path.append(str(folder.absolute()))  # appended, so that installed modules have priority
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
    """Return the object with the name `module:Class`.

    Raises:
        ConfigError: The import of the module is not allowed or fails, or the module does not contain this object.
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
