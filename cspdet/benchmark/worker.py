"""The worker of all rows but OpenCV's: `python -m cspdet.benchmark.worker`, which `cspdet.benchmark.runner` starts.

Lines of JSON on stdin are answered on stdout: {"do": "load", "row": ...} or {"do": "product", ...} first, then
{"do": "forward", "passes": N}, {"do": "end_to_end", "passes": N}, {"do": "gflops"} and {"do": "memory"}.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import torch

from cspdet.benchmark.ipc import Message, answer_all, own_streams
from cspdet.benchmark.matmul_peak import MatrixProduct
from cspdet.benchmark.opencv_worker import peak_mib
from cspdet.benchmark.rows import About, RowSpec
from cspdet.benchmark.target import Subject, load_subject
from cspdet.errors import ConfigError

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}


class Server:
    """Answers the parent's questions about one model."""

    def __init__(self) -> None:
        self.subject: Subject | None = None
        self.product: MatrixProduct | None = None
        self.libraries_mib = 0.0

    def answer(self, question: Message) -> Message:
        what = question["do"]
        if what == "load":
            self.libraries_mib = peak_mib()
            spec = RowSpec.from_json(question["row"])
            self.subject = load_subject(spec)
            return {"about": asdict(_about(self.subject, spec))}
        if what == "product":
            self.product = MatrixProduct(question["precision"], torch.device(question["device"]))
            return {}
        if what == "gflops":
            assert self.product is not None
            return {"gflops": self.product.gflops()}
        assert self.subject is not None, "a model is loaded first"
        if what == "memory":
            return _memory(self.subject, self.libraries_mib)
        run = self.subject.forward if what == "forward" else self.subject.end_to_end
        if run is None:
            raise ConfigError(f"{self.subject.name}: cannot be timed end to end")
        return {"ms": [_milliseconds(run, self.subject) for _ in range(question["passes"])]}


def _milliseconds(run: Callable[[], object], subject: Subject) -> float:
    subject.engine.synchronize()
    start = time.perf_counter()
    run()
    subject.engine.synchronize()
    return 1000 * (time.perf_counter() - start)


def _memory(subject: Subject, libraries_mib: float) -> Message:
    if subject.engine.device.type == "cuda":
        return {"peak_mib": torch.cuda.max_memory_allocated(subject.engine.device) / 2**20, "libraries_mib": 0.0}
    return {"peak_mib": peak_mib(), "libraries_mib": libraries_mib}


def _about(subject: Subject, spec: RowSpec) -> About:
    engine = subject.engine
    versions = {"torch": str(torch.__version__)}
    if engine.name in PACKAGES:
        try:
            versions[PACKAGES[engine.name]] = version(PACKAGES[engine.name])
        except PackageNotFoundError:  # a build of its own, without its data
            versions[PACKAGES[engine.name]] = "unknown"
    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else processor()
    return About(
        subject.name, engine.name, engine.precision, engine.size_hw, torch.get_num_threads(), device,
        engine.facts.task, subject.end_to_end is not None, versions,
    )  # fmt: skip


def processor() -> str:
    """The name of this machine's CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> None:
    """Answer until the parent closes."""
    questions, answers = own_streams()
    answer_all(Server().answer, questions, answers)


if __name__ == "__main__":
    main()
