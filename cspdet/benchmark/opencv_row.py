"""Benchmark rows of OpenCV's DNN module, which the paper used for its CPU measurements.

If OpenCV supports all sections of a network, it loads the network from Darknet files; if not, from ONNX. OpenCV 5 has
no Darknet importer; `--opencv-python` selects a Python interpreter with OpenCV 4.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from cspdet.benchmark.ipc import Worker, WorkerError
from cspdet.benchmark.rows import OPENCV, BenchmarkSpec, EngineInfo
from cspdet.benchmark.target import TORCHVISION_PREFIX, torchvision_classifier
from cspdet.benchmark.worker import cpu_name
from cspdet.checkpoints.loading import load_model
from cspdet.darknet.write.export import build_darknet_files, write_darknet
from cspdet.errors import UserError
from cspdet.inference.engines.exported import is_exported
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.metadata import ModelMetadata, build_metadata
from cspdet.models.bundle import ModelBundle
from cspdet.models.fuse import fuse_conv_bn

SCRIPT = Path(__file__).with_name("opencv_worker.py")


class OpenCvWorker:
    """Context manager that exports the model of a row and loads it in a Python interpreter with OpenCV.

    Args:
        spec: The benchmark row.
        python: Path of a Python interpreter with OpenCV; None: the current interpreter.

    Raises:
        WorkerError: OpenCV cannot run the row, or the model does not exist.
    """

    def __init__(self, spec: BenchmarkSpec, python: Path | None):
        if spec.precision != "fp32" or spec.device not in ("cpu", "auto"):
            raise WorkerError(f"opencv: expected fp32 on the CPU, found {spec.precision} on {spec.device}")
        self.threads = spec.threads or _num_cores()
        self._folder = tempfile.TemporaryDirectory()
        self.worker = Worker([str(python or sys.executable), str(SCRIPT)], os.environ)
        try:
            metadata, response, import_format = self._load(spec, Path(self._folder.name))
        except UserError as error:
            self.close()
            raise WorkerError(*error.problems) from None
        self.engine_info = EngineInfo(
            metadata.name, OPENCV, "fp32", metadata.size_hw, self.threads, cpu_name(), metadata.task, False,
            {"opencv": str(response["opencv"]), "through": import_format},
        )  # fmt: skip

    def __enter__(self) -> OpenCvWorker:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and delete the exported files."""
        self.worker.close()
        self._folder.cleanup()

    def _load(self, spec: BenchmarkSpec, folder: Path) -> tuple[ModelMetadata, dict[str, object], str]:
        """Load the model in the worker, from Darknet files if OpenCV supports the network; if not, from ONNX.

        Returns:
            The metadata of the model, the worker's response, and the format: `Darknet` or `ONNX`.
        """
        reasons: list[str] = []
        if not is_exported(spec.model) and not spec.model.startswith(TORCHVISION_PREFIX):
            bundle = _load_model(spec)
            metadata = build_metadata(bundle)
            try:
                files = build_darknet_files(bundle, spec.size_hw, spec.model)
                written = write_darknet(files, bundle.torch_network, folder / "x.cfg")
                return metadata, self._load_in_worker(written.paths[:2], metadata, spec.batch, folder), "Darknet"
            except UserError as error:
                reasons += error.problems
        model, metadata = _export_onnx(spec, folder)
        if spec.batch != 1:
            raise WorkerError("OpenCV runs this network from ONNX with batch size 1; expected --batch 1", *reasons)
        return metadata, self._load_in_worker((model,), metadata, spec.batch, folder), "ONNX"

    def _load_in_worker(
        self, files: tuple[Path, ...], metadata: ModelMetadata, batch: int, folder: Path
    ) -> dict[str, object]:
        np.save(folder / "x.npy", np.random.default_rng(0).random((batch, 3, *metadata.size_hw), dtype=np.float32))
        return self.worker.request(
            {"do": "load", "files": [str(path) for path in files], "input": str(folder / "x.npy"),
             "threads": self.threads}
        )  # fmt: skip


def _load_model(spec: BenchmarkSpec) -> ModelBundle:
    size = () if spec.size_hw is None else (f"input.size=[{spec.size_hw[0]},{spec.size_hw[1]}]",)
    return load_model(spec.model, weights=spec.weights, overrides=(*spec.overrides, *size))


def _export_onnx(spec: BenchmarkSpec, folder: Path) -> tuple[Path, ModelMetadata]:
    """Export the network to ONNX with fused batch norms, batch size 1 and a fixed input size.

    Returns:
        The path of the ONNX file and the metadata of the model.
    """
    if is_exported(spec.model):
        raise WorkerError(f"{spec.model}: opencv: expected a checkpoint or config, found an exported file")
    if spec.model.startswith(TORCHVISION_PREFIX):
        network, metadata = torchvision_classifier(spec.model, spec.size_hw)
    else:
        bundle = _load_model(spec)
        network, metadata = bundle.torch_network, build_metadata(bundle)
    names = output_names(metadata.outputs, metadata.strides)
    with torch.no_grad():
        data = to_onnx(
            fuse_conv_bn(network) or network, metadata.size_hw, names, size_divisor=max(metadata.strides), dynamic=False
        )
    (folder / "x.onnx").write_bytes(data)
    return folder / "x.onnx", metadata


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
