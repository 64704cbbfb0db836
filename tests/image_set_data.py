"""A folder of train/CLASS/* and val/CLASS/* whose classes a network can learn in seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

COLORS = {"blue": (40, 60, 210), "green": (50, 200, 60), "red": (220, 50, 40)}  # RGB, in the order of the names


def write_images(
    root: Path, train: int = 6, val: int = 2, size_hw: tuple[int, int] = (48, 56), classes: int = 3
) -> Path:
    """`train` and `val` pictures a class: noise around the class's color. A split of 0 pictures is left out."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, color in list(COLORS.items())[: classes if count else 0]:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 40, (6, 7, 3))
                image = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(image, size_hw[::-1])[..., ::-1])
    return root
