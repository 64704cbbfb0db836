"""Configuration of the training data: how batches are composed, read and cached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cspdet.config.base import ConfigModel

Resize = Literal["letterbox", "stretch"]
Cache = Literal["auto", "none", "ram", "disk"]
OnBadImage = Literal["error", "skip"]
Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


class LoaderConfig(ConfigModel):
    """Which batches an epoch has, and how their images are read."""

    epochs: int = Field(100, ge=1, description="Number of training epochs.")
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16,
        description="Images per forward pass, over all processes; auto: as many as fit on the CUDA device, up to "
        "nominal_batch_size.",
    )
    nominal_batch_size: int = Field(
        16,
        ge=1,
        description="Images per optimizer step; gradients are accumulated if it is larger than batch_size.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the image order and of the augmentation.")
    repeat_threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Repeat images of classes that occur in a smaller fraction of the images than this "
        "(repeat factor sampling, LVIS); null: every image once per epoch.",
    )
    workers: Workers = Field(
        "auto",
        description="Number of loader processes; 0 loads in the training process; auto: by number of cores and device.",
    )
    cache: Cache = Field(
        "auto",
        description="Where decoded, resized images are kept: ram, disk or none; auto: ram if they fit well.",
    )
    cache_folder: Path | None = Field(
        None,
        description="Folder for the files of cache: disk, which runs may share; null: in the run directory.",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error",
        description="What to do about unreadable training images: stop with an error, or skip and count them.",
    )

    @property
    def max_batch_size(self) -> int:
        """Images per forward pass; with `batch_size: auto`, the upper limit."""
        return self.nominal_batch_size if self.batch_size == "auto" else self.batch_size
