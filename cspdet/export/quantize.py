"""Fewer bits: int8 after calibration on pictures, and fp16."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cspdet.datasets.image_io import read_image
from cspdet.errors import DataError, SourceError
from cspdet.inference.engines.onnx_export import INPUT_NAME
from cspdet.inference.metadata import ModelMetadata
from cspdet.letterbox import Letterbox

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("cspdet")

MAX_IMAGES = 100  # more hardly move the ranges
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def quantize_int8(model: onnx.ModelProto, metadata: ModelMetadata, calibration: Path) -> onnx.ModelProto:
    """Weights and maps in 8 bits (QDQ nodes), their ranges taken from the pictures of a folder.

    The last convolution of each output and all that follows stay in float: that is where a box gets its pixels.

    Raises:
        DataError: no pictures.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    image_paths = calibration_images(calibration)
    log.info("calibrating on %d pictures of %s", len(image_paths), calibration)
    import onnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, prepared, result = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, str(plain))
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it warns on the root logger of what was just done
        try:
            quantize_static(
                str(prepared), str(result), _CalibrationReader(image_paths, metadata), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=sorted(nodes_from_last_convs(onnx.load(str(prepared)))),
            )  # fmt: skip
        finally:
            root.setLevel(level)
        return onnx.load(str(result))


def convert_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and maps in fp16; the input and the outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights below the smallest fp16
        half = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    half.topological_sort()  # it puts the casts of the input last
    del half.model.graph.value_info[:]  # it gives different sides one name, which onnxruntime believes
    return half.model


def nodes_from_last_convs(model: onnx.ModelProto) -> set[str]:
    """The names of the nodes that lead to an output without a convolution after them, and of the last convolutions."""
    producer = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}
    todo = [producer[value.name] for value in model.graph.output if value.name in producer]
    while todo:
        node = todo.pop()
        if node.name in found:
            continue
        found[node.name] = node
        if node.op_type not in ("Conv", "Gemm", "MatMul", "Shape"):  # of what Shape reads, only the size goes on
            todo += [producer[name] for name in node.input if name in producer]
    return set(found)


def calibration_images(folder: Path) -> list[Path]:
    """Up to MOST_PICTURES pictures of a folder and those below it, evenly over their names.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"--calibration {folder}: no such folder; expected one with pictures")
    image_paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not image_paths:
        raise DataError(f"--calibration {folder}: no pictures in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    count = min(len(image_paths), MAX_IMAGES)
    return [image_paths[i * len(image_paths) // count] for i in range(count)]


class _CalibrationReader:
    """Hands the pictures to the calibration, one at a time, as the network sees them."""

    def __init__(self, image_paths: list[Path], metadata: ModelMetadata):
        self._inputs = calibration_batches(image_paths, metadata.size_hw, metadata.input.resize)

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self._inputs, None)
        return None if images is None else {INPUT_NAME: images}


def calibration_batches(
    image_paths: list[Path], size_hw: tuple[int, int], resize: Literal["letterbox", "stretch"]
) -> Iterator[np.ndarray]:
    """Each readable picture as the network sees it, (1, 3, H, W) float32 in [0, 1]."""
    for path in image_paths:
        try:
            image = read_image(path)
        except (DataError, SourceError) as error:
            log.warning("left out of the calibration: %s", error)
            continue
        letterbox = Letterbox.fit((image.shape[0], image.shape[1]), size_hw, resize)
        resized = letterbox.resize_and_pad(image, size_hw).astype(np.float32) / 255
        yield np.ascontiguousarray(resized.transpose(2, 0, 1)[None])
