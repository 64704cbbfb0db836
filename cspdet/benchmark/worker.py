"""Worker process of all rows except OpenCV rows. `cspdet.benchmark.runner` starts it.

Requests on stdin are lines of JSON: {"do": "load", "row": ...} or {"do": "matmul", ...} first, then {"do": "forward",
"passes": N}, {"do": "end_to_end", "passes": N}, {"do": "gflops"} and {"do": "memory"}. Responses are written to stdout.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import torch

from cspdet.benchmark.ipc import Message, reserve_stdio, serve
from cspdet.benchmark.matmul_peak import MatmulBenchmark
from cspdet.benchmark.opencv_worker import peak_mib
from cspdet.benchmark.rows import BenchmarkSpec, EngineInfo
from cspdet.benchmark.target import BenchmarkTarget, load_target
from cspdet.config.user_modules import import_user_module
from cspdet.errors import ConfigError

ENGINE_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}


class Server:
    """Handler of the requests to one worker: it loads and times one model, or times a matrix multiplication."""

    def __init__(self) -> None:
        self.target: BenchmarkTarget | None = None
        self.matmul: MatmulBenchmark | None = None
        self.libraries_mib = 0.0

    def handle(self, message: Message) -> Message:
        """Handle a request and return the response; raise UserError if the model cannot be loaded or timed."""
        command = message["do"]
        if command == "load":
            self.libraries_mib = peak_mib()
            spec = BenchmarkSpec.from_json(message["row"])
            for module in spec.user_modules:
                import_user_module(module)
            self.target = load_target(spec)
            return {"engine_info": asdict(_engine_info(self.target, spec))}
        if command == "matmul":
            self.matmul = MatmulBenchmark(message["precision"], torch.device(message["device"]))
            return {}
        if command == "gflops":
            assert self.matmul is not None
            return {"gflops": self.matmul.gflops()}
        assert self.target is not None, "a model is loaded first"
        if command == "memory":
            return _memory(self.target, self.libraries_mib)
        run = self.target.forward if command == "forward" else self.target.end_to_end
        if run is None:
            raise ConfigError(f"{self.target.name}: cannot be timed end to end")
        return {"ms": [_time_ms(run, self.target) for _ in range(message["passes"])]}


def _time_ms(run: Callable[[], object], target: BenchmarkTarget) -> float:
    target.engine.synchronize()
    start = time.perf_counter()
    run()
    target.engine.synchronize()
    return 1000 * (time.perf_counter() - start)


def _memory(target: BenchmarkTarget, libraries_mib: float) -> Message:
    if target.engine.device.type == "cuda":
        return {"peak_mib": torch.cuda.max_memory_allocated(target.engine.device) / 2**20, "libraries_mib": 0.0}
    return {"peak_mib": peak_mib(), "libraries_mib": libraries_mib}


def _engine_info(target: BenchmarkTarget, spec: BenchmarkSpec) -> EngineInfo:
    engine = target.engine
    versions = {"torch": str(torch.__version__)}
    if engine.name in ENGINE_PACKAGES:
        try:
            versions[ENGINE_PACKAGES[engine.name]] = version(ENGINE_PACKAGES[engine.name])
        except PackageNotFoundError:  # a custom build without package metadata
            versions[ENGINE_PACKAGES[engine.name]] = "unknown"
    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else cpu_name()
    return EngineInfo(
        target.name, engine.name, engine.precision, engine.size_hw, torch.get_num_threads(), device,
        engine.metadata.task, target.end_to_end is not None, versions,
    )  # fmt: skip


def cpu_name() -> str:
    """Return the model name of the CPU in /proc/cpuinfo; without one, the processor or machine type."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> None:
    """Handle requests until the parent closes stdin."""
    requests, responses = reserve_stdio()
    serve(Server().handle, requests, responses)


if __name__ == "__main__":
    main()
