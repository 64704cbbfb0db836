"""OpenCV's DNN module as a row: the engine of the paper's CPU figures.

A network reaches it as Darknet's files where its importer knows all of the sections, else as ONNX. OpenCV 5 has no
Darknet importer; with OpenCV 4 in an environment of its own, its interpreter can be named.
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
from cspdet.benchmark.rows import BenchmarkSpec, EngineInfo
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

OPENCV = "opencv"
SCRIPT = Path(__file__).with_name("opencv_worker.py")


class OpenCvWorker:
    """Exports the model of a row, and starts an interpreter with OpenCV on it. A context manager.

    Raises:
        WorkerError: a row that OpenCV cannot run.
        UserError: no such model.
    """

    def __init__(self, spec: BenchmarkSpec, python: Path | None):
        if spec.precision != "fp32" or spec.device not in ("cpu", "auto"):
            raise WorkerError(f"OpenCV computes in fp32 on the CPU here; found {spec.precision} on {spec.device}")
        self.threads = spec.threads or _num_cores()
        self._folder = tempfile.TemporaryDirectory()
        self.worker = Worker([str(python or sys.executable), str(SCRIPT)], os.environ)
        try:
            facts, response, import_format = self._load(spec, Path(self._folder.name))
        except UserError as error:
            self.close()
            raise WorkerError(*error.problems) from None
        self.engine_info = EngineInfo(
            facts.name, OPENCV, "fp32", facts.size_hw, self.threads, cpu_name(), facts.task, False,
            {"opencv": str(response["opencv"]), "through": import_format},
        )  # fmt: skip

    def __enter__(self) -> OpenCvWorker:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.worker.close()
        self._folder.cleanup()

    def _load(self, spec: BenchmarkSpec, folder: Path) -> tuple[ModelMetadata, dict[str, object], str]:
        """By Darknet's files if that is possible, else by ONNX."""
        reasons: list[str] = []
        if not is_exported(spec.model) and not spec.model.startswith(TORCHVISION_PREFIX):
            bundle = _load_model(spec)
            facts = build_metadata(bundle)
            try:
                files = build_darknet_files(bundle, spec.size_hw, spec.model)
                written = write_darknet(files, bundle.torch_network, folder / "x.cfg")
                return facts, self._load_in_worker(written.paths[:2], facts, spec.batch, folder), "Darknet"
            except UserError as error:
                reasons += error.problems
        model, facts = _export_onnx(spec, folder)
        if spec.batch != 1:
            raise WorkerError(
                "OpenCV takes this network as ONNX for one picture at a time; expected --batch 1", *reasons
            )
        return facts, self._load_in_worker((model,), facts, spec.batch, folder), "ONNX"

    def _load_in_worker(
        self, files: tuple[Path, ...], facts: ModelMetadata, batch: int, folder: Path
    ) -> dict[str, object]:
        np.save(folder / "x.npy", np.random.default_rng(0).random((batch, 3, *facts.size_hw), dtype=np.float32))
        return self.worker.request(
            {"do": "load", "files": [str(path) for path in files], "input": str(folder / "x.npy"),
             "threads": self.threads}
        )  # fmt: skip


def _load_model(spec: BenchmarkSpec) -> ModelBundle:
    size = () if spec.size_hw is None else (f"input.size=[{spec.size_hw[0]},{spec.size_hw[1]}]",)
    return load_model(spec.model, weights=spec.weights, overrides=(*spec.overrides, *size))


def _export_onnx(spec: BenchmarkSpec, folder: Path) -> tuple[Path, ModelMetadata]:
    """The network for one picture of one size, its normalizations folded, as a file."""
    if is_exported(spec.model):
        raise WorkerError(f"{spec.model}: OpenCV rows are made from checkpoints and configs, not from exported files")
    if spec.model.startswith(TORCHVISION_PREFIX):
        network, facts = torchvision_classifier(spec.model, spec.size_hw)
    else:
        bundle = _load_model(spec)
        network, facts = bundle.torch_network, build_metadata(bundle)
    names = output_names(facts.outputs, facts.strides)
    with torch.no_grad():
        data = to_onnx(
            fuse_conv_bn(network) or network, facts.size_hw, names, size_divisor=max(facts.strides), dynamic=False
        )
    (folder / "x.onnx").write_bytes(data)
    return folder / "x.onnx", facts


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
