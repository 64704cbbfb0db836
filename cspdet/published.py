"""What the authors printed, by config name: to set beside what we count."""

from __future__ import annotations

from typing import NamedTuple

PAPER = "CSPNet paper (arXiv 1911.11929)"
README = "CSPNet README, ImageNet table"


class Published(NamedTuple):
    """One row of a published table; None where nothing was printed."""

    conv_weights: float | None  # convolution and linear weights, as printed in millions times 1e6
    bflops: float
    size: tuple[int, int]  # height, width that the BFLOPs are for
    source: str
    network: (
        str  # `reconstruction`: found from the published numbers, no cfg was released; `exact`: by the released cfg
    )


PUBLISHED = {
    "csppelee_efm": Published(None, 4.868, (416, 416), f"{PAPER}, table 2, EFM", "reconstruction"),
    "csppelee_efm_sam": Published(None, 5.068, (416, 416), f"{PAPER}, table 2, EFM (SAM)", "reconstruction"),
    "csppeleenet": Published(2.83e6, 0.888, (224, 224), README, "reconstruction"),
}
