"""Arguments in the style of other detection toolkits, and the flags and config keys that they stand for.

For example, `epochs=3` is read as `train.epochs=3`, `--imgsz 160` as `input.size=160`, and `conf=0.3` as
`--min-score 0.3`. An argument is translated only if its meaning is clear.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence

from cspdet.errors import ConfigError

# The first target that the command has is used: a flag, or a config key. Names: ultralytics, YOLOv5, mmdetection,
# detectron2 and the training scripts of torchvision.
SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("epochs", "max-epochs", "num-epochs"), ("train.epochs",)),
    **dict.fromkeys(("imgsz", "img", "img-size", "image-size", "size", "input-size"), ("--size", "input.size")),
    **dict.fromkeys(("batch", "batch-size"), ("--batch-size", "--batch", "train.batch_size")),
    **dict.fromkeys(("lr0", "lr", "learning-rate"), ("train.optimizer.learning_rate",)),
    **dict.fromkeys(("workers", "num-workers"), ("--workers", "train.workers")),
    **dict.fromkeys(
        (
            "conf",
            "conf-thres",
            "conf-thresh",
            "conf-threshold",
            "confidence",
            "score",
            "score-thr",
            "score-thres",
            "score-threshold",
            "thresh",
            "threshold",
        ),
        ("--min-score",),
    ),
    **dict.fromkeys(
        ("iou", "iou-thres", "iou-thresh", "iou-threshold", "nms", "nms-thr", "nms-thresh", "nms-threshold"),
        ("--nms-iou",),
    ),
    **dict.fromkeys(("out", "out-dir", "output-dir", "work-dir", "save-dir"), ("--output",)),
    **dict.fromkeys(("pretrained-weights", "load-from"), ("--weights",)),
    **dict.fromkeys(("gpu", "gpu-id"), ("--device",)),
    **dict.fromkeys(("topk", "top-k"), ("--top",)),
    "data": ("--data", "data"),
    "lrf": ("train.schedule.final_lr_ratio",),
    "momentum": ("train.optimizer.momentum",),
    "weight-decay": ("train.optimizer.weight_decay",),
    "nbs": ("train.nominal_batch_size",),
    "close-mosaic": ("train.augment.close_mosaic",),
    **{name: (f"train.{name}",) for name in ("patience", "seed", "cache", "precision", "compile")},
    "max-det": ("--max-detections",),
    "vid-stride": ("--stride",),
    "line-thickness": ("--line-width",),
    "include": ("--format",),
}
# Switches, and the flag with a value that each stands for.
SWITCHES = {
    "half": "--precision=fp16",
    "fp16": "--precision=fp16",
    "int8": "--precision=int8",
    "nosave": "--no-draw",
    "save-txt": "--save-as=yolo",
    "save-json": "--save-as=coco",
    "save-csv": "--save-as=csv",
}
MODEL_WORDS = ("model", "checkpoint", "config", "cfg")
MODEL_ARGUMENTS = ("model", "models", "config")
OUTPUT_WORDS = ("project", "name")
SECTIONS = ("task", "model", "input", "data", "train", "eval")  # keys of the root of a config
TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class CommandWords:
    """The arguments of a command line, divided into arguments for argparse and config overrides `key.path=value`.

    The value of a flag is never an override: in `--title a=b`, the title is `a=b`.

    Attributes:
        plain: Arguments for argparse: flags, their values, and positional arguments.
        overrides: Config overrides, `key.path=value`.
        notes: Pairs of a translated argument and its translation, for the log.
    """

    def __init__(self, actions: Sequence[argparse.Action], words: Sequence[str], *, translate: bool = True):
        """Divide and translate the arguments.

        Args:
            actions: The flags and positional arguments that the command defines.
            words: The arguments after the name of the command.
            translate: Whether `key=value` may stand for a flag.

        Raises:
            ConfigError: An argument has another name in cspdet (`project=`), or the value of a switch is not a boolean.
        """
        self.plain: list[str] = []
        self.overrides: list[str] = []
        self.notes: list[tuple[str, str]] = []
        self._actions = {flag: action for action in actions for flag in action.option_strings}
        self._arguments = [action.dest for action in actions if not action.option_strings]
        self._has_config = any(name in (*MODEL_ARGUMENTS, "cfg") for name in self._arguments)
        self._translate = translate
        self._given: list[str] = []  # positional arguments so far
        self._named: dict[str, str] = {}  # values of the words model=... and source=..., by argument
        self._sort(iter(words))
        self._place_named()

    def _sort(self, waiting: Iterator[str]) -> None:
        for word in waiting:
            if word == "--":
                self.plain += [word, *waiting]
            elif word.startswith("--"):
                self._add_flag(word, waiting)
            elif (pair := split_override(word)) is not None:
                self._add_pair(word, *pair)
            else:
                self._given += [] if word.startswith("-") else [word]
                self.plain.append(word)

    def _add_flag(self, word: str, waiting: Iterator[str]) -> None:
        flag, equals, value = word.partition("=")
        if flag in self._actions:
            self.plain.append(word)
            if not equals and self._actions[flag].nargs is None:
                self.plain += list(next(([value] for value in waiting), []))
            return
        name = _normalize(flag[2:])
        if self._switch(name):
            self._add_switch(word, name, value or "true")
        elif self.target(name) or self._positional(name):
            value = value if equals else next(waiting, "")
            self._add_value(f"{flag} {value}", name, value)
        else:
            self._refuse_other_meaning(word, name)
            self.plain.append(word)

    def _add_pair(self, word: str, key: str, value: str) -> None:
        """Add an argument `key=value` to `overrides`, or to `plain` if it stands for a flag or positional argument."""
        name = _normalize(key)
        is_section = key in SECTIONS and self._has_config and self._positional(name) is None
        if "." in key or is_section or not self._translate:
            self.overrides.append(word)
        elif self._switch(name):
            self._add_switch(word, name, value)
        elif self.target(name) or self._positional(name):
            self._add_value(word, name, value)
        else:
            self._refuse_other_meaning(word, name)
            self.overrides.append(word)

    def target(self, name: str) -> str | None:
        """Return the flag or config key that an argument name stands for (`conf`: --min-score); None if unknown."""
        for target in (f"--{name}", *SYNONYMS.get(name, ())):
            if target in self._actions or (not target.startswith("--") and self._has_config):
                return target
        return None

    def _switch(self, name: str) -> str | None:
        """Return the flag that a switch name stands for, with its value (`half`: --precision=fp16); None if unknown."""
        action = self._actions.get(f"--{name}")
        if action is not None:
            return f"--{name}" if action.nargs == 0 else None
        flag = SWITCHES.get(name, "")
        return flag if flag.split("=")[0] in self._actions else None

    def _positional(self, name: str) -> str | None:
        """Return the positional argument that an argument name stands for (`checkpoint`: model); None if unknown."""
        if name in MODEL_WORDS and self._arguments and self._arguments[0] in MODEL_ARGUMENTS:
            return self._arguments[0]
        return "source" if name == "source" and "source" in self._arguments else None

    def _add_value(self, word: str, name: str, value: str) -> None:
        target = self.target(name)
        if target is None:
            self._named[str(self._positional(name))] = value
            if name != "source":
                self.overrides.append(f"{name}={value}")
        elif target.startswith("--"):
            self.plain += [target, _convert(target, value)]
            if target != f"--{name}":
                self.notes.append((word, f"{target} {self.plain[-1]}"))
        else:
            self.overrides.append(f"{target}={_convert(target, value)}")
            self.notes.append((word, self.overrides[-1]))

    def _add_switch(self, word: str, name: str, value: str) -> None:
        if value.lower() not in TRUTH:
            raise ConfigError(f"{word}: expected true or false, found {value!r}")
        if TRUTH[value.lower()]:
            self.plain.append(str(self._switch(name)))
        elif f"--no-{name}" in self._actions:
            self.plain.append(f"--no-{name}")

    def _refuse_other_meaning(self, word: str, name: str) -> None:
        if name in OUTPUT_WORDS and "--output" in self._actions:
            raise ConfigError(f"unexpected {word!r}; --output sets the output folder")

    def _place_named(self) -> None:
        """Insert the values of `model=` and `source=` as positional arguments.

        If the command line already has a model, `model=` remains an override of the config. If no model is given, the
        value of `--weights` becomes the model.
        """
        if "source" in self._named:
            self._given.append(self._named["source"])
            self.plain.append(self._given[-1])
        for name in MODEL_ARGUMENTS:
            if name in self._named and self._lacks_argument():
                self.plain.insert(0, self._named[name])
                taken = [f"{word}={self._named[name]}" for word in MODEL_WORDS]
                self.overrides = [text for text in self.overrides if text not in taken]
                return
        has_config = any(word.endswith((".yaml", ".yml", ".cfg")) for word in self._given)  # it takes the weights
        if "--weights" in self.plain[:-1] and self._lacks_argument("model") and not has_config:
            at = self.plain.index("--weights")  # as in YOLOv5, where they are the model
            self.plain = [self.plain[at + 1], *self.plain[:at], *self.plain[at + 2 :]]
            self.notes.append((f"--weights {self.plain[0]}", "MODEL"))

    def _lacks_argument(self, first: str = "") -> bool:
        """Return whether positional arguments are missing. With --resume or --detections, none is missing.

        Args:
            first: If the first positional argument has another name, return False; "": any name.
        """
        has_other_input = not {"--resume", "--detections"}.isdisjoint(self.plain)
        is_first = not first or self._arguments[:1] == [first]
        return is_first and len(self._given) < len(self._arguments) and not has_other_input


def split_override(word: str) -> tuple[str, str] | None:
    """Return key and value of an argument `key.path=value`; None for other text and for existing files."""
    if "=" not in word or os.path.lexists(word):
        return None
    from cspdet.config.resolve import OVERRIDE

    match = OVERRIDE.fullmatch(word)
    return None if match is None else (match[1], match[2])


def _normalize(name: str) -> str:
    return name.lower().replace("_", "-")


def _convert(target: str, value: str) -> str:
    """Convert `value` to the format of the flag or key `target`: `640,480` to `640x480`, batch size -1 to `auto`."""
    sides = re.fullmatch(r"[\[(]?(\d+)\s*[,x]\s*(\d+)[\])]?", value)
    if target == "--size" and sides:
        return f"{sides[1]}x{sides[2]}"
    if target == "input.size" and sides:
        return f"[{sides[1]}, {sides[2]}]"
    return "auto" if (target, value) == ("train.batch_size", "-1") else value
