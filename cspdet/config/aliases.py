"""Renamed config keys: a table that maps the key names of cspdet 1 to the current names.

The table applies to YAML files, overrides, checkpoints and exported files.
"""

from __future__ import annotations

import logging
from typing import Any

from cspdet.config.read import KeyPath, format_key_path

log = logging.getLogger("cspdet")

# Old key -> new key, both from the root of a config. Rows apply in order: a section is renamed before its keys.
RENAMED_KEYS: dict[str, str] = {
    "model.classes": "model.num_classes",
    "model.head.sizes": "model.head.wh_decoding",
    "train.ema.share": "train.ema.window_fraction",
    "train.multi_scale.every": "train.multi_scale.interval",
    "train.repeat_factor": "train.repeat_threshold",
    "train.bad_pictures": "train.on_bad_image",
    "train.evaluate_every": "train.eval_interval",
    "train.save_every_minutes": "train.checkpoint_interval_minutes",
    "train.schedule.final": "train.schedule.final_lr_ratio",
    "train.schedule.burn_in_steps": "train.schedule.warmup_steps",
    "train.schedule.burn_in_share": "train.schedule.warmup_max_fraction",
    "train.schedule.burn_in_power": "train.schedule.warmup_power",
    "train.loss.objectness_goal": "train.loss.objectness_target",
    "train.assign": "train.assigner",
    "train.assigner.rule": "train.assigner.name",
    "train.assigner.dynamic.top": "train.assigner.candidate_topk",
    "train.assigner.dynamic.radius": "train.assigner.radius",
    "train.assigner.dynamic.iou_weight": "train.assigner.iou_weight",
    "train.assigner.dynamic.center_weight": "train.assigner.center_weight",
    "eval.max_iou": "eval.nms_iou",
    # the metadata of an exported file
    "head.sizes": "head.wh_decoding",
    "nms.max_iou": "nms.nms_iou",
}

# Current key -> {old value: current value}.
RENAMED_VALUES: dict[str, dict[str, str]] = {
    "task": {"detector": "detection", "classifier": "classification"},
    "train.assigner.name": {"static": "anchor_iou", "dynamic": "simota"},
}

# In cspdet 1, both assigners had their keys in one section; the keys of the assigner not in use had no effect.
ASSIGNER = ("train", "assigner")
ASSIGNER_KEYS = frozenset(
    {"match_iou", "match_ratio", "neighbors", "candidate_topk", "radius", "iou_weight", "center_weight"}
)

_notice_given: list[str] = []


def rename_key(key_path: KeyPath) -> KeyPath:
    """Return the current key path for a key path of cspdet 1; return other key paths unchanged."""
    for old, new in RENAMED_KEYS.items():
        old_path = tuple(old.split("."))
        if key_path[: len(old_path)] == old_path:
            key_path = (*new.split("."), *key_path[len(old_path) :])
    return key_path


def rename_override(text: str) -> str:
    """Rename the key of an override `key.path=value` to its current name; return other text unchanged."""
    key, sign, value = text.partition("=")
    return format_key_path(rename_key(tuple(key.split(".")))) + sign + value


def upgrade_keys(values: Any, source_locations: dict[KeyPath, str]) -> dict[str, str]:
    """Rename the keys and values of cspdet 1 in place. Return a dict from each renamed key to its new name.

    If a key with the new name also exists, the old key is kept, and validation reports it as unknown.

    Args:
        values: The values of a config.
        source_locations: The `file:line` of each key path. Its key paths are renamed too.
    """
    renamed = {}
    for old, new in RENAMED_KEYS.items():
        old_path, new_path = tuple(old.split(".")), tuple(new.split("."))
        old_parent, new_parent = _section(values, old_path[:-1]), _section(values, new_path[:-1])
        if old_parent is None or new_parent is None or old_path[-1] not in old_parent or new_path[-1] in new_parent:
            continue
        new_parent[new_path[-1]] = old_parent.pop(old_path[-1])
        _move_locations(source_locations, old_path, new_path)
        renamed[old] = new
    _rename_values(values)
    assigner = _section(values, ASSIGNER)
    if renamed and assigner is not None and assigner.get("dynamic") == {}:
        del assigner["dynamic"]
    return renamed


def _rename_values(values: Any) -> None:
    for key, names in RENAMED_VALUES.items():
        *section_path, last = key.split(".")
        section = _section(values, tuple(section_path))
        value = section.get(last) if section is not None else None
        if section is not None and isinstance(value, str):
            section[last] = names.get(value, value)


def log_renamed(renamed: dict[str, str], source: str, level: int = logging.WARNING) -> None:
    """Log the renamed keys and their new names. Only the first call in a process logs.

    Args:
        renamed: Result of `upgrade_keys`.
        source: Name of the file or override that contains the old keys.
        level: The log level.
    """
    if not renamed or _notice_given:
        return
    _notice_given.append(source)
    pairs = ", ".join(f"{old} is now {new}" for old, new in renamed.items())
    log.log(level, "%s: uses key names of cspdet 1: %s", source, pairs)


def _section(values: Any, key_path: KeyPath) -> dict[str, Any] | None:
    for key in key_path:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else None


def _move_locations(source_locations: dict[KeyPath, str], old: KeyPath, new: KeyPath) -> None:
    for path in [path for path in source_locations if path[: len(old)] == old]:
        source_locations[new + path[len(old) :]] = source_locations.pop(path)
