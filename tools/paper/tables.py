"""Rows of the paper's tables, with the config and overrides of each row, and the text of the page.

Rows without published values of their own use those of `cspdet.models.published`.
"""

from __future__ import annotations

from typing import NamedTuple

from cspdet.models.published import OTHER_SIZES, PUBLISHED, RESULTS, PublishedResult, Size

MEASURED: dict[str, str] = {}  # config name -> our accuracy on the same data; not measured yet


class PaperRow(NamedTuple):
    """A row of a published table.

    Attributes:
        label: Name of the network.
        config: File name of the config, without suffix.
        overrides: Config overrides of the row.
        published: Published values; None: those of the config in `PUBLISHED`.
        change: Published change of the BFLOPs relative to the baseline of the table, as a fraction.
        claim: Value that the paper states in its text.
    """

    label: str
    config: str
    overrides: tuple[str, ...] = ()
    published: PublishedResult | None = None
    change: float | None = None
    claim: str = ""

    @property
    def reference(self) -> PublishedResult:
        return self.published or PUBLISHED[self.config]


def _row_at_size(label: str, config: str, size: Size) -> PaperRow:
    """Return the row of a config at an input size of `OTHER_SIZES`."""
    (reference,) = (row for row in OTHER_SIZES[config] if row.size == size)
    return PaperRow(label, config, published=reference)


IMAGENET = (
    PaperRow("Darknet-53", "darknet53"),
    PaperRow("CSPDarknet-53", "cspdarknet53"),
    PaperRow("CSPDarknet-53-Elastic", "cspdarknet53_elastic"),
    PaperRow("ResNet-50", "resnet50"),
    PaperRow("CSPResNet-50", "cspresnet50"),
    PaperRow("CSPResNet-50-Elastic", "cspresnet50_elastic"),
    PaperRow("ResNeXt-50", "resnext50"),
    PaperRow("CSPResNeXt-50", "cspresnext50"),
    PaperRow("CSPResNeXt-50-Elastic", "cspresnext50_elastic"),
    PaperRow("PeleeNet", "peleenet"),
    PaperRow(
        "PeleeNet, swish", "peleenet", ("model.backbone.activation=swish",),
        PUBLISHED["peleenet"]._replace(top1=71.5, top5=90.7),
    ),
    PaperRow("CSPPeleeNet", "csppeleenet"),
    PaperRow("CSPPeleeNet, swish", "csppeleenet_swish"),
    PaperRow("CSPPeleeNet, swish, SE", "csppeleenet_swish_se"),
    PaperRow("MobileNet-v2", "mobilenetv2"),
    PaperRow("CSPMobileNet-v2", "cspmobilenetv2"),
    PaperRow("Darknet Ref.", "darknetref"),
    PaperRow("CSPDenseNet Ref.", "cspdenseref"),
    PaperRow("CSPPeleeNet Ref.", "csppeleeref"),
    PaperRow("CSPDenseNetb Ref.", "cspdensebref"),
    PaperRow("CSPPeleeNetb Ref.", "csppeleebref"),
    PaperRow("ResNet-10", "resnet10"),
    PaperRow("CSPResNet-10", "cspresnet10"),
)  # fmt: skip


def _ablation(fusion: str, gamma: float, change: float | None = None, claim: str = "") -> PaperRow:
    overrides = (f"model.backbone.fusion={fusion}", f"model.backbone.gamma={gamma}")
    return PaperRow(f"fusion {fusion}, gamma {gamma}", "csppeleenet", overrides, change=change, claim=claim)


ABLATION_BASELINE = PaperRow("PeleeNet", "peleenet")
ABLATION = (
    _ablation("first", 0.25),
    _ablation("first", 0.5, -0.26, "-1.5"),
    _ablation("first", 0.75),
    _ablation("last", 0.25, -0.11, "+0.1"),
    _ablation("last", 0.5, -0.21, "-0.1"),
    _ablation("last", 0.75),
    _ablation("both", 0.25, -0.03, "+0.8"),
    _ablation("both", 0.5, -0.13, "+0.2"),
    _ablation("both", 0.75),
)

FUSION = (
    PaperRow("PRN", "csppelee_prn"),
    PaperRow("PRN, swish", "csppelee_prn_swish"),
    PaperRow("PRN-3l", "csppelee_prn3l"),
    PaperRow("CEM (ThunderNet)", "csppelee_cem"),
    PaperRow("CEM (SAM)", "csppelee_cem_sam"),
    PaperRow("GFM", "csppelee_gfm"),
    PaperRow("EFM", "csppelee_efm"),
    PaperRow("EFM, GIoU", "csppelee_efm_giou"),
    PaperRow("EFM (SAM)", "csppelee_efm_sam"),
    PaperRow("EFM (SPP)", "csppelee_efm_spp"),
    _row_at_size("EFM (SAM)", "csppelee_efm_sam", (512, 512)),
)

