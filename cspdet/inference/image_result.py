"""The interface of results: the image, drawing to a file or window, and conversions to JSON and tables."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from PIL import Image

from cspdet.errors import ConfigError, describe_import_error
from cspdet.inference.image_input import LoadedImage, load_image
from cspdet.io.atomic import write_bytes

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class ResultImage:
    """The image of a result.

    An image file is read again when it is drawn. The pixels of other images are kept in memory.

    Attributes:
        name: The path, or `image`, for messages.
        path: The file; None: the image was not given as a path.
        size_hw: Height and width.
        kept: (H, W, 3) uint8 RGB; None for a file.
    """

    name: str
    path: Path | None
    size_hw: tuple[int, int]
    kept: np.ndarray | None

    @classmethod
    def from_loaded(cls, image: LoadedImage) -> ResultImage:
        """Keep the path of a file, or the pixels of another image."""
        return cls(image.name, image.path, image.size_hw, image.pixels if image.path is None else None)

    @property
    def pixels(self) -> np.ndarray:
        """The pixels, (H, W, 3) uint8 RGB; an image from a file is read again."""
        return load_image(self.path).pixels if self.path is not None else np.asarray(self.kept)

    def __str__(self) -> str:
        return f"{self.name} {self.size_hw[1]}x{self.size_hw[0]}"


class ImageResult(ABC):
    """The interface of the results of all predictors.

    Attributes:
        image: The image, with its `pixels`, `path` and `size_hw`.
        columns: Names of the columns of `to_df`.
    """

    image: ResultImage
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def plot(self) -> np.ndarray:
        """Draw the result on a copy of the image: (H, W, 3) uint8 RGB."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the result as values of JSON types."""

    def _image_record(self) -> dict[str, Any]:
        """Return the keys of `to_dict` for the image."""
        height, width = self.image.size_hw
        return {"source": self.image.name, "width": width, "height": height}

    @abstractmethod
    def _table(self) -> list[dict[str, Any]]:
        """Return the rows of `to_df`: one mapping of column name -> value per row."""

    def to_json(self, **options: Any) -> str:
        """Return `to_dict` as JSON; `options` are those of `json.dumps`."""
        return json.dumps(self.to_dict(), **{"ensure_ascii": False, **options})

    def to_df(self) -> pandas.DataFrame:
        """Return a table with one row per detection or class.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError(f"to_df: {describe_import_error('pandas', error)}: pip install pandas") from None
        return pandas.DataFrame(self._table(), columns=list(self.columns))

    def show(self) -> None:
        """Open the annotated image in the image viewer of the system."""
        Image.fromarray(self.plot()).show(title=self.image.name)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the annotated image to a file; the suffix of `path`, such as .jpg or .png, selects the format.

        Raises:
            ConfigError: The suffix is not that of an image format, or the file is the original image.
            UserError: The file cannot be written.
        """
        target = Path(path)
        source = self.image.path
        if source is not None and target.exists() and source.exists() and target.samefile(source):
            raise ConfigError(f"{target}: is the original image; expected another file")
        if not (target.suffix.isascii() and cv2.haveImageWriter(f"image{target.suffix}")):
            raise ConfigError(f"{target}: expected a file name that ends in .jpg, .png or another image format")
        ok, data = cv2.imencode(target.suffix, cv2.cvtColor(self.plot(), cv2.COLOR_RGB2BGR))
        if not ok:
            raise ConfigError(f"{target}: {self.image} cannot be written as {target.suffix}")
        write_bytes(target, data.tobytes())
        return target
