"""Read the origin of detections from the files beside them: model, input size, config and date."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from cspdet.config.read import read_yaml
from cspdet.errors import ConfigError
from cspdet.reports.facts import RunFacts, format_time


def read_run_facts(results: Path) -> RunFacts:
    """Read the facts about a results file from `metrics.json` and `config.yaml` in its folder.

    Files that are missing or are not those of cspdet give no facts.

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
