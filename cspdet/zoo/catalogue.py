"""The catalogue of trained weights: `zoo.yaml` of this package, and a catalogue of the user."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from cspdet.config.base import ConfigModel
from cspdet.config.read import read_yaml
from cspdet.errors import ConfigError, did_you_mean
from cspdet.io.folders import CHECKPOINT_SUFFIXES

CATALOGUE = Path(__file__).with_name("zoo.yaml")
CATALOGUE_VARIABLE = "CSPDET_ZOO"  # names a further catalogue, whose models replace those of the same name
HASHES = ("sha256", "sha512", "sha1")
MAX_NAME_LENGTH = 100  # of a model; longer texts are not looked up
FILE_SUFFIXES = (
    *CHECKPOINT_SUFFIXES, ".onnx", ".xml", ".torchscript", ".ts", ".cfg", ".weights", ".yaml", ".yml",
)  # of files, not of names  # fmt: skip
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"  # a file name without folders


class ZooFile(ConfigModel):
    """A file that a model consists of."""

    name: str = Field(pattern=SAFE_NAME, description="Name of the file in the cache.")
    urls: tuple[str, ...] = Field(description="Addresses; later addresses are mirrors. Empty: use `--file`.")
    bytes: int | None = Field(None, ge=1, description="Size; null: not published.")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Published SHA-256.")
    sha512: str | None = Field(None, pattern="^[0-9a-f]{128}$", description="Published SHA-512.")
    sha1: str | None = Field(None, pattern="^[0-9a-f]{40}$", description="Published SHA-1.")

    @model_validator(mode="after")
    def _check_urls(self) -> ZooFile:
        for url in self.urls:
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"expected an address with https:// or http://, found {url!r}")
        return self

    @property
    def hashes(self) -> dict[str, str]:
        """The published hashes by algorithm."""
        return {name: value for name in HASHES if (value := getattr(self, name)) is not None}


class Accuracy(ConfigModel):
    """Published accuracy, in percent."""

    on: str = Field(description="The dataset split on which it was measured.")
    ap: float | None = Field(None, description="AP, the mean over IoU thresholds 0.50 to 0.95.")
    ap50: float | None = Field(None, description="AP at IoU threshold 0.50.")
    voc_map: float | None = Field(None, description="Mean AP of Pascal VOC.")
    top1: float | None = Field(None, description="Top-1 accuracy.")


class ZooEntry(ConfigModel):
    """A model of the catalogue: where its files are, what they contain, and how accurate the model is."""

    summary: str = Field(description="One line.")
    kind: Literal["darknet", "darknet-backbone", "timm"] = Field(
        description="Darknet weights of a whole network, Darknet weights of its first layers, or weights of timm."
    )
    task: Literal["detection", "classification"] = Field("detection", description="Task of the network.")
    source: str = Field(description="Address of the project that published the weights.")
    license: str = Field(description="License of the weights.")
    weights: ZooFile = Field(description="The weights.")
    cfg: ZooFile | None = Field(None, description="The Darknet cfg of the network.")
    config: str | None = Field(None, description="Name of the released config of the same network, instead of a cfg.")
    names: ZooFile | None = Field(None, description="File with the class names.")
    classes: Literal["coco", "voc", "file"] | None = Field(
        None, description="The classes: COCO's with ids 1 to 90, VOC's, or those of the file `names`."
    )
    protocol: Literal["valid", "map"] = Field(
        "valid",
        description="Darknet's command that measured the accuracy. valid: score threshold 0.001, NMS IoU threshold "
        "0.6, clipped boxes; map: 0.005, 0.45, boxes are not clipped.",
    )
    size: tuple[int, int] | None = Field(None, description="Height and width of the input at the published accuracy.")
    published: Accuracy | None = Field(None, description="Published accuracy.")
    fair_on_val2017: Literal["yes", "no", "unknown"] | None = Field(
        None, description="yes: the model was not trained on val2017 of COCO; null: the classes are not those of COCO."
    )

    @model_validator(mode="after")
    def _check_network(self) -> ZooEntry:
        if self.kind == "darknet" and (self.cfg is None) == (self.config is None):
            raise ValueError("expected one of cfg and config")
        if (self.classes == "file") != (self.names is not None):
            raise ValueError("expected `names` with `classes: file`, and only with it")
        return self

    @property
    def files(self) -> tuple[ZooFile, ...]:
        """The files to download; the weights come last, because they are large."""
        return tuple(file for file in (self.cfg, self.names, self.weights) if file is not None)


def _is_model_name(name: str) -> bool:
    """Return whether a name is valid both as a cache folder and as a MODEL argument."""
    fits = len(name) <= MAX_NAME_LENGTH and Path(name).suffix not in FILE_SUFFIXES
    return fits and re.fullmatch(SAFE_NAME, name) is not None


@cache
def _read_catalogue(path: Path) -> dict[str, ZooEntry]:
    values, locations = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of model names to models, found {type(values).__name__}")
    entries, problems = {}, []
    for name, value in values.items():
        where = locations.get((name,), str(path))
        if not _is_model_name(str(name)):
            expected = f"letters, digits and ._+-, up to {MAX_NAME_LENGTH}, without the suffix of a file"
            problems.append(f"{where}: expected a model name of {expected}, found {str(name)[:MAX_NAME_LENGTH]!r}")
            continue
        try:
            entries[str(name)] = ZooEntry.model_validate(value, strict=False)
        except ValidationError as error:
            problems += [
                f"{where}: {'.'.join(map(str, (name, *item['loc'])))}: {item['msg']}" for item in error.errors()
            ]
    if problems:
        raise ConfigError(*problems)
    return entries


def read_catalogue() -> dict[str, ZooEntry]:
    """Return all models by name: those of `zoo.yaml`, and those of the file that CSPDET_ZOO names.

    Raises:
        ConfigError: The file that CSPDET_ZOO names is missing or invalid.
    """
    own = os.environ.get(CATALOGUE_VARIABLE)
    return _read_catalogue(CATALOGUE) | (_read_catalogue(Path(own)) if own else {})


def get_entry(name: str) -> ZooEntry:
    """Return the catalogue entry of a name.

    Raises:
        ConfigError: The name is not in the catalogue; the message suggests a similar name.
    """
    catalogue = read_catalogue()
    if name not in catalogue:
        raise ConfigError(f"{name}: no model of this name{did_you_mean(name, catalogue)}; `cspdet zoo` lists them")
    return catalogue[name]
