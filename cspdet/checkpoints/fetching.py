"""Fetch a model of `cspdet zoo` or of the Hugging Face Hub: download and verify it, and convert Darknet networks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cspdet.checkpoints.darknet_import import import_darknet
from cspdet.config.released import get_released
from cspdet.darknet.names import read_names
from cspdet.errors import ConfigError, UserError
from cspdet.io.checkpoint import save_checkpoint
from cspdet.io.model_info import ModelInfo, clean_text
from cspdet.zoo.cache import model_path
from cspdet.zoo.catalogue import ZooEntry, get_entry
from cspdet.zoo.download import discard_unverified, download_files, lock_model, record_new_hashes
from cspdet.zoo.hub import download_model, parse_hub_name

# Post-processing of Darknet's commands `detector valid`, which writes COCO results, and `detector map`.
PROTOCOLS = {
    "valid": ("eval.min_score=0.001", "eval.nms_iou=0.6", "eval.clip_boxes=true"),
    "map": ("eval.min_score=0.005", "eval.nms_iou=0.45", "eval.clip_boxes=false"),
}

log = logging.getLogger("cspdet")


def fetch_model(name: str, *, copies: Sequence[str | Path] = (), force: bool = False) -> Path:
    """Return the path of a model of the catalogue or of the Hub; download it if it is not in the cache.

    The checkpoint of a Darknet network has the input size and the thresholds of the published accuracy.

    Args:
        name: Name of the model, or `hf:user/name` or `hf:user/name@revision` of the Hugging Face Hub.
        copies: Paths of files that the user already has. They are copied instead of downloaded.
        force: Verify the downloaded files again, and convert them again. A file of the Hub is downloaded again.

    Raises:
        UserError: There is no such model, a file cannot be downloaded, or a file differs from the published file.
    """
    hub_model = parse_hub_name(name)
    if hub_model is not None:
        if copies:
            raise ConfigError(f"--file: not possible for {name}; a `.safetensors` file is a MODEL itself")
        return download_model(hub_model, force=force)
    entry = get_entry(name)
    path = model_path(name, entry)
    with lock_model(name):
        if path.is_file() and not copies and not force:
            log.info("%s: is in the cache: %s", name, path)
            return path
        folder = download_files(name, entry, copies=[Path(copy) for copy in copies])
        if entry.kind == "darknet":
            _write_checkpoint(name, entry, folder, path)
        record_new_hashes(name, entry)
    return path


def _write_checkpoint(name: str, entry: ZooEntry, folder: Path, path: Path) -> None:
    """Convert the downloaded files of a Darknet network to the checkpoint `path`."""
    cfg = folder / entry.cfg.name if entry.cfg is not None else get_released(entry.config or "").path
    # The cfg says how Darknet resizes images. A config has letterbox, while Darknet stretched these networks' images.
    overrides = [*PROTOCOLS[entry.protocol], *(["input.resize=stretch"] if entry.cfg is None else [])]
    if entry.size is not None:
        overrides.append(f"input.size={list(entry.size)}")
    names = None if entry.names is None else read_names(folder / entry.names.name)
    try:
        imported = import_darknet(cfg, folder / entry.weights.name, names=names, overrides=overrides)
    except UserError as error:
        discard_unverified(name, entry)  # so that the next fetch downloads them again
        raise UserError(*(f"{name}: {problem}" for problem in error.problems)) from None
    facts = ModelInfo(name=name, license=clean_text(entry.license), source=clean_text(entry.source))
    save_checkpoint(path, replace(imported.to_checkpoint(), info=facts.made_now()))
