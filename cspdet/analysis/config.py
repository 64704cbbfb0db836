"""Options of the error analysis. This module does not import NumPy, because the command line reads defaults from it."""

from __future__ import annotations

from dataclasses import dataclass

from cspdet.errors import ConfigError

BACKGROUND_IOU = 0.1  # a detection with a lower IoU with every box is background (Bolya et al. 2020, section 2.2)


@dataclass(frozen=True)
class AnalysisConfig:
    """Options of the analysis: thresholds, resampling, and number of images on the page.

    Attributes:
        min_iou: Minimum IoU of a detection and the box it matches, for everything except the COCO metrics.
        min_score: Score threshold of the confusion matrix and of the images on the page; None: the threshold with the
            highest F1.
        resamples: Number of bootstrap resamples of the images for the comparison of runs.
        seed: Seed of the resampling.
        gallery: Number of images in each gallery of the page.
    """

    min_iou: float = 0.5
    min_score: float | None = None
    resamples: int = 1000
    seed: int = 0
    gallery: int = 24

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: Values are invalid. The message lists all of them, with the names of the flags of `cspdet
                analyze`.
        """
        problems = []
        if not BACKGROUND_IOU < self.min_iou <= 1:
            problems.append(f"--min-iou: expected more than {BACKGROUND_IOU:g} and at most 1, found {self.min_iou:g}")
        if self.min_score is not None and self.min_score != self.min_score:
            problems.append("--min-score: expected a number, found nan")
        if self.resamples < 1:
            problems.append(f"--resamples: expected 1 or more, found {self.resamples}")
        if self.seed < 0:
            problems.append(f"--seed: expected 0 or more, found {self.seed}")
        if self.gallery < 0:
            problems.append(f"--gallery: expected 0 or more, found {self.gallery}")
        if problems:
            raise ConfigError(*problems)
