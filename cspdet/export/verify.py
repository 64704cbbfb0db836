"""Every export is run beside the network itself before it gets its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cspdet.checkpoints.loading import LoadedClassifier, LoadedModel
from cspdet.darknet.write.graph import reference
from cspdet.errors import DataError, UserError
from cspdet.export.quantize import calibration_pictures, drawn_inputs
from cspdet.inference.engines.base import Engine, Limits
from cspdet.inference.metadata import Facts
from cspdet.inference.postprocess import postprocess
from cspdet.structures import Detections

# The most that an output may differ, as a share of the largest number of that output: its rounding.
LARGEST_DIFFERENCE = {"fp32": 1e-4, "fp16": 2e-2}
# Quantization moves single numbers far; their average stays near. What it costs is for `eval` to say.
LARGEST_AVERAGE = 5e-2


class ExportDiffersError(UserError):
    """An export that does not compute what the network computes; nothing is left on disk."""


def check_inputs(loaded: LoadedModel | LoadedClassifier, facts: Facts, calibration: Path | None = None) -> list[Tensor]:
    """Two inputs: where batch and size are free, also of another batch and another size.

    They are made up, but from the pictures of `calibration` where these say what int8 is to reach.

    Raises:
        ExportDiffersError: batch and size are to be free, but the network takes no other size.
        DataError: no pictures to calibrate on.
    """
    height, width = facts.size_hw
    if calibration is not None:
        return _of_pictures(calibration_pictures(calibration), facts)
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1, 3, height, width, generator=generator)
    if not facts.dynamic:
        return [first, torch.rand(1, 3, 8, 8, generator=generator).repeat_interleave(-(-height // 8), 2)
                .repeat_interleave(-(-width // 8), 3)[:, :, :height, :width].contiguous()]  # fmt: skip
    step = max(facts.strides)
    other = (height + step, width + 2 * step)
    try:
        loaded.model.check_size(other)
    except ValueError as error:
        raise ExportDiffersError(f"the network takes no other size ({error}); export it with --no-dynamic") from None
    return [first, torch.rand(2, 3, *other, generator=generator)]


def _of_pictures(pictures: list[Path], facts: Facts) -> list[Tensor]:
    """One picture, and three: at another size where that is free, else one by one."""
    step = max(facts.strides) if facts.dynamic else 0
    sizes = [facts.size_hw, (facts.size_hw[0] + step, facts.size_hw[1] + 2 * step)]
    drawn = [
        [torch.from_numpy(image) for image in drawn_inputs(pictures[:4], size_hw, facts.input.resize)]
        for size_hw in sizes
    ]
    if not drawn[0]:
        raise DataError(f"--calibration: none of {', '.join(str(path) for path in pictures[:4])} can be read")
    return [drawn[0][0], torch.cat(drawn[1][-3:])]


def check(
    engine: Engine, loaded: LoadedModel | LoadedClassifier, inputs: Sequence[Tensor], where: str
) -> float:  # fmt: skip
    """The largest difference between the file in `engine` and the network, as a share of the largest output.

    Raises:
        ExportDiffersError: it is more than rounding.
    """
    worst = 0.0
    for images in inputs:
        worst = max(worst, _difference(engine, loaded, images))
    quantized = engine.facts.precision == "int8"
    limit = LARGEST_AVERAGE if quantized else LARGEST_DIFFERENCE[engine.facts.precision]
    if not worst <= limit:
        hint = "; --no-dynamic may help" if engine.facts.dynamic else ""
        kind = "on average " if quantized else ""
        raise ExportDiffersError(
            f"{where}: not written: its outputs differ {kind}by {worst:.1e} of the largest from the network's, "
            f"expected at most {limit:g}{hint}"
        )
    return worst


def _difference(engine: Engine, loaded: LoadedModel | LoadedClassifier, images: Tensor) -> float:
    facts = engine.facts
    try:
        found = engine(images)
    except Exception as error:  # the runtimes raise errors of their own
        raise ExportDiffersError(
            f"the file does not run for {tuple(images.shape)}: {str(error).splitlines()[0][:200]}"
        ) from None
    expected = reference(loaded, facts.outputs, images)
    if facts.outputs == "detections":
        return _of_detections(engine, expected, images)
    if [tuple(values.shape) for values in found] != [tuple(values.shape) for values in expected]:
        return float("inf")
    if facts.precision == "int8":
        return max(float((a - b).abs().mean() / _largest(b)) for a, b in zip(found, expected, strict=True))
    return max(float((a - b).abs().max() / _largest(b)) for a, b in zip(found, expected, strict=True))


def _of_detections(engine: Engine, decoded: tuple[Tensor, ...], images: Tensor) -> float:
    nms = engine.facts.nms
    assert nms is not None
    limits = Limits(
        min_score=nms.min_score, max_iou=nms.max_iou, max_detections=nms.max_detections, vote_iou=None
    )  # fmt: skip
    expected = postprocess(decoded[0], decoded[1], **limits)
    found = engine.detect(images, **limits)
    return max(of_two(a, b) for a, b in zip(found, expected, strict=True))


def of_two(found: Detections, expected: Detections) -> float:
    """The largest difference of two lists of detections of a picture; infinite where they are others or fewer.

    Equal scores may stand in any order; each list is sorted anew by class and box.
    """
    if len(found) != len(expected):
        return float("inf")
    if len(found) == 0:
        return 0.0
    rows, wanted = _sorted(found), _sorted(expected)
    return float(((rows - wanted).abs().amax(dim=0) / wanted.abs().amax(dim=0).clamp(min=1.0)).max())


def _sorted(found: Detections) -> Tensor:
    """(N, 6): class, box, score; by class, then by place to a tenth of a pixel."""
    rows = torch.cat((found.class_id[:, None].float(), found.box_xyxy, found.score[:, None]), dim=1)
    keys = [tuple(round(value, 1) for value in row[:5]) for row in rows.tolist()]
    return rows[sorted(range(len(keys)), key=lambda i: keys[i])]


def _largest(values: Tensor) -> float:
    return max(float(values.abs().max()), 1e-12)
