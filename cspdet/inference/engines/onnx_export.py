"""Conversion of networks to ONNX in memory, for onnxruntime, OpenVINO and `cspdet export`."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError, UserError

log = logging.getLogger("cspdet")

INPUT_NAME = "images"
_EXPORT_LOCK = threading.Lock()  # the exporters of PyTorch have global state

MIN_OPSET, DEFAULT_OPSET, MAX_OPSET = 13, 17, 20


def output_names(outputs: str, strides: Sequence[int]) -> list[str]:
    """Return the names of the outputs of a graph.

    Raw outputs are named by stride: raw_8, raw_16, ... If strides repeat, the index of the level is appended: raw_8_0,
    raw_8_1, ... Decoded outputs are box_xyxy and score. For `detections` and `logits`, the output has the same name.
    """
    if outputs == "raw":
        return [f"raw_{stride}" for stride in strides] if len(set(strides)) == len(strides) else [
            f"raw_{stride}_{i}" for i, stride in enumerate(strides)
        ]  # fmt: skip
    return {"decoded": ["box_xyxy", "score"], "detections": ["detections"], "logits": ["logits"]}[outputs]


def to_onnx(
    model: nn.Module,
    size_hw: tuple[int, int],
    names: Sequence[str],
    *,
    size_divisor: int,
    dynamic: bool,
    opset: int = DEFAULT_OPSET,
) -> bytes:
    """Convert a model to ONNX. The input of the graph is `images`, (batch, 3, height, width) float32.

    Args:
        model: The model, float32 on the CPU, in evaluation mode.
        size_hw: Height and width of the traced input.
        names: Names of the outputs.
        size_divisor: Height and width of an input are always multiples of this number.
        dynamic: Whether batch size, height and width are dynamic. If not, the input is one image of `size_hw`.
        opset: Version of the ONNX operator set.

    Returns:
        The content of the ONNX file.

    Raises:
        UserError: An operation of the network cannot be expressed in ONNX.
        ConfigError: PyTorch does not support the opset.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ConfigError(f"--opset: expected a number from {MIN_OPSET} to {MAX_OPSET}, found {opset}")
    images = torch.rand(2 if dynamic else 1, 3, *size_hw, generator=torch.Generator().manual_seed(0))
    with _EXPORT_LOCK:
        return _trace_or_export(model, images, names, size_divisor if dynamic else None, opset)


def _trace_or_export(
    model: nn.Module, images: Tensor, names: Sequence[str], size_divisor: int | None, opset: int
) -> bytes:
    """Convert a model to ONNX by tracing or, if that fails, by torch.export. `size_divisor` None: fixed sizes."""
    try:
        return trace_to_onnx(model, images, names, size_divisor is not None, opset)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        # Tracing is tried first although PyTorch has deprecated it: torch.export takes about thirty times as long.
        log.info("export by tracing failed (%s); trying torch.export", str(error).splitlines()[0][:120])
        return _export_with_dynamo(model, images, names, size_divisor, opset)
    except RuntimeError as error:  # includes the errors of torch.onnx
        raise UserError(f"the network cannot be written as ONNX: {str(error).splitlines()[0][:200]}") from None


def trace_to_onnx(model: nn.Module, images: Tensor, names: Sequence[str], dynamic: bool, opset: int) -> bytes:
    """Convert a model to ONNX with PyTorch's tracing exporter, which runs the model once on `images` (B, 3, H, W)."""
    file = io.BytesIO()
    dynamic_axes = (
        {INPUT_NAME: {0: "batch", 2: "height", 3: "width"}, **{name: {0: "batch"} for name in names}}
        if dynamic
        else None
    )
    export: Callable[..., object] = torch.onnx.export  # its type annotations do not allow a file in memory
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        export(
            model, (images,), file, dynamo=False, input_names=[INPUT_NAME], output_names=list(names),
            dynamic_axes=dynamic_axes, opset_version=opset,
        )  # fmt: skip
    return file.getvalue()


def _export_with_dynamo(
    model: nn.Module, images: Tensor, names: Sequence[str], size_divisor: int | None, opset: int
) -> bytes:
    """Convert a model to ONNX with torch.export.

    If `size_divisor` is given, batch size, height and width are dynamic. Height and width are declared as multiples of
    `size_divisor`, because torch.export must prove that upsampled maps have equal sizes.
    """
    from torch.export import Dim

    dynamic_shapes = None
    if size_divisor is not None:
        dynamic_shapes = ({0: Dim("batch"), 2: size_divisor * Dim("rows"), 3: size_divisor * Dim("columns")},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (images,), dynamo=True, input_names=[INPUT_NAME], output_names=list(names),
            dynamic_shapes=dynamic_shapes, opset_version=max(opset, 18), verbose=False, external_data=False,
        )  # fmt: skip
    if program is None:
        raise UserError("the network cannot be written as ONNX: PyTorch returned no program")
    data: bytes = program.model_proto.SerializeToString()
    return data
