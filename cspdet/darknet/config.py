"""Configs of networks that a Darknet cfg defines.

A config stores the text of the cfg, so that a checkpoint can be loaded without the cfg file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from cspdet.config.base import ConfigModel
from cspdet.darknet.cfg import Cfg, parse_cfg, read_cfg

if TYPE_CHECKING:
    from cspdet.darknet.network import DarknetClassifier, DarknetDetector

CFG_SOURCE_NAME = "model.cfg"  # name for messages about a cfg that is stored in a checkpoint
_file_names: dict[str, str] = {}  # text of a cfg -> the file that it was read from, for messages


def remember_file(text: str, path: str | Path) -> None:
    """Record the file of a cfg text, so that later error messages about this text name the file."""
    _file_names[text] = str(path)


class _DarknetConfigBase(ConfigModel):
    """Base class with the fields that the configs of detectors and classifiers share."""

    name: Literal["darknet"] = Field(description="`darknet`: a network defined by a Darknet cfg.")
    cfg: str | Path = Field(description="Text of the cfg, or path of a cfg file; the text of the file is stored.")
    bn_eps: float = Field(
        1e-5,
        gt=0,
        lt=1e-2,
        description="Epsilon of batch normalization. Darknet uses 1e-5 since May 2020; OpenCV's importer uses 1e-6.",
    )

    @field_validator("cfg")
    @classmethod
    def _read_cfg_text(cls, cfg: str | Path) -> str:
        if "\n" in str(cfg):
            return str(cfg)
        text = read_cfg(cfg)
        remember_file(text, cfg)  # only the text is stored
        parse_cfg(text, str(cfg))
        return text

    @property
    def text(self) -> str:
        """Text of the cfg."""
        return str(self.cfg)

    @property
    def source(self) -> str:
        """Name of the cfg for messages: its file, or `model.cfg` if the file is unknown."""
        return _file_names.get(self.text, CFG_SOURCE_NAME)

    def parse(self) -> Cfg:
        """Parse the cfg."""
        return parse_cfg(self.text, self.source)


class DarknetModelConfig(_DarknetConfigBase):
    """Config of a detector that a Darknet cfg defines."""

    def build(self, num_classes: int, *, pretrained: bool = True) -> DarknetDetector:
        """Build the network with random weights.

        Args:
            num_classes: Number of classes; overrides the number in the cfg.
            pretrained: Has no effect, because a cfg does not name pretrained weights.

        Raises:
            ConfigError: The cfg is invalid; the message names the lines.
        """
        from cspdet.darknet.network import DarknetDetector
        from cspdet.darknet.num_classes import with_num_classes

        return DarknetDetector(with_num_classes(self.parse(), num_classes), bn_eps=self.bn_eps)


class DarknetClassifierConfig(_DarknetConfigBase):
    """Config of a classifier that a Darknet cfg defines."""

    def build(self, *, pretrained: bool = True) -> DarknetClassifier:
        """Build the network with random weights.

        Args:
            pretrained: Has no effect, because a cfg does not name pretrained weights.

        Raises:
            ConfigError: The cfg is invalid; the message names the lines.
        """
        from cspdet.darknet.network import DarknetClassifier

        return DarknetClassifier(self.parse(), bn_eps=self.bn_eps)
