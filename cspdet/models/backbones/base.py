"""What the config of every backbone has beside its own keys."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from cspdet.config.base import ConfigModel

TIMM_PREFIX = "timm:"


class BackboneConfigBase(ConfigModel):
    """weights start a training from those of the same backbone: a checkpoint of a classifier or detector (.pt), a
    Darknet classifier's .weights or .conv.N, or `timm:NAME` for a backbone of timm. What has been trained since stands
    in the checkpoints of that training, which no longer need the file.
    """

    weights: Path | None = None

    @field_validator("weights")
    @classmethod
    def _strip_dir_from_timm_name(cls, weights: Path | None) -> Path | None:
        """Paths in configs are made absolute, which a name of timm's is not meant to be."""
        return Path(weights.name) if weights is not None and weights.name.startswith(TIMM_PREFIX) else weights
