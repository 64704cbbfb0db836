"""Run folders: the checkpoint of a run, and output folders that never overwrite an earlier run."""

from __future__ import annotations

from pathlib import Path

from cspdet.errors import UserError

CHECKPOINT_SUFFIXES = (".pt", ".safetensors")


def run_checkpoint(path: str | Path) -> Path:
    """Return `best.pt` of a run folder, or `last.pt` if there is no `best.pt`. Other paths are returned unchanged."""
    path = Path(path)
    return next((path / name for name in ("best.pt", "last.pt") if (path / name).is_file()), path)


def increment_path(base: Path) -> Path:
    """Create an empty output folder and return its path.

    The folder is `base`. If `base` is a file or a folder with content, the folder is `base-2`, `base-3` ...

    Raises:
        UserError: The folder cannot be created.
    """
    base = Path(base)
    suffix = 1
    while True:
        folder = base if suffix == 1 else base.with_name(f"{base.name}-{suffix}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                return folder
        except FileExistsError:
            pass  # a file has this name, or another run created the folder: try the next suffix
        except OSError as error:
            raise UserError(f"{folder}: the folder cannot be created: {error.strerror}") from None
        suffix += 1
