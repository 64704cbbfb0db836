"""A network as an ONNX model in memory: what onnxruntime and OpenVINO run, and what `export` writes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError, UserError

log = logging.getLogger("cspdet")

INPUT = "images"
OLDEST_OPSET, OPSET, NEWEST_OPSET = 13, 17, 20


def output_names(outputs: str, strides: Sequence[int]) -> list[str]:
    """Of a graph: raw_8, raw_16 ... by stride; box_xyxy and score; detections; or logits."""
    if outputs == "raw":
        return [f"raw_{stride}" for stride in strides] if len(set(strides)) == len(strides) else [
            f"raw_{stride}_{i}" for i, stride in enumerate(strides)
        ]  # fmt: skip
    return {"decoded": ["box_xyxy", "score"], "detections": ["detections"], "logits": ["logits"]}[outputs]


def to_onnx(
    model: nn.Module, size_hw: tuple[int, int], names: Sequence[str], *, step: int, dynamic: bool, opset: int = OPSET
) -> bytes:
    """The model as one ONNX file; `images` (batch, 3, height, width) float32 is its input, `names` are its outputs.

    model    on the CPU, in evaluation mode, float32
    step     what height and width are multiples of, whatever they are
    dynamic  batch, height and width stay free; otherwise one picture of `size_hw`

    Raises:
        UserError: the network has an operation that ONNX has no words for.
        ConfigError: an opset that PyTorch does not write.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ConfigError(f"--opset: expected a number from {OLDEST_OPSET} to {NEWEST_OPSET}, found {opset}")
    images = torch.rand(2 if dynamic else 1, 3, *size_hw, generator=torch.Generator().manual_seed(0))
    try:
        return trace_to_onnx(model, images, names, dynamic, opset)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        # PyTorch has announced the end of its tracing exporter; its successor takes some thirty times as long.
        log.info("export by tracing failed (%s); trying torch.export", str(error).splitlines()[0][:120])
        return _by_export(model, images, names, step if dynamic else None, opset)
    except RuntimeError as error:  # among them what torch.onnx raises of its own
        raise UserError(f"the network cannot be written as ONNX: {str(error).splitlines()[0][:200]}") from None


def trace_to_onnx(model: nn.Module, images: Tensor, names: Sequence[str], dynamic: bool, opset: int) -> bytes:
    """`to_onnx` by PyTorch's tracing exporter alone: `images` (B, 3, H, W) go through the model once."""
    file = io.BytesIO()
    free = {INPUT: {0: "batch", 2: "height", 3: "width"}, **{name: {0: "batch"} for name in names}} if dynamic else None
    export: Callable[..., object] = torch.onnx.export  # its types know no file in memory, which this way has
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        export(
            model, (images,), file, dynamo=False, input_names=[INPUT], output_names=list(names), dynamic_axes=free,
            opset_version=opset,
        )  # fmt: skip
    return file.getvalue()


def _by_export(model: nn.Module, images: Tensor, names: Sequence[str], step: int | None, opset: int) -> bytes:
    """`step` None: no axis is free. Otherwise sides are told as multiples of it; else nothing upsampled would fit."""
    from torch.export import Dim

    free = None
    if step is not None:
        free = ({0: Dim("batch"), 2: step * Dim("rows"), 3: step * Dim("columns")},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (images,), dynamo=True, input_names=[INPUT], output_names=list(names), dynamic_shapes=free,
            opset_version=max(opset, 18), verbose=False, external_data=False,
        )  # fmt: skip
    if program is None:
        raise UserError("the network cannot be written as ONNX: PyTorch gave no program")
    data: bytes = program.model_proto.SerializeToString()
    return data
