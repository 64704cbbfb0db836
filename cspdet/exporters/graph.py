"""Base class of the export formats that store a computation graph; creation of the module and metadata to export."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.exporters.base import ExportConfig, ExportFormat, ExportResult
from cspdet.exporters.verify import verification_inputs, verify_export
from cspdet.inference.engines.base import Engine
from cspdet.inference.metadata import ModelMetadata, NmsConfig, OutputType, build_metadata
from cspdet.io.atomic import atomic_write
from cspdet.io.integrity import write_checksum
from cspdet.io.outputs import EXPORTED
from cspdet.models.bundle import ModelBundle
from cspdet.models.fuse import fuse_conv_bn
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode

log = logging.getLogger("cspdet")


class GraphFormat(ExportFormat):
    """Base class of the formats that store the network as a computation graph with metadata.

    A subclass writes the file (`write`) and loads it into an engine (`load`); `export` compares the outputs of the
    engine with the outputs of the network.
    """

    mark = EXPORTED

    def export(self, bundle: ModelBundle, config: ExportConfig, target: Path) -> ExportResult:
        """Write the files of a model; see `ExportFormat.export`."""
        self.check_options(config)
        self.check_packages()
        metadata = export_metadata(bundle, config)
        inputs = verification_inputs(bundle, metadata, config.calibration)
        if config.nms is not None and metadata.eval.vote_iou is not None:
            log.warning("%s: without box voting (eval.vote_iou %g): NMS drops the boxes it needs",
                        target, metadata.eval.vote_iou)  # fmt: skip
        paths = self.files(target)
        with ExitStack() as stack:
            # Files are renamed in reverse order: when the first one appears, the others exist.
            tmp_path, *_ = [stack.enter_context(atomic_write(path)) for path in paths]
            self.write(bundle, config, metadata, tmp_path)
            write_checksum(tmp_path)
            difference = verify_export(
                self.load(tmp_path, metadata), bundle, inputs, str(target),
                lambda nms: self.load_nms_probe(tmp_path, metadata, nms),
            )  # fmt: skip
        height, width = metadata.size_hw
        shape = f"any batch and size, made for {height}x{width}" if config.dynamic else f"one image of {height}x{width}"
        return ExportResult(
            paths, metadata.size_hw, len(metadata.class_names), difference,
            f"{metadata.outputs} outputs, {config.precision}, {shape}",
            {"outputs": metadata.outputs, "precision": config.precision, "dynamic": config.dynamic},
        )  # fmt: skip

    def check_packages(self) -> None:
        """Raise ConfigError if a package that writing or verification needs is not installed."""

    @abstractmethod
    def write(self, bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata, path: Path) -> None:
        """Write the files of the export to a temporary path.

        Args:
            bundle: The model.
            config: The options.
            metadata: Metadata to store in the files for `load`; `metadata.outputs` is the output type of the graph.
            path: A temporary path with the suffix of the target.

        Raises:
            UserError: The format does not support the network or an option.
        """

    @abstractmethod
    def load(self, path: Path, metadata: ModelMetadata) -> Engine:
        """Load the written files into an engine on the CPU, to verify the outputs."""

    def load_nms_probe(self, path: Path, metadata: ModelMetadata, nms: NmsConfig) -> Engine | None:
        """Load the graph with the thresholds `nms`, for verification. Return None if the format has no built-in NMS.

        The outputs are detections, decoded boxes and scores. Lower thresholds leave more detections to compare.
        """
        return None


class DecodedDetector(nn.Module):
    """A detector that returns decoded boxes and scores instead of raw outputs."""

    def __init__(self, network: nn.Module, anchors: Anchors):
        super().__init__()
        self.network, self.anchors = network, anchors

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network and decode its outputs.

        Args:
            images: (B, 3, H, W) float32 in [0, 1].

        Returns:
            (B, S, 4) boxes x1 y1 x2 y2 in input pixels, and (B, S, C) scores.
        """
        return decode(self.network(images), self.anchors)


def export_metadata(bundle: ModelBundle, config: ExportConfig) -> ModelMetadata:
    """Create the metadata of the file: the metadata of the model with the input size and options of the export.

    Raises:
        ConfigError: The network does not support the size, or an option of detectors is set for a classifier.
    """
    metadata = build_metadata(bundle)
    size_hw = config.size_hw or metadata.size_hw
    try:
        bundle.torch_network.check_size(size_hw)
    except ValueError as error:
        raise ConfigError(f"--size: {error}") from None
    outputs: OutputType = "logits"
    if bundle.task == "detection":
        outputs = "detections" if config.nms is not None else config.outputs
    elif config.nms is not None or config.outputs != "raw":
        raise ConfigError("--outputs and --nms: only for detectors; the outputs of a classifier are logits")
    changes = {
        "input": metadata.input.model_copy(update={"size": size_hw}),
        "outputs": outputs, "nms": config.nms, "precision": config.precision, "dynamic": config.dynamic,
    }  # fmt: skip
    return metadata.model_copy(update=changes)


def export_module(bundle: ModelBundle, outputs: OutputType) -> nn.Module:
    """Return the module to export, on the CPU and with fused batch norms.

    Args:
        bundle: The model.
        outputs: Type of the outputs. For detections, the module returns decoded outputs; NMS is added to the file
            later.
    """
    network = bundle.torch_network
    module = (fuse_conv_bn(network) or network).to("cpu")
    if outputs in ("decoded", "detections"):
        return DecodedDetector(module, copy.deepcopy(bundle.detector.anchors).to("cpu")).eval()
    return module
