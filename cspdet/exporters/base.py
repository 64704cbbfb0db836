"""Registry and interface of export formats, and the options of an export.

A built-in format is one file of this package and one entry of `EXPORT_FORMATS`. A user-defined format is a subclass of
`ExportFormat`, selected with `--format module:Class`. This module does not import torch.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from cspdet.config.registry import Registry
from cspdet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from cspdet.inference.metadata import NmsConfig
    from cspdet.models.bundle import ModelBundle

EXPORT_FORMATS = Registry(
    "export format",
    {
        "onnx": "cspdet.exporters.onnx:OnnxFormat",
        "openvino": "cspdet.exporters.openvino:OpenVinoFormat",
        "torchscript": "cspdet.exporters.torchscript:TorchScriptFormat",
        "darknet": "cspdet.exporters.darknet:DarknetFormat",
        "safetensors": "cspdet.exporters.safetensors:SafetensorsFormat",
    },
)

OUTPUTS = ("raw", "decoded")
PRECISIONS = ("fp32", "fp16", "int8")

ExportPrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ExportConfig:
    """Options of an export. Every format supports `size_hw`, and the options in its `ExportFormat.options`.

    Attributes:
        size_hw: Height and width of the input in pixels; None: the input size of the model.
        outputs: `raw`: the outputs of the network; `decoded`: boxes in input pixels, and scores.
        nms: Thresholds of NMS. If set, NMS is part of the file, and the file returns detections. None: no NMS.
        dynamic: Whether the file accepts any batch size, height and width. If not, the input of the file is one image
            of `size_hw`.
        opset: ONNX opset; None: the default of `cspdet.inference.engines.onnx_export`.
        precision: fp32, fp16 or int8. int8 needs `calibration`.
        calibration: Folder of representative images for int8 calibration.
    """

    size_hw: tuple[int, int] | None = None
    outputs: Literal["raw", "decoded"] = "raw"
    nms: NmsConfig | None = None
    dynamic: bool = True
    opset: int | None = None
    precision: ExportPrecision = "fp32"
    calibration: Path | None = None

    def changed_options(self) -> list[str]:
        """Return the names of all options that differ from their default, without `size_hw`."""
        names = [option.name for option in fields(self) if getattr(self, option.name) != option.default]
        return [name for name in names if name != "size_hw"]


@dataclass(frozen=True)
class ExportResult:
    """Files of an export, and the result of their verification.

    Attributes:
        paths: The written files; the first is the target path.
        size_hw: Height and width of the input in pixels.
        num_classes: Number of classes.
        difference: Largest difference between the outputs of the file and the network, divided by the largest output.
            For int8, the mean difference is used instead.
        description: One-line description of the files for the user.
        details: Additional entries for the JSON output.
    """

    paths: tuple[Path, ...]
    size_hw: tuple[int, int]
    num_classes: int
    difference: float
    description: str
    details: Mapping[str, object] = field(default_factory=dict)


class ExportFormat(ABC):
    """Base class of the export formats. A format checks its options, writes the files, and verifies them.

    Attributes:
        suffixes: Allowed suffixes of the target path; the first is the default.
        options: Names of the `ExportConfig` fields that the format supports, in addition to `size_hw`.
        mark: Pattern in the content of earlier exports. A file that matches may be overwritten. None: `export` itself
            decides whether to overwrite files.
    """

    suffixes: ClassVar[tuple[str, ...]]
    options: ClassVar[frozenset[str]] = frozenset()
    mark: ClassVar[re.Pattern[bytes] | None] = None

    def __init__(self, name: str):
        """Create the format.

        Args:
            name: Name of the format as given with `--format`, for error messages.
        """
        self.name = name

    @abstractmethod
    def export(self, bundle: ModelBundle, config: ExportConfig, target: Path) -> ExportResult:
        """Write a model to `target`. The files are created only after their outputs were verified against the network.

        Raises:
            UserError: The format does not support the network or an option, or the outputs differ. No file is written.
        """

    def files(self, target: Path) -> tuple[Path, ...]:
        """Return the paths of an export, `target` first."""
        return (target,)

    def check_target(self, target: Path) -> None:
        """Raise ConfigError if the format does not allow the suffix of `target`."""
        if target.suffix not in self.suffixes:
            expected = " or ".join(self.suffixes)
            raise ConfigError(f"--output: expected a file name that ends in {expected}, found {str(target)!r}")

    def check_options(self, config: ExportConfig) -> None:
        """Raise ConfigError if an option is set that the format does not support."""
        unused = [name for name in config.changed_options() if name not in self.options]
        if unused:
            raise ConfigError(*(f"{_flag(name)}: --format {self.name} does not have this option" for name in unused))


def load_format(name: str) -> ExportFormat:
    """Create an export format by name; the name `module:Class` selects a user-defined format.

    Raises:
        ConfigError: There is no format of this name, or the class is not an `ExportFormat`.
    """
    try:
        format_class = EXPORT_FORMATS.get(name)
    except ConfigError as error:
        raise ConfigError(*(f"--format: {problem}" for problem in error.problems)) from None
    if not (isinstance(format_class, type) and issubclass(format_class, ExportFormat)):
        raise ConfigError(f"--format: {name!r} is not an export format: expected a subclass of ExportFormat")
    return format_class(name)


def check_config(config: ExportConfig) -> None:
    """Check `outputs`, `precision` and `calibration`, whose valid values are the same in all formats.

    Raises:
        ConfigError: Values are invalid; the message has one line per value.
    """
    problems = [
        f"--{name}: expected {', '.join(words)}; found {word!r}{did_you_mean(word, words)}"
        for name, word, words in (("outputs", config.outputs, OUTPUTS), ("precision", config.precision, PRECISIONS))
        if word not in words
    ]
    if config.calibration is not None and config.precision != "int8":
        problems.append("--calibration: needs --precision int8")
    if config.precision == "int8" and config.calibration is None:
        problems.append("--precision int8: expected --calibration DIR too, a folder of representative images")
    if problems:
        raise ConfigError(*problems)


def _flag(option: str) -> str:
    return "--no-dynamic" if option == "dynamic" else f"--{option}"
