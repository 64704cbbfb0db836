"""Track ids by ByteTrack (Zhang et al. 2022) of the package `trackers`, which is not a dependency.

It asks for a build of OpenCV that would overwrite the headless one, so it is installed without what it asks for,
beside supervision; it runs with any build. A name for each object that stays the same from frame to frame is all
that is taken from it: boxes, scores and classes remain the detector's.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

from cspdet.errors import ConfigError
from cspdet.inference.interop import to_supervision
from cspdet.structures import Detections

if TYPE_CHECKING:
    import supervision

HOW_TO_INSTALL = "pip install 'supervision>=0.31' rich && pip install --no-deps trackers"


class _Updated(Protocol):
    """What this module needs of a tracker of `trackers`."""

    def update(self, detections: supervision.Detections) -> supervision.Detections: ...


class Tracker:
    """Gives the detections of consecutive frames their ids. Classes are tracked apart from each other."""

    def __init__(self, frame_rate: float, min_score: float):
        """frame_rate in frames a second; a new track needs a score of `min_score` or more at least.

        Raises:
            ConfigError: the packages are not installed.
        """
        check_installed()
        self._frame_rate, self._min_score = frame_rate, min_score
        self._trackers: dict[int, _Updated] = {}
        self._numbers: dict[tuple[int, int], int] = {}  # class and the id in its tracker to ours, from 1

    def update(self, found: Detections) -> list[int | None]:
        """The id of each detection of the next frame; None for those of no track yet: they need a second frame."""
        ids: list[int | None] = [None] * len(found)
        classes = set(found.class_id.tolist())
        for class_id in sorted(classes | self._trackers.keys()):
            if class_id not in self._trackers:
                self._trackers[class_id] = self._new()
            places = (found.class_id == class_id).nonzero()[:, 0]
            part = to_supervision(Detections(found.box_xyxy[places], found.score[places], found.class_id[places]))
            part.data["place"] = places.numpy()
            tracked = self._trackers[class_id].update(part)
            if not len(tracked) or tracked.tracker_id is None:
                continue
            for place, number in zip(tracked.data["place"].tolist(), tracked.tracker_id.tolist(), strict=True):
                if number >= 0:
                    ids[place] = self._numbers.setdefault((class_id, number), len(self._numbers) + 1)
        return ids

    def _new(self) -> _Updated:
        from trackers import ByteTrackTracker

        # The package's own thresholds are for scores of other detectors: here what was asked for can be tracked.
        high = min(0.5, (self._min_score + 1) / 2)
        tracker: _Updated = ByteTrackTracker(
            frame_rate=self._frame_rate, track_activation_threshold=high, high_conf_det_threshold=high
        )
        return tracker


def check_installed() -> None:
    """Raise ConfigError unless the packages for `--track` can be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what these packages will drop one day
            import supervision  # noqa: F401
            import trackers  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--track: {error.name or error} is not installed; install it with: {HOW_TO_INSTALL}"
        ) from None