LARGER = (
    PaperRow("CSPResNeXt50-PANet-SPP", "cspresnext50_panet_spp"),
    _row_at_size("CSPResNeXt50-PANet-SPP", "cspresnext50_panet_spp", (416, 416)),
    PaperRow("CSPResNeXt50-PANet-SPP, optimal", "cspresnext50_panet_spp_optimal"),
    _row_at_size("CSPResNeXt50-PANet-SPP, optimal", "cspresnext50_panet_spp_optimal", (608, 608)),
    PaperRow("CSPResNeXt50-PANet-SPP (SAM)", "cspresnext50_panet_spp_sam"),
    _row_at_size("CSPResNeXt50-PANet-SPP (SAM)", "cspresnext50_panet_spp_sam", (608, 608)),
    PaperRow("CSPDarknet53-PANet-SPP", "cspdarknet53_panet_spp"),
    PaperRow("CSPResNet50-PANet-SPP", "cspresnet50_panet_spp"),
    PaperRow("YOLOv3", "yolov3"),
)

SMALLER = (
    PaperRow("CSPPeleeNet Ref.-EFM (SAM)", "csppeleeref_efm_sam"),
    PaperRow("CSPDenseNet Ref.-EFM (SAM)", "cspdenseref_efm_sam"),
    PaperRow("CSPPeleeNet Ref.-PRN (3l)", "csppeleeref_prn3l"),
    PaperRow("CSPDenseNetb Ref.-PRN", "cspdensebref_prn"),
    PaperRow("YOLOv3-tiny", "yolov3_tiny"),
    PaperRow("YOLOv3-tiny-PRN", "yolov3_tiny_prn"),
)

PRN = tuple(
    row
    for label, config in (
        ("Pelee-YOLOv3", "pelee_yolov3"),
        ("Pelee-FPN", "pelee_fpn"),
        ("Pelee-PRN", "pelee_prn"),
        ("Pelee-PRN-3l", "pelee_prn3l"),
    )
    for row in (_row_at_size(label, config, (320, 320)), PaperRow(label, config))
) + (PaperRow("YOLOv3-tiny", "yolov3_tiny"), PaperRow("YOLOv3-tiny-PRN", "yolov3_tiny_prn"))


def _loss(
    label: str, config: str, loss: str, ap: tuple[float, float, float], size: int = 512, source: str = ""
) -> PaperRow:
    reference = PUBLISHED[config]
    reference = reference._replace(
        ap=ap[0], ap50=ap[1], ap75=ap[2], size=(size, size), source=source or reference.source
    )
    return PaperRow(label, config, (f"train.loss.box={loss}",), reference)


LOSSES = (
    _loss("MSE", "cspresnext50_panet_spp", "mse", (38.0, 60.0, 40.8)),
    _loss("GIoU", "cspresnext50_panet_spp", "giou", (39.4, 59.4, 42.5)),
    _loss("DIoU", "cspresnext50_panet_spp", "diou", (39.1, 58.8, 42.1)),
    _loss("CIoU", "cspresnext50_panet_spp", "ciou", (39.6, 59.2, 42.6)),
    _loss("optimal, MSE", "cspresnext50_panet_spp_optimal", "mse", (40.3, 64.0, 43.1), source=RESULTS),
    _loss("optimal, MSE", "cspresnext50_panet_spp_optimal", "mse", (41.2, 65.0, 44.4), 608, RESULTS),
    _loss("optimal, GIoU", "cspresnext50_panet_spp_optimal", "giou", (42.4, 64.4, 45.9), source=RESULTS),
    _loss("optimal, GIoU", "cspresnext50_panet_spp_optimal", "giou", (43.1, 65.4, 47.0), 608, RESULTS),
    _loss("optimal, CIoU", "cspresnext50_panet_spp_optimal", "ciou", (42.4, 64.4, 45.9), source=RESULTS),
    _loss("optimal, CIoU", "cspresnext50_panet_spp_optimal", "ciou", (43.2, 65.4, 47.0), 608, RESULTS),
)


def _nms(nms_iou: float, ap: tuple[float, float, float], loss: str = "mse") -> PaperRow:
    reference = PUBLISHED["cspresnext50_panet_spp"]._replace(ap=ap[0], ap50=ap[1], ap75=ap[2])
    overrides = (f"train.loss.box={loss}", f"eval.nms_iou={nms_iou}")
    return PaperRow(f"{nms_iou:.2f}, {loss}", "cspresnext50_panet_spp", overrides, reference)


