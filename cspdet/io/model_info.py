"""Facts about trained weights, stored in their checkpoint: name, date, license, data, metrics and versions."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cspdet import __version__


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


MAX_TEXT = 500  # characters of a fact
# Checkpoints come from strangers, so lengths are limited.
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_check_printable)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Value = Annotated[float, Field(allow_inf_nan=False)] | None


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class SplitFacts(_Facts):
    """Size of a split of a dataset."""

    images: Count = Field(description="Number of images.")
    boxes: Count | None = Field(None, description="Number of boxes; null: the images have classes without boxes.")


class ModelInfo(_Facts):
    """Facts about trained weights; an unknown fact is null or empty. Unknown keys are ignored."""

    name: Text | None = Field(None, description="Name of the model, such as that of its run folder.")
    date: Text | None = Field(None, description="UTC date and time at which the weights were trained or imported.")
    license: Text | None = Field(None, description="License of the weights, as an SPDX identifier or as text.")
    source: Text | None = Field(None, description="Address of the project that published the weights.")
    dataset: Text | None = Field(None, description="File or folder name of the training data.")
    data: dict[Text, SplitFacts] = Field({}, max_length=10, description="Size of the splits train and val.")
    initial_weights: Text | None = Field(None, description="File name of the weights with which training started.")
    epoch: Count | None = Field(None, description="Number of trained epochs.")
    metrics: dict[Text, Value] = Field({}, max_length=200, description="Metrics of these weights on the split val.")
    versions: dict[Text, Text] = Field({}, max_length=20, description="Versions of cspdet, Python and torch.")

    def to_json(self) -> dict[str, Any]:
        """Return the known facts as a dict of JSON types."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def made_now(self, epoch: int | None = None, metrics: Mapping[str, float | None] | None = None) -> ModelInfo:
        """Return a copy of these facts for weights that are written now, with the current date and the versions.

        Args:
            epoch: Number of trained epochs.
            metrics: Metrics of the weights; NaN and infinity become null.
        """
        finite = {
            key: None if value is None or not math.isfinite(value) else float(value)
            for key, value in (metrics or {}).items()
        }
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        versions = {"cspdet": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
        return self.model_copy(update={"date": date, "versions": versions, "epoch": epoch, "metrics": finite})


def clean_text(text: str) -> str:
    """Return a text that is a valid fact: control characters become `?`, and a long text is truncated."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_TEXT])


def parse_info(values: object) -> ModelInfo:
    """Validate facts read from a file.

    Raises:
        ValueError: A fact has another type, is too long, or has control characters.
    """
    try:
        return ModelInfo.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("info", *first["loc"])))
        raise ValueError(f"{key[:100]}: {first['msg']}") from None
