"""Upgrade of checkpoints in format `cspdet 1`, with tables of renamed weights and training-state keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_1 = "cspdet 1"

TASKS_1 = {"detector": "detection", "classifier": "classification"}

# (prefix, old, new): in keys that start with `prefix`, `old` is replaced by `new`.
RENAMED_WEIGHTS: tuple[tuple[str, str, str], ...] = (
    ("backbone.", ".stem.enter.", ".stem.conv."),
    ("backbone.", ".stem.convolve.", ".stem.conv_branch."),
    ("backbone.", "backbone.enter.", "backbone.downsample."),
    ("backbone.", ".near.", ".branch_3x3."),
    ("backbone.", ".far.", ".branch_5x5."),
    ("backbone.", ".ways.", ".branches."),
    ("backbone.", ".filter.", ".depthwise."),
    ("backbone.", ".split.carry.", ".split.short_conv."),
    ("backbone.", ".split.work.", ".split.main_conv."),
    ("backbone.", ".t1.", ".partial_transition."),
    ("backbone.", ".t2.", ".final_transition."),
    ("neck.", "neck.attend.", "neck.attention."),
    ("neck.", "neck.refine.", "neck.conv_blocks."),
    ("neck.", "neck.carry.", "neck.upsample_conv."),
    ("neck.", "neck.local.", "neck.c4_lateral."),
    ("neck.", "neck.wide.", "neck.c5_lateral."),
    ("neck.", "neck.whole.", "neck.global_conv."),
    ("neck.", "_last.", "_output."),
    ("neck.", ".last.", ".output_conv."),
    ("neck.", ".set.", ".convs."),
    ("head.", "head.predict.", "head.pred_convs."),
)
TIMM_PREFIX = "backbone.network."  # names of timm, which did not change

RENAMED_PROGRESS = {
    "best": "best_metric",
    "best_AP": "best_metric",
    "stale": "evals_without_improvement",
    "sums": "loss_sums",
}


def upgrade_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the content of a `cspdet 1` file to `cspdet 2`. The keys of the config keep their old names.

    Raises:
        KeyError, TypeError, AttributeError: The file is incomplete.
    """
    training = content["training"]
    task = content.get("task", "detector")  # the first files have no task
    return {
        "format": "cspdet 2",
        "program": FORMAT_1,
        "task": TASKS_1.get(task, task),
        "config": content["recipe"],
        "class_names": content["class_names"],
        "category_ids": content["category_ids"],
        "weights": upgrade_weights(content["weights"]),
        "training": None if training is None else _upgrade_training(training),
    }


def upgrade_weights(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a cspdet 1 state dict to the current names; the order is kept."""
    return {_upgrade_key(key): value for key, value in state_dict.items()}


def _upgrade_key(key: str) -> str:
    if key.startswith(TIMM_PREFIX):
        return key
    for prefix, old, new in RENAMED_WEIGHTS:
        if key.startswith(prefix):
            key = key.replace(old, new)
    return key


def _upgrade_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """Upgrade the training state. The optimizer state is unchanged: it refers to parameters by index."""
    state = {key: value for key, value in training.items() if key != "position"}
    if "model" in state:
        state["model"] = upgrade_weights(state["model"])
    state["progress"] = {RENAMED_PROGRESS.get(key, key): value for key, value in training["position"].items()}
    return state
