"""Detection datasets: index -> image with its boxes.

DetectionImages    image files, decoded and downscaled to fit the input; a cache can wrap them
DetectionDataset   these images with their annotations, for training
EvalDataset        images resized to the input (letterbox or stretch) with their annotations, for evaluation
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cspdet.datasets.cache import Images
from cspdet.datasets.config import Resize
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.image_io import read_image
from cspdet.errors import DataError
from cspdet.letterbox import Letterbox, resize_image
from cspdet.structures import Sample


class DetectionImages:
    """Images of a COCO split, downscaled to fit into the input; smaller images keep their size.

    Args:
        coco: The annotated split.
        size_hw: Input height and width in pixels.
        resize: How images are fit into the input: letterbox or stretch.

    Raises:
        DataError: The split has no images.
    """

    def __init__(self, coco: CocoDataset, size_hw: tuple[int, int], resize: Resize = "letterbox"):
        if len(coco) == 0:
            raise DataError(f"{coco.files.annotations}: expected images to train on, found none")
        self.coco, self.size_hw, self.resize = coco, size_hw, resize
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.coco)

    def __getitem__(self, index: int) -> np.ndarray:
        """Decode an image, apply its EXIF orientation and downscale it.

        Returns:
            (h, w, 3) uint8 RGB.
        """
        bilinear = self.resize == "stretch"  # as in evaluation
        size_hw = self._stored_hw(index)
        return resize_image(read_annotated_image(self.coco, index), size_hw, bilinear=bilinear)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.coco.path(index)

    def cache_key(self) -> bytes:
        """Return resize mode, input size, and image sizes from the annotations as bytes."""
        return f"{self.resize} {self.size_hw} ".encode() + self.coco.size_hw.astype("<i4").tobytes()

    def sizes_hw(self) -> list[tuple[int, int]]:
        """Return the height and width of every downscaled image, from the annotations."""
        return [self._stored_hw(index) for index in range(len(self))]

    def estimate_cache_bytes(self) -> int:
        """Return the size in bytes of all decoded images."""
        return sum(3 * height * width for height, width in self.sizes_hw())

    def _stored_hw(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image after downscaling: its size in the input, but at most its original size.

        Images are not upscaled here, because the augmentation resizes images anyway.
        """
        height, width = self.coco.size_hw[index].tolist()
        box = Letterbox.fit((height, width), self.size_hw, self.resize)
        return min(height, round(height * box.scale_y)), min(width, round(width * box.scale_x))


class DetectionDataset:
    """Training dataset: images of a COCO split with their boxes.

    Args:
        coco: The annotated split.
        images: The images by index: `DetectionImages`, or a cache of them.
    """

    def __init__(self, coco: CocoDataset, images: Images):
        self.coco, self.images = coco, images

    def __len__(self) -> int:
        return len(self.coco)

    def __getitem__(self, index: int) -> Sample:
        """Return an image with its boxes in pixels of the downscaled image; raise DataError if it is unreadable."""
        box_xyxy, class_id, is_crowd = self.coco.boxes(index)
        height, width = self.coco.size_hw[index].tolist()
        image_id = int(self.coco.image_id[index])
        image = self.images[index]
        ratio_x, ratio_y = image.shape[1] / width, image.shape[0] / height
        ratios = np.array((ratio_x, ratio_y, ratio_x, ratio_y), np.float32)
        return Sample(image, box_xyxy * ratios, class_id, is_crowd, image_id, (height, width))


class EvalDataset:
    """Evaluation dataset: images of a COCO split at input size, with their boxes (including crowds) in input pixels.

    Args:
        coco: The annotated split.
        size_hw: Input height and width in pixels.
        resize: How images are fit into the input: letterbox or stretch.
    """

    def __init__(self, coco: CocoDataset, size_hw: tuple[int, int], resize: Resize = "letterbox"):
        self.coco, self.size_hw, self.resize = coco, size_hw, resize

    def __len__(self) -> int:
        return len(self.coco)

    def __getitem__(self, index: int) -> Sample:
        """Return an image at input size with its boxes; raise DataError if it is unreadable."""
        image = read_annotated_image(self.coco, index)
        image_hw = (image.shape[0], image.shape[1])
        box = Letterbox.fit(image_hw, self.size_hw, self.resize)
        box_xyxy, class_id, is_crowd = self.coco.boxes(index)
        drawn, image_id = box.resize_and_pad(image, self.size_hw), int(self.coco.image_id[index])
        return Sample(drawn, box.to_input(box_xyxy), class_id, is_crowd, image_id, image_hw)


def read_annotated_image(coco: CocoDataset, index: int) -> np.ndarray:
    """Decode an image of a split at full size.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: The image is unreadable, or its size differs from the annotations, so that boxes would be wrong.
    """
    image = read_image(coco.path(index))
    (found_h, found_w), (height, width) = image.shape[:2], coco.size_hw[index].tolist()
    if (found_h, found_w) != (height, width):
        raise DataError(
            f"{coco.path(index)}: the file is {found_w}x{found_h} (width x height), "
            f"the annotations say {width}x{height}"
        )
    return image
