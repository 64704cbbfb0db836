"""The model card (README.md) of a repository of the Hugging Face Hub, in Markdown with all values escaped."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from cspdet.io.model_info import ModelInfo
from cspdet.structures import TaskName

HOME = "https://github.com/cspdet/cspdet"
MAX_CLASSES = 100  # class names in the text
LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")  # the form of the license identifiers of the Hub
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~&$]|(?<=:)//|@|\bwww(?=\.)")

FILE_MEANINGS = {
    "model.safetensors": "weights and metadata",
    "config.yaml": "config of the training",
    "metrics.json": "all metrics",
    "curves.png": "training curves",
    "val_detections.jpg": "sample predictions",
    "val_predictions.jpg": "sample predictions",
}
IMAGES = ("val_detections.jpg", "val_predictions.jpg")


@dataclass(frozen=True)
class ModelCard:
    """The content of a model card.

    Attributes:
        repo: `user/name`.
        task: Task of the model.
        class_names: Names of the classes.
        info: Facts about the weights.
        facts: Labels and values of the first table, such as network and input size.
        files: Names of the files beside the card.
    """

    repo: str
    task: TaskName
    class_names: tuple[str, ...]
    info: ModelInfo
    facts: tuple[tuple[str, str], ...]
    files: tuple[str, ...]

    def render(self) -> str:
        """Return the Markdown text."""
        info = self.info
        return _environment().get_template("model_card.md").render(
            front_matter=self._front_matter(), name=self.repo.split("/")[1], repo=self.repo, task=self.task,
            class_names=self.class_names, class_list=self._class_list(), facts=list(self._facts()), home=HOME,
            weights_file="model.safetensors", metrics=list(_metric_rows(info)), dataset=info.dataset,
            splits=[(name, split.images, split.boxes) for name, split in info.data.items()],
            command=self._command(), has_curves="curves.png" in self.files,
            image=next((name for name in IMAGES if name in self.files), None),
            files=[(name, FILE_MEANINGS[name]) for name in self.files if name in FILE_MEANINGS],
        )  # fmt: skip

    def _front_matter(self) -> dict[str, Any]:
        """Return the metadata that the Hub reads. JSON values are valid YAML."""
        kind = "object-detection" if self.task == "detection" else "image-classification"
        license_ = self.info.license
        known = license_ is not None and LICENSE_ID.fullmatch(license_.lower()) is not None
        values: dict[str, Any] = {"library_name": "cspdet", "pipeline_tag": kind, "tags": ["cspdet", "cspnet", kind]}
        if license_ is not None:
            values["license"] = license_.lower() if known else "other"
        measured = {key: value for key, value in self.info.metrics.items() if value is not None}
        if measured:
            dataset = {"name": self.info.dataset or "unknown", "type": "custom", "split": "val"}
            result = {
                "task": {"type": kind},
                "dataset": dataset,
                "metrics": [{"type": key, "name": key, "value": value} for key, value in measured.items()],
            }
            values["model-index"] = [{"name": self.repo.split("/")[1], "results": [result]}]
        return values

    def _class_list(self) -> str:
        more = len(self.class_names) - MAX_CLASSES
        return ", ".join(self.class_names[:MAX_CLASSES]) + (f", and {more} more" if more > 0 else "")

    def _facts(self) -> Iterator[tuple[str, str]]:
        info = self.info
        yield from self.facts
        yield "license", info.license or "not stated"
        if info.source:
            yield "source", info.source
        if info.date:
            yield "made at", info.date + (f", after epoch {info.epoch}" if info.epoch else "")
        if info.versions:
            yield "versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())

    def _command(self) -> str:
        words = ["cspdet", "train", "config.yaml"]
        if self.info.initial_weights:
            words += ["--weights", self.info.initial_weights]
        if self.info.dataset:
            words += ["--data", self.info.dataset] if self.task == "classification" else [f"data={self.info.dataset}"]
        return shlex.join(words)


def _metric_rows(info: ModelInfo) -> Iterator[tuple[str, str]]:
    for name, value in info.metrics.items():
        yield name, "–" if value is None else f"{value:.4f}"


def escape_markdown(text: object) -> str:
    """Return a text that Markdown shows as it is: on one line, without markup, HTML or links."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return _SPECIAL.sub(lambda match: "".join(f"\\{letter}" if not letter.isalnum() else letter for letter in match[0])
                        if match[0] != "www" else "ww\u200bw", line)  # fmt: skip


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cspdet.reports"), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["md"] = escape_markdown
    environment.filters["json"] = json.dumps
    return environment
