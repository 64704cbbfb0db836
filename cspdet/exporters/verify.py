"""Verification of exports: the outputs of the written file are compared with the outputs of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cspdet.errors import DataError, UserError
from cspdet.exporters.quantize import calibration_batches, calibration_images
from cspdet.exporters.verify_nms import MIN_SCORE_SCALE, ProbeLoader, verify_nms
from cspdet.inference.engines.base import Engine
from cspdet.inference.metadata import ModelMetadata, OutputType
from cspdet.models.bundle import ModelBundle
from cspdet.models.postprocess import decode

# Largest allowed difference of an output, as a fraction of its largest value; allows for rounding errors.
MAX_RELATIVE_ERROR = {"fp32": 1e-4, "fp16": 2e-2}
# int8: limit of the mean difference, because single values can differ more. `cspdet eval` measures the effect on AP.
MAX_MEAN_RELATIVE_ERROR = 5e-2


class ExportMismatchError(UserError):
    """Raised if the outputs of an export differ from the outputs of the network; no file is written."""


def verification_inputs(bundle: ModelBundle, metadata: ModelMetadata, calibration: Path | None = None) -> list[Tensor]:
    """Return two batches (B, 3, H, W) in [0, 1]; if the export is dynamic, the second has another height and width.

    Args:
        bundle: The model.
        metadata: Metadata with the input size, and whether batch size and input size are dynamic.
        calibration: Folder with the images to use for int8; None: random inputs.

    Raises:
        ExportMismatchError: The export is dynamic, but the network does not support a second size.
        DataError: There are no readable images.
    """
    height, width = metadata.size_hw
    if calibration is not None:
        return _inputs_from_images(calibration_images(calibration), metadata)
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1, 3, height, width, generator=generator)
    if not metadata.dynamic:
        return [first, torch.rand(1, 3, 8, 8, generator=generator).repeat_interleave(-(-height // 8), 2)
                .repeat_interleave(-(-width // 8), 3)[:, :, :height, :width].contiguous()]  # fmt: skip
    step = max(metadata.strides)
    other = (height + step, width + 2 * step)
    try:
        bundle.torch_network.check_size(other)
    except ValueError as error:
        raise ExportMismatchError(f"the network supports no other size ({error}); use --no-dynamic") from None
    return [first, torch.rand(2, 3, *other, generator=generator)]


def _inputs_from_images(image_paths: list[Path], metadata: ModelMetadata) -> list[Tensor]:
    """Return a batch of one image and a batch of up to three; in a dynamic export, the second has another size."""
    step = max(metadata.strides) if metadata.dynamic else 0
    sizes = [metadata.size_hw, (metadata.size_hw[0] + step, metadata.size_hw[1] + 2 * step)]
    batches = [
        [torch.from_numpy(image) for image in calibration_batches(image_paths[:4], size_hw, metadata.input.resize)]
        for size_hw in sizes
    ]
    if not batches[0]:
        raise DataError(f"--calibration: none of {', '.join(str(path) for path in image_paths[:4])} can be read")
    return [batches[0][0], torch.cat(batches[1][-3:])]


def verify_export(
    engine: Engine, bundle: ModelBundle, inputs: Sequence[Tensor], where: str, load_probe: ProbeLoader | None = None
) -> float:
    """Compare the outputs of an exported file with the outputs of the network.

    Args:
        engine: The engine that loaded the file.
        bundle: The model.
        inputs: Batches (B, 3, H, W) in [0, 1].
        where: Name of the file for messages.
        load_probe: For a file with built-in NMS: loads the file with other thresholds (see `verify_nms`).

    Returns:
        The largest difference of an output value, divided by the largest value of the output. For int8, the mean
        difference is used instead of the largest.

    Raises:
        ExportMismatchError: The difference is above the limit of the precision.
    """
    metadata = engine.metadata
    expected = [reference_outputs(bundle, metadata.outputs, images) for images in inputs]
    if metadata.outputs == "detections":
        worst = _nms_error(engine, load_probe or (lambda _: None), inputs, expected)
    else:
        outputs = [_run(engine, images) for images in inputs]
        decoded = metadata.outputs == "decoded"
        errors = [
            _relative_error(a, b, metadata.precision, decoded=decoded) for a, b in zip(outputs, expected, strict=True)
        ]
        worst = largest(errors)
    quantized = metadata.precision == "int8"
    limit = MAX_MEAN_RELATIVE_ERROR if quantized else MAX_RELATIVE_ERROR[metadata.precision]
    if not worst <= limit:
        hint = "; --no-dynamic may help" if metadata.dynamic else ""
        qualifier = "on average " if quantized else ""
        raise ExportMismatchError(
            f"{where}: not written: its outputs differ {qualifier}by {worst:.1e} of the largest from the network's, "
            f"expected at most {limit:g}{hint}"
        )
    return worst


def _run(engine: Engine, images: Tensor) -> tuple[Tensor, ...]:
    try:
        return engine(images)
    except Exception as error:  # the runtimes have their own exceptions
        raise ExportMismatchError(
            f"the file does not run for {tuple(images.shape)}: {str(error).splitlines()[0][:200]}"
        ) from None


def _nms_error(
    engine: Engine, load_probe: ProbeLoader, inputs: Sequence[Tensor], expected: Sequence[tuple[Tensor, ...]]
) -> float:
    """Return the largest relative difference between a file with built-in NMS and the network.

    Detections are compared. If `load_probe` returns an engine, decoded boxes and scores are compared too.
    """
    nms, precision = engine.metadata.nms, engine.metadata.precision
    assert nms is not None
    for images in inputs:
        _run(engine, images)
    probe = load_probe(nms)
    decoded, errors = expected, []
    if probe is not None:
        decoded = [_run(probe, images)[1:] for images in inputs]
        errors = [_relative_error(a, b, precision, decoded=True) for a, b in zip(decoded, expected, strict=True)]
    return largest([*errors, verify_nms(engine, load_probe, inputs, decoded)])


def _relative_error(
    outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...], precision: str, *, decoded: bool
) -> float:
    """Return the largest difference between `outputs` and `expected`, divided by the largest value of the output.

    For int8, the mean difference is used. If the shapes differ, the result is infinity.
    """
    if [tuple(values.shape) for values in outputs] != [tuple(values.shape) for values in expected]:
        return float("inf")
    differences = [(a - b).abs() for a, b in zip(outputs, expected, strict=True)]
    errors = [values.mean() if precision == "int8" else values.max() for values in differences]
    scales = [max(float(b.abs().max()), 1e-12) for b in expected]
    if decoded:
        scales[1] = max(scales[1], MIN_SCORE_SCALE)
    return largest([float(error) / scale for error, scale in zip(errors, scales, strict=True)])


def largest(values: Sequence[float]) -> float:
    """Return the maximum, or NaN if a value is NaN. Python's `max` can ignore NaN."""
    return float(torch.tensor(values, dtype=torch.float64).max())


def reference_outputs(bundle: ModelBundle, outputs: OutputType, images: Tensor) -> tuple[Tensor, ...]:
    """Compute the expected outputs with the original network, without fused batch norms.

    Args:
        bundle: The model.
        outputs: Type of the outputs; for detections, decoded outputs are returned.
        images: (B, 3, H, W) float32 in [0, 1].
    """
    with torch.inference_mode():
        result = bundle.torch_network.cpu()(images)
        if isinstance(result, Tensor):
            return (result,)
        if outputs == "raw":
            return tuple(result)
        return decode(result, bundle.detector.anchors)
