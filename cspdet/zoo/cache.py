"""The cache of downloaded models, and the path of the model that a name stands for.

    <cache>/zoo/NAME/         the downloaded files of the model NAME, and its checkpoint NAME.pt
    <cache>/zoo/hashes.json   the SHA-256 of files without a published hash, recorded by the first complete fetch

Models of the Hugging Face Hub are in another cache; see `cspdet.zoo.hub`.

The cache is the folder that CSPDET_HOME names, else the cache folder of the platform, such as ~/.cache/cspdet.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from platformdirs import user_cache_path

from cspdet.config.released import released_configs
from cspdet.errors import CheckpointError, UserError, did_you_mean
from cspdet.io.atomic import write_text
from cspdet.io.folders import run_checkpoint
from cspdet.zoo.catalogue import FILE_SUFFIXES, MAX_NAME_LENGTH, ZooEntry, read_catalogue
from cspdet.zoo.hub import HubModel, cached_model, parse_hub_name

HOME_VARIABLE = "CSPDET_HOME"


def zoo_folder() -> Path:
    """Return the folder of all downloaded models; it may not exist."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home).expanduser() if home else user_cache_path("cspdet", appauthor=False)) / "zoo"


def model_path(name: str, entry: ZooEntry) -> Path:
    """Return the path of the file that commands load for a model; it may not exist.

    This is the checkpoint of a Darknet network, and the downloaded file of other models.
    """
    return zoo_folder() / name / (f"{name}.pt" if entry.kind == "darknet" else entry.weights.name)


def resolve_model(source: str | Path, *, must_exist: bool = True) -> Path:
    """Return the path of a MODEL or of weights.

    Args:
        source: A file, a run folder (its best checkpoint), or the name of a model of the catalogue or of the Hugging
            Face Hub (`hf:user/name`).
        must_exist: Raise an error if the model is not downloaded and no config has its name.

    Returns:
        The path. A name for which there is no downloaded model is returned unchanged.

    Raises:
        CheckpointError: The model is not downloaded, or its name is misspelled.
    """
    path = run_checkpoint(source)
    hub_model = parse_hub_name(path)
    if hub_model is not None:
        return _resolve_hub_model(hub_model, must_exist=must_exist)
    entry = find_entry(path)
    if entry is None:
        if must_exist:
            _check_typo(path)
        return path
    found = model_path(str(path), entry)
    if must_exist and not found.is_file() and str(path) not in released_configs():
        raise CheckpointError(f"{path}: this model is not downloaded; `cspdet fetch {path}` downloads it")
    return found if found.is_file() else path


def _resolve_hub_model(model: HubModel, *, must_exist: bool) -> Path:
    path = cached_model(model)
    if path is None and must_exist:
        raise CheckpointError(f"{model}: this model is not downloaded; `cspdet fetch {model}` downloads it")
    return path or Path(str(model))


def _check_typo(path: Path) -> None:
    """Raise CheckpointError if a name is neither a file nor a config, but similar to a model of the catalogue."""
    hint = did_you_mean(str(path), read_catalogue()) if _is_name(path) and str(path) not in released_configs() else ""
    if hint:
        raise CheckpointError(f"{path}: no such file, config or model of the catalogue{hint}; `cspdet zoo` lists them")


def _is_name(path: Path) -> bool:
    """Whether a MODEL argument can be a catalogue name: no folder, no file suffix, and no existing file."""
    if len(path.parts) != 1 or len(str(path)) > MAX_NAME_LENGTH or path.suffix in FILE_SUFFIXES:
        return False
    return ":" not in str(path) and not path.exists()


def find_entry(source: str | Path) -> ZooEntry | None:
    """Return the catalogue entry that a MODEL argument names; None if the argument names no model of the catalogue."""
    path = Path(source)
    return read_catalogue().get(str(path)) if _is_name(path) else None


def read_recorded_hashes() -> dict[str, str]:
    """Return the recorded SHA-256 hashes; the keys are `NAME/file name`.

    Raises:
        UserError: The file of the hashes is damaged.
    """
    path = zoo_folder() / "hashes.json"
    if not path.is_file():
        return {}
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(recorded, dict) or not all(isinstance(value, str) for value in recorded.values()):
            raise ValueError("expected a mapping of files to hashes")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return recorded


def record_hashes(hashes: dict[str, str]) -> None:
    """Add SHA-256 hashes, whose keys are `NAME/file name`, to `hashes.json`.

    Raises:
        UserError: `hashes.json` cannot be read or written.
    """
    recorded = read_recorded_hashes() | hashes
    write_text(zoo_folder() / "hashes.json", json.dumps(recorded, indent=1, sort_keys=True) + "\n")
