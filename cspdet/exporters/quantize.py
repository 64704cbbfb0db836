"""Reduced precision of ONNX models: int8 with calibration, and fp16."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cspdet.datasets.image_io import IMAGE_SUFFIXES, read_image
from cspdet.errors import DataError, SourceError
from cspdet.inference.engines.onnx_export import INPUT_NAME
from cspdet.inference.metadata import ModelMetadata
from cspdet.io.walk import find_files
from cspdet.letterbox import Letterbox

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("cspdet")

MAX_IMAGES = 100  # more images hardly change the ranges


def quantize_int8(model: onnx.ModelProto, metadata: ModelMetadata, calibration: Path) -> onnx.ModelProto:
    """Quantize weights and activations to int8, with activation ranges measured on images.

    The model gets QuantizeLinear and DequantizeLinear nodes. The last convolution before each output and all nodes
    after it stay in float, so that the boxes remain accurate.

    Args:
        model: The model in fp32.
        metadata: Metadata with the input size and the resize mode.
        calibration: Folder of representative images.

    Raises:
        DataError: The folder does not exist, or has no images.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    image_paths = calibration_images(calibration)
    log.info("calibrating on %d images of %s", len(image_paths), calibration)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, prepared, result = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, str(plain))
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # onnxruntime warns on the root logger that the model is not pre-processed
        try:
            excluded = nodes_from_last_convs(onnx.load(str(prepared)))
            _quantize_file(prepared, result, _CalibrationReader(image_paths, metadata), excluded)
        finally:
            root.setLevel(level)
        return onnx.load(str(result))


def _quantize_file(source: Path, target: Path, reader: _CalibrationReader, excluded: set[str]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        str(source), str(target), reader, quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=sorted(excluded),
    )  # fmt: skip


def convert_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights and activations to fp16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about weights below the smallest fp16
        half = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    half.topological_sort()  # the conversion appends the casts of the input
    del half.model.graph.value_info[:]  # the conversion names different dimensions equally
    return half.model


def nodes_from_last_convs(model: onnx.ModelProto) -> set[str]:
    """Return the names of the last convolution or matrix product before each output, and of all nodes after them."""
    producer = {name: node for node in model.graph.node for name in node.output}
    visited: dict[str, onnx.NodeProto] = {}
    pending = [producer[value.name] for value in model.graph.output if value.name in producer]
    while pending:
        node = pending.pop()
        if node.name in visited:
            continue
        visited[node.name] = node
        if node.op_type not in ("Conv", "Gemm", "MatMul", "Shape"):  # Shape reads only the size of its input
            pending += [producer[name] for name in node.input if name in producer]
    return set(visited)


def calibration_images(folder: Path) -> list[Path]:
    """Return the paths of up to MAX_IMAGES images of a folder and its subfolders, evenly spaced in the sorted list.

    Raises:
        DataError: The folder does not exist, or has no images.
    """
    if not folder.is_dir():
        raise DataError(f"--calibration {folder}: no such folder; expected one with images")
    try:
        image_paths = sorted(folder / name for name in find_files(folder, IMAGE_SUFFIXES).names)
    except OSError as error:
        raise DataError(f"--calibration {folder}: cannot be read: {error.strerror or error}") from None
    if not image_paths:
        raise DataError(f"--calibration {folder}: no images in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    count = min(len(image_paths), MAX_IMAGES)
    return [image_paths[i * len(image_paths) // count] for i in range(count)]


class _CalibrationReader:
    """Data reader for onnxruntime's calibration, which reads one image at a time."""

    def __init__(self, image_paths: list[Path], metadata: ModelMetadata):
        self._inputs = calibration_batches(image_paths, metadata.size_hw, metadata.input.resize)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return a dict with the next network input, or None after the last image. onnxruntime calls this method."""
        images = next(self._inputs, None)
        return None if images is None else {INPUT_NAME: images}


def calibration_batches(
    image_paths: list[Path], size_hw: tuple[int, int], resize: Literal["letterbox", "stretch"]
) -> Iterator[np.ndarray]:
    """Yield the network input of each readable image, (1, 3, H, W) float32 in [0, 1]; unreadable images are logged."""
    for path in image_paths:
        try:
            image = read_image(path)
        except (DataError, SourceError) as error:
            log.warning("skipped in the calibration: %s", error)
            continue
        letterbox = Letterbox.fit((image.shape[0], image.shape[1]), size_hw, resize)
        resized = letterbox.resize_and_pad(image, size_hw).astype(np.float32) / 255
        yield np.ascontiguousarray(resized.transpose(2, 0, 1)[None])
