"""Results published by the CSPNet authors, by config name, for comparison with the results of cspdet.

Only the weights of convolutions and linear layers are counted, and BFLOPs are counted as in Darknet. A value that was
not published is None, or computed from the authors' cfg. `source` names the cfg of computed values.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Size = tuple[int, int]  # height, width

PAPER = "CSPNet paper (arXiv 1911.11929)"
README = "CSPNet README"
RESULTS = "CSPNet repository, coco/results.md"
PRN_RESULTS = "PRN repository, Results.md"


class PublishedResult(NamedTuple):
    """One row of a published table."""

    conv_weights: float | None  # published in millions
    bflops: float | None
    size: Size  # input size of BFLOPs and accuracy
    source: str
    fidelity: Literal["exact", "reconstruction"]  # exact: from a released cfg
    note: str = ""  # remarks, such as a misprint
    corrected_bflops: float | None = None  # the correct value if `bflops` is a misprint
    stored_values: float | None = None  # in a .weights file: weights, biases, 4 per channel with batch normalization
    top1: float | None = None  # ImageNet, percent
    top5: float | None = None
    ap: float | None = None  # COCO test-dev, percent
    ap50: float | None = None
    ap75: float | None = None
    fps: str = ""  # with the device
    cio: float | None = None  # input and output values of convolutions and poolings

    @property
    def expected_bflops(self) -> float | None:
        """The published BFLOPs, or the corrected value if the published value is a misprint."""
        return self.bflops if self.corrected_bflops is None else self.corrected_bflops


AP = tuple[float | None, float | None, float | None]  # AP, AP50, AP75
NO_AP: AP = (None, None, None)


def _imagenet(
    weights: float,
    bflops: float,
    accuracy: tuple[float, float],
    size: int = 256,
    *,
    cfg: bool = True,
    note: str = "",
    cio: float | None = None,
) -> PublishedResult:
    """Build a row of the ImageNet tables in the README of CSPNet, with top-1 and top-5 accuracy."""
    return PublishedResult(
        weights * 1e6, bflops, (size, size), f"{README}, ImageNet", "exact" if cfg else "reconstruction", note,
        top1=accuracy[0], top5=accuracy[1], cio=cio,
    )  # fmt: skip


def _table2(neck: str, bflops: float, fps: int, ap: AP, note: str = "") -> PublishedResult:
    """Build a row of table 2 in the CSPNet paper: feature fusion, with CSPPeleeNet at 416x416."""
    return _detector(bflops, 416, f"{PAPER}, table 2, {neck}", ap, fps=f"{fps} (GTX 1080 Ti)", note=note)


def _prn_table(
    stored_values: float, bflops: float, ap: AP, size: int = 416, *, note: str = "", corrected: float | None = None
) -> PublishedResult:
    """Build a row of the table of partial residual networks. Its parameter count is that of a .weights file."""
    return PublishedResult(
        None, bflops, (size, size), PRN_RESULTS, "reconstruction", note, corrected_bflops=corrected,
        stored_values=stored_values * 1e6, ap=ap[0], ap50=ap[1], ap75=ap[2],
    )  # fmt: skip


def _from_cfg(
    cfg: str, weights: float, bflops: float, size: int, ap: AP = NO_AP, *, source: str = "", fps: str = ""
) -> PublishedResult:
    """Build a row for a detector with a published cfg, but no published cost: the cost is computed from the cfg."""
    where = f"{cfg}.cfg, counted" + (f"; accuracy: {source}" if source else "")
    return PublishedResult(
        weights * 1e6, bflops, (size, size), where, "exact", ap=ap[0], ap50=ap[1], ap75=ap[2], fps=fps
    )


def _detector(
    bflops: float | None, size: int, source: str, ap: AP = NO_AP, *, fps: str = "", note: str = ""
) -> PublishedResult:
    """Build a row for a detector whose cfg was not published."""
    return PublishedResult(
        None, bflops, (size, size), source, "reconstruction", note, ap=ap[0], ap50=ap[1], ap75=ap[2], fps=fps
    )


def _elastic(millions: float) -> str:
    return f"no weights are published: {millions:.2f}M is counted from the cfg"


LOW_CONFIDENCE = "fitted to the two published figures, with little other evidence"
NO_BFLOPS = "no BFLOPs are published"
PANET_COCO = f"{README}, GPU real-time models"
CPU_COCO = f"{PAPER}, tables 4 and 5"

CLASSIFIERS = {
    "darknet53": _imagenet(41.57, 18.57, (77.2, 93.8)),
    "cspdarknet53": _imagenet(27.61, 13.07, (77.2, 93.6)),
    "cspdarknet53_elastic": _imagenet(19.05, 7.74, (76.1, 93.3), note=_elastic(19.05)),
    "resnet50": _imagenet(
        22.73, 9.74, (75.8, 92.9), note="10.00 by resnet50.cfg, which classifies at 8x8 before the average pooling"
    ),
    "cspresnet50": _imagenet(21.57, 8.97, (76.6, 93.3)),
    "cspresnet50_elastic": _imagenet(29.80, 9.36, (76.8, 93.5), note=_elastic(29.80)),
    "resnext50": _imagenet(22.19, 10.11, (77.8, 94.2), cio=34.4e6),
    "cspresnext50": _imagenet(20.50, 7.93, (77.9, 94.0), cio=32.6e6),
    "cspresnext50_elastic": _imagenet(16.86, 5.45, (77.2, 93.8), note=_elastic(16.86)),
    "peleenet": _imagenet(2.79, 1.017, (70.7, 90.0), 224, cfg=False),
    "csppeleenet": _imagenet(2.83, 0.888, (70.9, 90.2), 224, cfg=False),
    "csppeleenet_swish": _imagenet(2.83, 0.888, (71.7, 90.8), 224, cfg=False),
    "csppeleenet_swish_se": _imagenet(2.85, 0.888, (72.4, 91.0), 224, cfg=False),
    "mobilenetv2": _imagenet(3.47, 0.858, (67.0, 87.7), 224),
    "cspmobilenetv2": _imagenet(2.51, 0.764, (67.7, 88.3), 224),
    "darknetref": _imagenet(7.31, 0.96, (61.1, 83.0)),
    "cspdenseref": _imagenet(3.48, 0.886, (65.7, 86.6), cfg=False, note=LOW_CONFIDENCE),
    "csppeleeref": _imagenet(4.10, 1.103, (68.9, 88.7), cfg=False, note=LOW_CONFIDENCE),
    "cspdensebref": _imagenet(1.38, 0.631, (64.2, 85.5), cfg=False, note=LOW_CONFIDENCE),
    "csppeleebref": _imagenet(2.01, 0.897, (67.8, 88.1), cfg=False, note=LOW_CONFIDENCE),
    "resnet10": _imagenet(5.24, 2.273, (63.5, 85.0)),
    "cspresnet10": _imagenet(2.73, 1.905, (65.3, 86.5), cfg=False),
}

DETECTORS = {
    "csppelee_prn": _table2("PRN", 3.590, 169, (23.1, 44.5, 22.0)),
    "csppelee_prn_swish": _detector(
        3.590, 416, f"{README}, activation function", (24.1, 45.8, 23.3), note="BFLOPs as published for leaky ReLU"
    ),
    "csppelee_prn3l": _table2("PRN-3l", 4.586, 151, (23.7, 46.0, 22.2)),
    "csppelee_cem": _table2("CEM", 4.049, 148, (23.8, 45.4, 22.6)),
    "csppelee_cem_sam": _table2("CEM (SAM)", 4.165, 144, (24.1, 46.0, 23.1)),
    "csppelee_gfm": _table2("GFM", 4.605, 134, (24.3, 46.2, 23.3)),
    "csppelee_efm": _table2("EFM", 4.868, 132, (26.4, 48.6, 26.3)),
    "csppelee_efm_giou": _table2("EFM, GIoU loss", 4.868, 132, (27.1, 45.9, 28.2)),
    "csppelee_efm_sam": _table2("EFM (SAM)", 5.068, 129, (26.8, 49.0, 26.7)),
    "csppelee_efm_spp": _table2(
        "EFM (SPP)", 4.863, 128, (26.2, 48.5, 25.7), "0.005 less than EFM: the position of the SPP is not published"
    ),
    "pelee_yolov3": _prn_table(3.91, 5.06, (23.6, 45.3, 22.5)),
    "pelee_fpn": _prn_table(3.75, 4.84, (23.9, 45.7, 22.7)),
    "pelee_prn": _prn_table(3.16, 4.04, (23.3, 45.0, 22.0)),
    "pelee_prn3l": _prn_table(3.36, 5.03, (24.1, 46.3, 22.9)),
    "csppeleeref_efm_sam": _detector(
        None, 320, CPU_COCO, (None, 44.6, None), fps="41 (Jetson TX2)",
        note=f"{NO_BFLOPS}; AP50 is 4.6 above PRN (3l)'s 40.0 by section 4.5, the size is assumed",
    ),
    "cspdenseref_efm_sam": _detector(
        None, 320, f"{PAPER}, introduction", (None, 42.0, None), fps="49 (Jetson TX2)",
        note=f"{NO_BFLOPS}; the introduction gives 42% AP50 at 49 fps without naming the network; the size is assumed",
    ),
    "csppeleeref_prn3l": _detector(
        None, 320, CPU_COCO, (19.4, 40.0, 17.0), fps="52 (i9-9900K, OpenCV), 38 (Jetson TX2)", note=NO_BFLOPS
    ),
    "cspdensebref_prn": _detector(
        None, 320, CPU_COCO, (15.3, 34.2, 12.0), fps="102 (i9-9900K, OpenCV), 400 (GTX 1080 Ti)", note=NO_BFLOPS
    ),
    "cspresnext50_panet_spp": _from_cfg(
        "csresnext50-panet-spp", 56.85, 71.33, 512, (38.0, 60.0, 40.8), source=PANET_COCO, fps="44 (GTX 1080 Ti)"
    )._replace(note="the paper's table 4 has 38.4 / 60.6 / 41.6, with a tuned NMS"),
    "cspresnext50_panet_spp_optimal": _from_cfg(
        "csresnext50-panet-spp-original-optimal", 56.85, 71.33, 512, (42.4, 64.4, 45.9), source=RESULTS,
        fps="44 (GTX 1080 Ti)",
    ),
    "cspresnext50_panet_spp_sam": _detector(None, 512, RESULTS, (42.7, 64.6, 46.3), note=NO_BFLOPS),
    "cspresnet50_panet_spp": _from_cfg(
        "csresnet50-panet-spp", 58.26, 74.69, 512, (38.0, 60.5, 40.7), source=PANET_COCO, fps="55 (GTX 1080 Ti)"
    ),
    "cspdarknet53_panet_spp": _from_cfg(
        "csdarknet53-panet-spp", 64.30, 91.08, 512, (38.7, 61.3, 41.7), source=PANET_COCO, fps="51 (GTX 1080 Ti)"
    )._replace(note="42.4 / 64.5 / 46.0 with the optimal recipe"),
    "yolov3": _from_cfg("yolov3", 61.90, 65.86, 416),
    "yolov3_tiny": _from_cfg(
        "yolov3-tiny", 8.85, 5.571, 416, (None, 33.1, None), source=f"{README}, CPU real-time models",
        fps="54 (i9-9900K, OpenCV)",
    )._replace(stored_values=8.86e6),
    "yolov3_tiny_prn": _from_cfg(
        "yolov3-tiny-prn", 4.93, 3.467, 416, (None, 33.1, None), source=f"{README}, CPU real-time models",
        fps="71 (i9-9900K, OpenCV)",
    )._replace(stored_values=4.95e6, note="4.95M values are published; the cfg counts 4.94M"),
}  # fmt: skip

PUBLISHED: dict[str, PublishedResult] = CLASSIFIERS | DETECTORS

OTHER_SIZES: dict[str, tuple[PublishedResult, ...]] = {
    "pelee_yolov3": (_prn_table(3.91, 2.99, (21.2, 41.4, 19.9), 320),),
    "pelee_fpn": (_prn_table(3.75, 2.86, (21.3, 41.4, 20.0), 320),),
    "pelee_prn": (_prn_table(3.16, 2.39, (20.9, 40.9, 19.4), 320),),
    "pelee_prn3l": (
        _prn_table(
            3.36, 3.98, (21.2, 42.5, 19.8), 320, corrected=2.98, note="3.98 is published, a misprint of 2.98"
        ),
    ),
    "csppelee_efm_sam": (
        _detector(
            None, 512, f"{PAPER}, introduction", (None, 50.0, None), fps="109 (GTX 1080 Ti)", note="about 50% AP50"
        ),
    ),
    "cspresnext50_panet_spp": (_from_cfg("csresnext50-panet-spp", 56.85, 47.09, 416),),
    "cspresnext50_panet_spp_optimal": (
        _from_cfg(
            "csresnext50-panet-spp-original-optimal", 56.85, 100.59, 608, (43.2, 65.4, 47.0), source=RESULTS,
            fps="35 (GTX 1080 Ti)",
        ),
    ),
    "cspresnext50_panet_spp_sam": (_detector(None, 608, RESULTS, (43.2, 65.4, 47.1), note=NO_BFLOPS),),
}  # fmt: skip


def find_published_result(name: str, size_hw: Size | None = None) -> PublishedResult | None:
    """Return the published result of a config at an input size, or None if the config has no result.

    If the config has results only at other sizes, return its entry in `PUBLISHED`.
    """
    main = PUBLISHED.get(name)
    others = OTHER_SIZES.get(name, ())
    return next((row for row in (main, *others) if row is not None and row.size == size_hw), main)
