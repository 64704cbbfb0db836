"""What every config must count: one row a config, a YAML without a row fails.

Where the source is a cfg, the figures are that cfg's own, counted from its text and not by this package. The other rows
were counted by this package: they hold the network still, and `within` says how near the published figures they are.
"""

from __future__ import annotations

from typing import NamedTuple


class Golden(NamedTuple):
    """One config at its published input size, detectors with 80 classes."""

    side: int  # the input is a square
    conv_weights: int  # of convolutions and linear layers
    bflops: float  # to four digits: 2 a multiply-add, and the windows of the poolings
    within: float  # of the published figures, as a share; 0: to the printed digit
    source: str


RECONSTRUCTION = "reconstruction"
DESIGN = "a design of ours of about the published cost"
PANET = "csresnext50-panet-spp.cfg"

DETECTORS = {
    "csppelee_efm": Golden(416, 4_244_128, 4.8373, 0.01, RECONSTRUCTION),
    "csppelee_efm_giou": Golden(416, 4_244_128, 4.8373, 0.01, RECONSTRUCTION),
    "csppelee_efm_sam": Golden(416, 4_391_584, 5.0366, 0.01, RECONSTRUCTION),
    "csppelee_efm_spp": Golden(416, 4_215_968, 4.8318, 0.03, DESIGN),
    "csppelee_prn": Golden(416, 3_175_136, 3.6078, 0.01, RECONSTRUCTION),
    "csppelee_prn_swish": Golden(416, 3_175_136, 3.6078, 0.01, RECONSTRUCTION),
    "csppelee_prn3l": Golden(416, 3_371_616, 4.6039, 0.01, RECONSTRUCTION),
    "csppelee_cem": Golden(416, 3_318_432, 4.0203, 0.03, DESIGN),
    "csppelee_cem_sam": Golden(416, 3_367_584, 4.1366, 0.03, DESIGN),
    "csppelee_gfm": Golden(416, 3_678_880, 4.6045, 0.03, DESIGN),
    "pelee_yolov3": Golden(416, 3_889_376, 5.0573, 0.001, RECONSTRUCTION),
    "pelee_fpn": Golden(416, 3_725_536, 4.8358, 0.001, RECONSTRUCTION),
    "pelee_prn": Golden(416, 3_135_712, 4.0383, 0.001, RECONSTRUCTION),
    "pelee_prn3l": Golden(416, 3_332_192, 5.0345, 0.001, RECONSTRUCTION),
    "csppeleeref_efm_sam": Golden(320, 5_848_880, 2.8318, 0.03, DESIGN),
    "cspdenseref_efm_sam": Golden(320, 5_076_464, 2.5000, 0.03, DESIGN),
    "csppeleeref_prn3l": Golden(320, 4_869_872, 2.6281, 0.03, DESIGN),
    "cspdensebref_prn": Golden(320, 1_860_784, 1.2925, 0.03, DESIGN),
    "cspresnext50_panet_spp": Golden(512, 56_853_440, 71.3313, 0, PANET),
    "cspresnext50_panet_spp_optimal": Golden(512, 56_853_440, 71.3313, 0, "csresnext50-panet-spp-original-optimal.cfg"),
    "cspresnext50_panet_spp_sam": Golden(512, 58_229_696, 72.9420, 0, f"{PANET} and three reconstructed SAM"),
    "cspresnet50_panet_spp": Golden(512, 58_256_832, 74.6868, 0, f"csresnet50.cfg and {PANET}"),
    "cspdarknet53_panet_spp": Golden(512, 64_296_032, 91.0823, 0, f"csdarknet53.cfg and {PANET}"),
    "yolov3": Golden(416, 61_895_776, 65.8641, 0, "yolov3.cfg"),
    "yolov3_tiny": Golden(416, 8_845_488, 5.5707, 0, "yolov3-tiny.cfg"),
    "yolov3_tiny_prn": Golden(416, 4_930_096, 3.4666, 0, "yolov3-tiny-prn.cfg"),
}
CLASSIFIERS = {
    "peleenet": Golden(224, 2_791_520, 1.0166, 0.01, RECONSTRUCTION),
    "csppeleenet": Golden(224, 2_830_944, 0.8918, 0.01, RECONSTRUCTION),
    "csppeleenet_swish": Golden(224, 2_830_944, 0.8918, 0.01, RECONSTRUCTION),
    "csppeleenet_swish_se": Golden(224, 2_852_448, 0.8918, 0.01, RECONSTRUCTION),
    "cspdenseref": Golden(256, 3_413_936, 0.8964, 0.03, DESIGN),
    "csppeleeref": Golden(256, 4_186_352, 1.1088, 0.03, DESIGN),
    "cspdensebref": Golden(256, 1_373_744, 0.6312, 0.03, DESIGN),
    "csppeleebref": Golden(256, 2_020_304, 0.9021, 0.03, DESIGN),
    "darknetref": Golden(256, 7_314_352, 0.9667, 0.01, "darknet.cfg"),  # 0.96 is printed, not 0.97
    "resnet10": Golden(256, 5_240_000, 2.2733, 0, "resnet10.cfg"),
    "cspresnet10": Golden(256, 2_725_056, 1.9046, 0.01, RECONSTRUCTION),
    "resnet50": Golden(256, 22_734_016, 9.7422, 0, "resnet50.cfg, but for its average before the classes"),
    "resnext50": Golden(256, 22_190_784, 10.1113, 0, "resnext50.cfg"),
    "cspresnet50": Golden(256, 21_566_656, 8.9684, 0, "csresnet50.cfg"),
    "cspresnet50_elastic": Golden(256, 29_795_520, 9.3643, 0, "csresnet50-elastic.cfg"),
    "cspresnext50": Golden(256, 20_499_136, 7.9303, 0, "csresnext50.cfg"),
    "cspresnext50_elastic": Golden(256, 16_857_792, 5.4494, 0, "csresnext50-elastic.cfg"),
    "darknet53": Golden(256, 41_573_216, 18.5702, 0, "darknet53.cfg"),
    "cspdarknet53": Golden(256, 27_605_856, 13.0673, 0, "csdarknet53.cfg"),
    "cspdarknet53_elastic": Golden(256, 19_045_216, 7.7422, 0, "csdarknet53-elastic.cfg"),
    "mobilenetv2": Golden(224, 3_470_784, 0.8582, 0, "mobilenet-v2.cfg"),
    "cspmobilenetv2": Golden(224, 2_513_400, 0.7636, 0, "csmobilenet-v2.cfg"),
}
GOLDEN = DETECTORS | CLASSIFIERS
