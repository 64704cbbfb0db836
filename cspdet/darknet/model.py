"""A cfg as the `model` of a config: the text itself, so that a checkpoint is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from cspdet.config.base import ConfigModel
from cspdet.darknet.cfg import parse_cfg, read_cfg, with_num_classes
from cspdet.darknet.network import DarknetClassifier, DarknetDetector

CFG_SOURCE_NAME = "model.cfg"  # how messages call the text of a config or checkpoint


class _DarknetConfigBase(ConfigModel):
    """`cfg` is the text of a cfg file, or the name of one, whose text is then taken."""

    name: Literal["darknet"]
    cfg: str | Path
    bn_eps: float = Field(1e-5, gt=0, lt=1e-2)  # Darknet's since May 2020; OpenCV's importer has 1e-6

    @field_validator("cfg")
    @classmethod
    def _read_cfg_text(cls, cfg: str | Path) -> str:
        if "\n" in str(cfg):
            return str(cfg)
        text = read_cfg(cfg)
        parse_cfg(text, str(cfg))  # mistakes are told with the file's name for as long as it is known
        return text

    @property
    def text(self) -> str:
        return str(self.cfg)


class DarknetModelConfig(_DarknetConfigBase):
    """A detector that a cfg describes."""

    def build(self, num_classes: int, *, pretrained: bool = True) -> DarknetDetector:
        """The network with fresh weights, for that many classes whatever the cfg says; none comes pretrained.

        Raises:
            ConfigError: with the lines of the cfg that cannot be.
        """
        return DarknetDetector(with_num_classes(parse_cfg(self.text, CFG_SOURCE_NAME), num_classes), bn_eps=self.bn_eps)


class DarknetClassifierConfig(_DarknetConfigBase):
    """A classifier that a cfg describes."""

    def build(self, *, pretrained: bool = True) -> DarknetClassifier:
        """The network with fresh weights; none comes pretrained.

        Raises:
            ConfigError: with the lines of the cfg that cannot be.
        """
        return DarknetClassifier(parse_cfg(self.text, CFG_SOURCE_NAME), bn_eps=self.bn_eps)
