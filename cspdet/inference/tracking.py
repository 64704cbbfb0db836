"""Tracking with ByteTrack (Zhang et al. 2022) from the optional package `trackers`.

`trackers` works with any build of OpenCV, but depends on one that would overwrite the headless build. Therefore
`trackers` is installed without its dependencies, together with supervision. Only the track ids of the tracker are used;
boxes, scores and classes remain those that the detector returned.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

from cspdet.errors import ConfigError, describe_import_error
from cspdet.inference.interop import to_supervision
from cspdet.structures import Detections

if TYPE_CHECKING:
    import supervision

INSTALL_COMMAND = "pip install 'supervision>=0.31' rich && pip install --no-deps trackers"


class _SupportsUpdate(Protocol):
    """The part of the interface of the package `trackers` that is used."""

    def update(self, detections: supervision.Detections) -> supervision.Detections: ...


class Tracker:
    """Assigns track ids to the detections of consecutive frames; each class is tracked separately.

    Args:
        frame_rate: Frames per second.
        min_score: Minimum score of the first detection of a track.

    Raises:
        ConfigError: The packages are not installed.
    """

    def __init__(self, frame_rate: float, min_score: float):
        check_installed()
        self._frame_rate, self._min_score = frame_rate, min_score
        self._trackers: dict[int, _SupportsUpdate] = {}
        self._track_ids: dict[tuple[int, int], int] = {}  # (class, id in its tracker) -> track id, from 1

    def update(self, detections: Detections) -> list[int | None]:
        """Return the track id of each detection of the next frame; None for a detection without a track.

        A track begins with the second detection of an object.
        """
        ids: list[int | None] = [None] * len(detections)
        classes = set(detections.class_id.tolist())
        for class_id in sorted(classes | self._trackers.keys()):
            if class_id not in self._trackers:
                self._trackers[class_id] = self._create_tracker()
            indices = (detections.class_id == class_id).nonzero()[:, 0]
            part = to_supervision(
                Detections(detections.box_xyxy[indices], detections.score[indices], detections.class_id[indices])
            )
            part.data["index"] = indices.numpy()
            tracked = self._trackers[class_id].update(part)
            if not len(tracked) or tracked.tracker_id is None:
                continue
            for index, tracker_id in zip(tracked.data["index"].tolist(), tracked.tracker_id.tolist(), strict=True):
                if tracker_id >= 0:
                    ids[index] = self._track_ids.setdefault((class_id, tracker_id), len(self._track_ids) + 1)
        return ids

    def _create_tracker(self) -> _SupportsUpdate:
        from trackers import ByteTrackTracker

        # The default thresholds are for other detectors; with these, every detection above min_score can be tracked.
        high = min(0.5, (self._min_score + 1) / 2)
        tracker: _SupportsUpdate = ByteTrackTracker(
            frame_rate=self._frame_rate, track_activation_threshold=high, high_conf_det_threshold=high
        )
        return tracker


def check_installed() -> None:
    """Raise ConfigError if the packages that `--track` needs cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings inside these packages
            import supervision  # noqa: F401
            import trackers  # noqa: F401
    except ImportError as error:
        reason = describe_import_error((error.name or "supervision or trackers").partition(".")[0], error)
        raise ConfigError(f"--track: {reason}; install it with: {INSTALL_COMMAND}") from None