NMS = (
    _nms(0.45, (38.0, 60.0, 40.8)),
    _nms(0.50, (38.2, 60.2, 41.1)),
    _nms(0.55, (38.4, 60.1, 41.3)),
    _nms(0.60, (38.5, 60.0, 41.7)),
    _nms(0.65, (38.6, 59.7, 42.1)),
    _nms(0.70, (38.5, 59.2, 42.4)),
    _nms(0.45, (39.4, 59.4, 42.5), "giou"),
    _nms(0.50, (39.7, 59.5, 42.7), "giou"),
    _nms(0.55, (39.8, 59.5, 43.0), "giou"),
    _nms(0.60, (40.0, 59.3, 43.4), "giou"),
    _nms(0.65, (40.1, 59.0, 43.8), "giou"),
    _nms(0.70, (40.1, 58.6, 44.2), "giou"),
)

# The first row of each group is its reference.
BOTTLENECKS = (
    (PaperRow("PeleeNet", "peleenet"), PaperRow("CSPPeleeNet", "csppeleenet", claim="-44%")),
    (
        PaperRow("Pelee-YOLOv3", "pelee_yolov3"),
        PaperRow("Pelee-PRN", "pelee_prn"),
        PaperRow("CSPPeleeNet-EFM", "csppelee_efm", claim="-80%"),
        PaperRow("CSPPeleeNet-EFM (SAM)", "csppelee_efm_sam"),
    ),
)

MEMORY_ACCESS = (PaperRow("ResNeXt-50", "resnext50"), PaperRow("CSPResNeXt-50", "cspresnext50"))

# Published rows without a config: network, published values, reason.
NOT_BUILT = (
    ("CSPDenseNet-201-Elastic", "20.17M, 7.13 BFLOPs, top-1 77.9, top-5 94.0", "no cfg was released"),
    ("PeleeNet, swish, SE", "2.81M, 1.017 BFLOPs, top-1 72.1, top-5 91.0", "a baseline without a cfg"),
    ("SparsePeleeNet", "2.39M, 0.904 BFLOPs, top-1 69.6, top-5 89.3", "a baseline without a cfg"),
    ("CSPResNeXt50-PANet with RFB, RFBN, BiFPN or grouped convolutions", "AP 36.8 to 42.7", "no cfg was released"),
)

PREAMBLE = """# Tables of the paper

<!-- Written by `python tools/paper_page.py`; do not edit. -->

This page has every table of the CSPNet paper ([arXiv 1911.11929](https://arxiv.org/abs/1911.11929)) and of its official
release: the published values, and the values counted for the networks of this repository. One command generates the
page, and a test checks it:

    python tools/paper_page.py

`cspdet info configs/csppelee_efm.yaml --layers` prints one network with its source and all layers, `--plot` plots them.

Columns:

- **Network**: *exact* networks follow the authors' released cfg layer by layer. A *reconstruction* is derived from the
  published values, because no cfg was released; it is not the authors' network.
- **Weights**, in millions: convolutions and linear layers, without biases and normalization. `cspdet info` also prints
  all parameters.
- **BFLOPs**, counted as in Darknet: 2 for a multiply-add of a convolution or linear layer, and the size of the window
  for each output of a pooling. Shortcuts, upsampling, concatenation and global averages are not counted.
- **Stored values**, in millions, as the tables of the partial residual networks count parameters: weights, biases, and
  4 for each normalized channel. It is the size of a `.weights` file, divided by 4.
- **Published** accuracy was measured by the authors: ImageNet validation, COCO test-dev. **Ours** is empty until it is
  measured on the same data; our measurements are in [results.md](../reports/results.md).
- Detectors have 80 classes. The rows of the paper's Table 2 are quoted from notes that agree with the paper's text.
"""
ABLATION_TEXT = """\
Changes are relative to PeleeNet as counted here, {baseline:.4f} BFLOPs. gamma is the fraction of the channels in the
shortcut past a dense block. Published: Table 1 of the paper where its text has values, fusion first from Figure 4."""
BOTTLENECK_TEXT = """\
The largest layer in BFLOPs, relative to the first network of each group. According to the paper, it is 44% smaller
in CSPPeleeNet than in PeleeNet, and 80% smaller in CSPPeleeNet-EFM than in PeleeNet-YOLO, in whose head it is. The
largest layers of the EFM cost as much as the largest layers of the backbone: `cspdet info --layers` lists them."""
MEMORY_ACCESS_TEXT = """\
Input and output elements, in millions, at 256x256. The paper cites HarDNet's CIO, a sum over convolutions, which is
`memory_traffic` of `cspdet info --json`. The two published values include all poolings, the last linear layer and
no shortcut or route. They are reproduced at 256x256, not at 224x224."""
