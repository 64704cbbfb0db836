"""A backbone's features of pictures, for search, clustering or a classifier of one's own.

  cspdet extract-features runs/csppeleenet/best.pt photos --output photos.npz
  cspdet extract-features runs/csppelee_efm_sam/best.pt photos --output maps --layer maps --size 416

MODEL may be a classifier or a detector, whose backbone is then taken. FILE.npz holds `names`, the paths, and `features`
(pictures, channels), or with --layer maps an array a stride, (pictures, channels, height, width): `stride8` ... A
folder gets a file a picture instead, NAME.npy or NAME.npz.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from cspdet.checkpoints.loading import load_model
from cspdet.cli.arguments import parse_image_size
from cspdet.cli.classify import find_image_files
from cspdet.cli.eval_classifier import eval_config_from_args
from cspdet.datasets.classification.crops import INTERPOLATIONS, ImageCrop, build_image_crop, iter_crops
from cspdet.device import select_device, to_float_tensor
from cspdet.errors import ConfigError, SourceError, UserError, truncate_list
from cspdet.inference.features import feature_maps, feature_specs, global_avg_pool
from cspdet.inference.sources import ImageFile
from cspdet.io.atomic import atomic_write
from cspdet.io.progress import progress
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import ClassifierEvalConfig

log = logging.getLogger("cspdet")

Arrays = dict[str, np.ndarray]  # by the name that they have in a file; the first axis is the pictures

MAX_FILE_BYTES = 4 * 2**30  # of one FILE.npz, which is put together in memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `extract-features` takes."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument("source", metavar="SOURCE", help="picture, folder or 'glob'")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="FILE.npz, or a folder")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument(
        "--layer", choices=("pooled", "maps"), default="pooled",
        help="the coarsest map averaged, or all maps (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--size", type=parse_image_size, metavar="HxW", help="input size (default: the model's own)")
    parser.add_argument(
        "--resize", type=int, metavar="N", help="short side in pixels (default: the input's over --crop)"
    )
    parser.add_argument("--crop", type=float, metavar="SHARE", help="of the short side that is seen (default: 0.887)")
    parser.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default="bilinear", help="of the resizing (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures a pass; default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Extract, write, tell. Ctrl-C ends early and keeps what is done."""
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size: expected 1 or more, found {args.batch_size}")
    if args.output.suffix not in (".npz", "") and not args.output.is_dir():
        raise ConfigError(f"--output: expected FILE.npz or a folder, found {str(args.output)!r}")
    images = find_image_files(args.source)
    device = select_device(args.device)
    overrides = [*args.overrides, *([] if args.size is None else [f"input.size={list(args.size)}"])]
    bundle = load_model(args.model, weights=args.weights, overrides=overrides)
    extractor = _Extractor(bundle, device, _crop(args, bundle), maps=args.layer == "maps")
    in_one = args.output.suffix == ".npz"
    if in_one and extractor.bytes_per_image * len(images) > MAX_FILE_BYTES:
        size = extractor.bytes_per_image * len(images) / 2**30
        raise ConfigError(
            f"--output: {size:.1f} GiB are too much for one file; give a folder, which gets one a picture"
        )
    written = _to_file(args, extractor, images) if in_one else _to_folder(args, extractor, images)
    print(f"{written} pictures, {extractor.description}; written to {args.output}")
    if extractor.problems:
        raise SourceError(*truncate_list(extractor.problems))


def _crop(args: argparse.Namespace, bundle: ModelBundle) -> ImageCrop:
    """As the model's own `eval` says; a detector has no such, and sees the whole short side."""
    base = bundle.config.eval if bundle.task == "classification" else ClassifierEvalConfig(crop=1.0)
    settings = eval_config_from_args(args, base).model_copy(update={"ten_crop": False})
    return build_image_crop(bundle.config.input, settings, args.interpolation)


class _Extractor:
    """Batches of pictures to arrays; what cannot be read is noted in `problems`, and the others go on."""

    def __init__(self, bundle: ModelBundle, device: torch.device, crop: ImageCrop, *, maps: bool):
        try:
            self.specs = feature_specs(bundle.torch_network)
        except ValueError as error:
            raise ConfigError(f"{bundle.name}: {error}") from None
        self.model, self.device, self.crop, self.maps = bundle.torch_network.to(device), device, crop, maps
        self.problems: list[str] = []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every array, without the axis of the pictures."""
        if not self.maps:
            return {"features": (self.specs[-1].channels,)}
        height, width = self.crop.size_hw
        return {f"stride{s.stride}": (s.channels, height // s.stride, width // s.stride) for s in self.specs}

    @property
    def bytes_per_image(self) -> int:
        return sum(4 * int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def description(self) -> str:
        """The arrays in words."""
        return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())

    def batches(self, images: list[ImageFile], batch_size: int) -> Iterator[tuple[tuple[Path, ...], Arrays]]:
        """The paths and arrays of the pictures that can be read, in order."""
        crop_batches = iter_crops([image.path for image in images], self.crop, batch_size)
        for batch in progress(crop_batches, "extracting", "batch", -(-len(images) // batch_size)):
            self.problems += batch.problems
            if batch.paths:
                yield batch.paths, self._arrays(torch.from_numpy(batch.images[:, 0]))

    @torch.inference_mode()
    def _arrays(self, images: torch.Tensor) -> Arrays:
        features = feature_maps(self.model, to_float_tensor(images, self.device))
        found = features if self.maps else (global_avg_pool(features),)
        return {name: level.float().cpu().numpy() for name, level in zip(self.shapes, found, strict=True)}


def _to_file(args: argparse.Namespace, extractor: _Extractor, images: list[ImageFile]) -> int:
    """All pictures in one file; the number written."""
    names: list[str] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in extractor.shapes}
    try:
        for paths, arrays in extractor.batches(images, args.batch_size):
            names += map(str, paths)
            for name, array in arrays.items():
                parts[name].append(array)
    finally:
        empty = {name: np.empty((0, *shape), np.float32) for name, shape in extractor.shapes.items()}
        joined = {name: np.concatenate([empty[name], *arrays]) for name, arrays in parts.items()}
        _save(args.output, {"names": np.array(names, dtype=np.str_), **joined})
    return len(names)


def _to_folder(args: argparse.Namespace, extractor: _Extractor, images: list[ImageFile]) -> int:
    """A file a picture, named after it; the number written."""
    if args.output.is_file():
        raise UserError(f"{args.output}: is a file; expected a folder, or FILE.npz")
    names = {image.path: image.name for image in images}
    written = 0
    for paths, arrays in extractor.batches(images, args.batch_size):
        for i, path in enumerate(paths):
            target = args.output / names[path]
            if extractor.maps:
                _save(target.with_name(f"{target.name}.npz"), {name: array[i] for name, array in arrays.items()})
            else:
                with atomic_write(target.with_name(f"{target.name}.npy")) as tmp_path:
                    np.save(tmp_path, arrays["features"][i])
            written += 1
    return written


def _save(path: Path, arrays: Arrays) -> None:
    with atomic_write(path) as tmp_path:
        np.savez(tmp_path, **arrays)  # type: ignore[arg-type]
