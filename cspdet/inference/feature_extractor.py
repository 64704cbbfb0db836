"""Extract backbone features from many images, and write them to one file or to one file per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from cspdet.datasets.classification.crops import ImageCrop, iter_crops
from cspdet.device import to_float_tensor
from cspdet.errors import ConfigError, UnwritableFileError, UserError
from cspdet.inference.features import feature_maps, feature_specs, global_avg_pool
from cspdet.inference.sources import ImageFile
from cspdet.io.atomic import atomic_write
from cspdet.io.outputs import NUMPY_FEATURES, OutputFile, check_outputs
from cspdet.io.progress import progress
from cspdet.models.bundle import ModelBundle

Arrays = dict[str, np.ndarray]  # by array name in the file; the first axis is the image

MAX_FILE_BYTES = 4 * 2**30  # maximum size of an .npz file, which is assembled in memory


class FeatureExtractor:
    """Extracts the backbone features of images in batches. Unreadable images are skipped and added to `problems`.

    Attributes:
        specs: Channels and stride of each feature map, finest first.
        problems: One message per unreadable image.
    """

    def __init__(self, bundle: ModelBundle, device: torch.device, crop: ImageCrop, *, maps: bool):
        """Move the network to the device.

        Args:
            bundle: A classifier or a detector, whose backbone is used.
            device: Device of the network.
            crop: Resizing and cropping of the images.
            maps: Whether to extract all feature maps. If not, the global average of the coarsest map is extracted.

        Raises:
            ConfigError: The network was built from a Darknet cfg and has no separate backbone.
        """
        try:
            self.specs = feature_specs(bundle.torch_network)
        except ValueError as error:
            raise ConfigError(f"{bundle.name}: {error}") from None
        self.model, self.device, self.crop, self.maps = bundle.torch_network.to(device), device, crop, maps
        self.problems: list[str] = []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array for one image, by array name."""
        if not self.maps:
            return {"features": (self.specs[-1].channels,)}
        height, width = self.crop.size_hw
        return {f"stride{s.stride}": (s.channels, height // s.stride, width // s.stride) for s in self.specs}

    @property
    def description(self) -> str:
        """Names and shapes of the arrays as text."""
        return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())

    def batches(self, images: Sequence[ImageFile], batch_size: int) -> Iterator[tuple[tuple[Path, ...], Arrays]]:
        """Yield for each batch the paths of the readable images, and a dict of feature arrays with one row per path."""
        crop_batches = iter_crops([image.path for image in images], self.crop, batch_size)
        for batch in progress(crop_batches, "extracting", "batch", -(-len(images) // batch_size)):
            self.problems += batch.problems
            if batch.paths:
                yield batch.paths, self._arrays(torch.from_numpy(batch.images[:, 0]))

    @torch.inference_mode()
    def _arrays(self, images: torch.Tensor) -> Arrays:
        features = feature_maps(self.model, to_float_tensor(images, self.device))
        levels = features if self.maps else (global_avg_pool(features),)
        return {name: level.float().cpu().numpy() for name, level in zip(self.shapes, levels, strict=True)}

    def check_file_size(self, num_images: int) -> None:
        """Raise ConfigError if the features of `num_images` images are too large for one file."""
        size = num_images * sum(4 * int(np.prod(shape)) for shape in self.shapes.values())
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"--output: {size / 2**30:.1f} GiB is too large for one file; use a folder for one file per image"
            )

    def write_file(self, path: Path, images: Sequence[ImageFile], batch_size: int) -> int:
        """Write the features of all images to one .npz file; return the number of images in it.

        After Ctrl-C, the features extracted so far are written.
        """
        names: list[str] = []
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.shapes}
        try:
            for paths, arrays in self.batches(images, batch_size):
                names += map(str, paths)
                for name, array in arrays.items():
                    parts[name].append(array)
        finally:
            empty = {name: np.empty((0, *shape), np.float32) for name, shape in self.shapes.items()}
            joined = {name: np.concatenate([empty[name], *arrays]) for name, arrays in parts.items()}
            if names or not path.exists():
                _save(path, {"names": np.array(names, dtype=np.str_), **joined})
        return len(names)

    def write_folder(self, folder: Path, images: Sequence[ImageFile], batch_size: int) -> int:
        """Write one file per image to `folder`, with the name of the image; return the number of files.

        The suffix is .npz for feature maps, and .npy for pooled features.

        A file that cannot be written is added to `problems`.
        """
        names = {image.path: image.name for image in images}
        num_written = 0
        for paths, arrays in self.batches(images, batch_size):
            for i, path in enumerate(paths):
                try:
                    self._save_image(feature_file(folder, names[path], maps=self.maps), arrays, i)
                except UnwritableFileError as error:
                    self.problems += error.problems
                else:
                    num_written += 1
        return num_written

    def _save_image(self, path: Path, arrays: Arrays, index: int) -> None:
        if self.maps:
            _save(path, {name: array[index] for name, array in arrays.items()})
        else:
            with atomic_write(path) as tmp_path:
                np.save(tmp_path, arrays["features"][index])


def feature_file(folder: Path, name: Path, *, maps: bool) -> Path:
    """Return the file in `folder` with the features of the image `name`."""
    return folder / f"{name}{'.npz' if maps else '.npy'}"


def check_feature_outputs(output: Path, images: Sequence[ImageFile], *, maps: bool) -> None:
    """Check, before a model is loaded, that no file except earlier features is replaced.

    Args:
        output: An .npz file, or a folder.
        images: The images.
        maps: Whether all feature maps are extracted.

    Raises:
        UserError: `output` cannot be written, or has other files with the names of the outputs.
    """
    if output.suffix == ".npz":
        check_outputs([OutputFile(output, NUMPY_FEATURES)])
        return
    if output.is_file():
        raise UserError(f"{output}: is a file; expected a folder, or FILE.npz")
    files = (feature_file(output, image.name, maps=maps) for image in images)
    check_outputs(OutputFile(file, NUMPY_FEATURES, is_one_of_many=True) for file in files)


def _save(path: Path, arrays: Arrays) -> None:
    with atomic_write(path) as tmp_path:
        np.savez(tmp_path, **arrays)  # type: ignore[arg-type]
