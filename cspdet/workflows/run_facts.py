"""Facts about a run: for the checkpoints of a training, and for the report page of a results file."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.config.read import read_yaml
from cspdet.errors import ConfigError
from cspdet.reports.facts import RunFacts, format_time

if TYPE_CHECKING:
    from cspdet.io.model_info import ModelInfo
    from cspdet.recipe import Recipe
    from cspdet.training.tasks.base import TrainingData


def read_run_facts(results: Path) -> RunFacts:
    """Read the facts about a results file from `metrics.json` and `config.yaml` in its folder.

    Values of missing or invalid files are empty.

    Args:
        results: A results file that exists.
    """
    config_path = results.parent / "config.yaml"
    metrics, config = _read_json(results.parent / "metrics.json"), _read_config(config_path)
    size = metrics.get("size") or _get(config, "input", "size")
    return RunFacts(
        model=_model_name(metrics),
        network=network_name(config),
        size=f"{size[1]} x {size[0]}" if isinstance(size, list) and len(size) == 2 else "",
        config=str(config_path) if config else "",
        date=format_time(datetime.fromtimestamp(results.stat().st_mtime)),
    )


def training_info(run_dir: Path, recipe: Recipe, data: TrainingData[Any], weights: str | None) -> ModelInfo:
    """Return the facts of a training that its checkpoints store.

    Args:
        run_dir: The run folder.
        recipe: The recipe of the run.
        data: The splits.
        weights: Name or path of the initial weights; None: random weights.
    """
    from cspdet.io.model_info import ModelInfo, SplitFacts, clean_text

    has_boxes = recipe.task == "detection"
    splits = {
        name: SplitFacts(images=len(split), boxes=len(split.box_xyxy) if has_boxes else None)
        for name, split in (("train", data.train), ("val", data.val))
        if split is not None
    }
    weights = None if weights is None else clean_text(Path(weights).name)
    dataset = None if recipe.data is None else clean_text(recipe.data.name)
    return ModelInfo(name=clean_text(run_dir.name), dataset=dataset, data=splits, initial_weights=weights)


def _model_name(metrics: dict[str, Any]) -> str:
    name, epoch = metrics.get("model"), metrics.get("epoch")
    return "" if not name else f"{name}, epoch {epoch}" if epoch else str(name)


def network_name(config: dict[str, Any]) -> str:
    """Return the names of backbone and neck in a recipe, `csppeleenet + efm`; unknown parts are omitted."""
    parts = [_get(config, "model", part, "name") for part in ("backbone", "neck")]
    return " + ".join(str(part) for part in parts if part)


def _get(values: Any, *keys: str) -> Any:
    """Return a nested value, or None if a key is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)[0]
    except ConfigError:
        return {}
    return content if isinstance(content, dict) else {}
