"""The config of a network that a Darknet cfg describes; it holds the text, so that a checkpoint needs no other file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from cspdet.config.base import ConfigModel
from cspdet.darknet.cfg import parse_cfg, read_cfg

if TYPE_CHECKING:
    from cspdet.darknet.network import DarknetClassifier, DarknetDetector

CFG_SOURCE_NAME = "model.cfg"  # what messages call the text of a config or checkpoint


class _DarknetConfigBase(ConfigModel):
    """What detectors and classifiers of a cfg share."""

    name: Literal["darknet"] = Field(description="`darknet`: a network of a Darknet cfg.")
    cfg: str | Path = Field(description="The text of the cfg, or the path of a cfg file, whose text is then kept.")
    bn_eps: float = Field(
        1e-5,
        gt=0,
        lt=1e-2,
        description="Epsilon of batch normalization: 1e-5 is Darknet's since May 2020, 1e-6 that of OpenCV's importer.",
    )

    @field_validator("cfg")
    @classmethod
    def _read_cfg_text(cls, cfg: str | Path) -> str:
        if "\n" in str(cfg):
            return str(cfg)
        text = read_cfg(cfg)
        parse_cfg(text, str(cfg))  # errors name the file here, while its name is known
        return text

    @property
    def text(self) -> str:
        """The text of the cfg."""
        return str(self.cfg)


class DarknetModelConfig(_DarknetConfigBase):
    """A detector that a cfg describes."""

    def build(self, num_classes: int, *, pretrained: bool = True) -> DarknetDetector:
        """Build the network with random weights.

        Args:
            num_classes: Number of classes, which replaces that of the cfg.
            pretrained: Without effect: a cfg has no pretrained weights.

        Raises:
            ConfigError: with the lines of the cfg that are not valid.
        """
        from cspdet.darknet.network import DarknetDetector
        from cspdet.darknet.num_classes import with_num_classes

        return DarknetDetector(with_num_classes(parse_cfg(self.text, CFG_SOURCE_NAME), num_classes), bn_eps=self.bn_eps)


class DarknetClassifierConfig(_DarknetConfigBase):
    """A classifier that a cfg describes."""

    def build(self, *, pretrained: bool = True) -> DarknetClassifier:
        """Build the network with random weights.

        Args:
            pretrained: Without effect: a cfg has no pretrained weights.

        Raises:
            ConfigError: with the lines of the cfg that are not valid.
        """
        from cspdet.darknet.network import DarknetClassifier

        return DarknetClassifier(parse_cfg(self.text, CFG_SOURCE_NAME), bn_eps=self.bn_eps)
