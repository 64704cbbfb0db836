"""Export to safetensors: weights with their config, classes and facts in one file that has no code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

from cspdet.errors import ConfigError
from cspdet.exporters.base import ExportConfig, ExportFormat, ExportResult
from cspdet.exporters.graph import export_metadata
from cspdet.exporters.verify import ExportMismatchError, verification_inputs, verify_export
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.io.atomic import atomic_write
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights, save_safetensors
from cspdet.io.outputs import EXPORTED
from cspdet.models.bundle import ModelBundle


class SafetensorsFormat(ExportFormat):
    """Export format of safetensors: a checkpoint without training state, in fp32 or fp16.

    The export is verified: the file is read, and the network must compute the same outputs with the weights in it.
    """

    suffixes = (".safetensors",)
    options = frozenset({"precision"})
    mark = EXPORTED

    def check_options(self, config: ExportConfig) -> None:
        """Raise ConfigError if an option is set that the format does not support."""
        if config.precision == "int8":
            raise ConfigError(f"--precision: --format {self.name} has fp32 and fp16, found int8")
        super().check_options(config)

    def export(self, bundle: ModelBundle, config: ExportConfig, target: Path) -> ExportResult:
        """Write the file of a model; see `ExportFormat.export`."""
        self.check_options(config)
        if config.size_hw is not None:
            bundle = bundle.with_input_size(config.size_hw, "--size")
        checkpoint = checkpoint_from_bundle(bundle)
        with atomic_write(target) as tmp_path:
            save_safetensors(tmp_path, checkpoint, half=config.precision == "fp16")
            difference = _verify(tmp_path, checkpoint, bundle, config, str(target))
            megabytes = tmp_path.stat().st_size / 1e6
        return ExportResult(
            (target,), bundle.config.input.size, len(bundle.categories), difference,
            f"{len(checkpoint.weights)} tensors, {config.precision}, {megabytes:.1f} MB",
            {"precision": config.precision, "tensors": len(checkpoint.weights)},
        )  # fmt: skip


def checkpoint_from_bundle(bundle: ModelBundle) -> Checkpoint:
    """Return a checkpoint with the weights, config, classes and facts of a loaded model."""
    config = cast(Any, bundle.config).model_dump(mode="json")
    return Checkpoint(bundle.task, config, bundle.categories, bundle.torch_network.state_dict(), info=bundle.info)


def _verify(path: Path, checkpoint: Checkpoint, bundle: ModelBundle, config: ExportConfig, where: str) -> float:
    """Read the file, and return the largest difference between its outputs and those of the model.

    Raises:
        ExportMismatchError: A value in the file differs, or the outputs differ too much.
    """
    found = load_checkpoint(path)
    for part in ("task", "config", "categories", "info"):
        if getattr(found, part) != getattr(checkpoint, part):
            raise ExportMismatchError(f"{where}: not written: its {part} differs from that of the model when read back")
    network = copy.deepcopy(bundle.torch_network)
    load_weights(network, found.weights, where)
    metadata = export_metadata(bundle, config).model_copy(update={"dynamic": False})
    engine = TorchEngine(network, metadata, EngineOptions(cpu_kernels=False))
    return verify_export(engine, bundle, verification_inputs(bundle, metadata), where)
