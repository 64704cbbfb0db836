"""Registry of the engines by their `--backend` name. This module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cspdet.config.registry import Registry
from cspdet.config.user_modules import allow_user_modules
from cspdet.errors import ConfigError

if TYPE_CHECKING:
    from cspdet.inference.engines.base import Engine

# One entry per engine. `--backend auto` tries the engines in this order, also for exported files.
ENGINES = Registry(
    "engine",
    {
        "torch": "cspdet.inference.engines.torch_engine:TorchEngine",
        "torch-compile": "cspdet.inference.engines.torch_compile:CompiledEngine",
        "cuda-graph": "cspdet.inference.engines.cuda_graph:CudaGraphEngine",
        "onnxruntime": "cspdet.inference.engines.onnx_engine:OnnxEngine",
        "openvino": "cspdet.inference.engines.openvino_engine:OpenVinoEngine",
        "tensorrt": "cspdet.inference.engines.tensorrt_engine:TensorRtEngine",
    },
)


def engine_class(backend: str) -> type[Engine]:
    """Return the class of the engine with this name, which is a built-in name or `module:Class`.

    Raises:
        ConfigError: The name is unknown, or the user-defined class cannot be imported or is not an Engine.
    """
    from cspdet.inference.engines.base import Engine

    with allow_user_modules():  # safe, because the user specifies the backend; it is never read from a checkpoint
        try:
            found = ENGINES.get(backend)
        except ConfigError as error:
            raise ConfigError(*(f"--backend: {problem}" for problem in error.problems)) from None
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise ConfigError(f"--backend: expected a subclass of cspdet.inference.engines.base.Engine, found {backend!r}")
    return found


def engine_classes() -> list[type[Engine]]:
    """Return the classes of all built-in engines, in registry order."""
    return [engine_class(name) for name in ENGINES.names()]
