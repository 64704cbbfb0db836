"""The known section types of a cfg and their keys.

`read_keys` are used to build the network. `fixed_values` are keys that affect the network but are supported only with
the listed values. `ignored_keys` affect only Darknet's training, display or memory use.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SectionSchema:
    """Known keys of one section type."""

    read_keys: frozenset[str]
    fixed_values: dict[str, tuple[str, ...]] = field(default_factory=dict)  # supported values of a key
    ignored_keys: frozenset[str] = frozenset()

    @property
    def known_keys(self) -> frozenset[str]:
        """All known keys: read, fixed and ignored keys."""
        return self.read_keys | self.ignored_keys | frozenset(self.fixed_values)


OFF_VALUES = ("0", "0.0")
HEAD_SECTIONS = ("yolo", "region")  # output levels of a detector; [region] is that of YOLOv2

# Darknet reads these in every layer. `dontload` and `dontloadscales` exclude values from the .weights file.
_COMMON_IGNORED_KEYS = (
    "clip dont_update burnin_update learning_rate onlyforward stopbackward train_only_bn dynamic_minibatch"
)
_LOADING_KEYS = frozenset({"dontload", "dontloadscales"})


def _schema(read_keys: str, ignored_keys: str = "", **fixed_values: tuple[str, ...]) -> SectionSchema:
    return SectionSchema(
        frozenset(read_keys.split()) | _LOADING_KEYS,
        fixed_values,
        frozenset(f"{ignored_keys} {_COMMON_IGNORED_KEYS}".split()),
    )


SECTION_SCHEMAS: dict[str, SectionSchema] = {
    "net": _schema(
        "width height channels letter_box",
        """batch subdivisions max_batches learning_rate learning_rate_min sgdr_cycle sgdr_mult momentum decay track
        augment_speed sequential_subdivisions try_fix_nan weights_reject_freq equidistant_point ema_alpha
        badlabels_rejection_percentage num_sigmas_reject_badlabels use_cuda_graph loss_scale dynamic_minibatch
        optimized_memory workspace_size_limit_MB adam B1 B2 eps max_crop min_crop flip blur gaussian_noise mixup cutmix
        mosaic mosaic_bound contrastive contrastive_jit_flip contrastive_color unsupervised label_smooth_eps resize_step
        attention adversarial_lr max_chart_loss angle aspect saturation exposure hue power policy burn_in step scale
        steps scales seq_scales gamma show_receptive_field inputs""",
        time_steps=("1",),
    ),
    "convolutional": _schema(
        "filters size stride stride_x stride_y dilation pad padding groups batch_normalize cbn activation",
        "dot angle grad_centr stream wait_stream assisted_excitation",
        antialiasing=OFF_VALUES, binary=OFF_VALUES, xnor=OFF_VALUES, bin_output=OFF_VALUES, flipped=OFF_VALUES,
        sway=OFF_VALUES, rotate=OFF_VALUES, stretch=OFF_VALUES, stretch_sway=OFF_VALUES, coordconv=OFF_VALUES,
        reverse=OFF_VALUES, share_index=("-1000000000",),
    ),
    "maxpool": _schema("size stride stride_x stride_y padding maxpool_depth out_channels", antialiasing=OFF_VALUES,
                     maxpool_zero_nonmax=OFF_VALUES),
    "local_avgpool": _schema("size stride stride_x stride_y padding"),
    "avgpool": _schema(""),
    "upsample": _schema("stride scale"),
    "route": _schema("layers groups group_id", "stream wait_stream"),
    "shortcut": _schema("from activation", weights_type=("none",), weights_normalization=("none",)),
    "sam": _schema("from activation"),
    "scale_channels": _schema("from activation scale_wh"),
    "reorg": _schema("stride", reverse=OFF_VALUES),
    "reorg3d": _schema("stride", reverse=OFF_VALUES),
    "connected": _schema("output activation batch_normalize"),
    "dropout": _schema("probability", "dropblock dropblock_size_rel dropblock_size_abs"),
    "softmax": _schema("temperature", "spatial noloss", groups=("1",)),
    "cost": _schema("", "type scale ratio"),
    "yolo": _schema(
        "classes num mask anchors scale_x_y new_coords",
        """max show_details max_delta counters_per_class label_smooth_eps objectness_smooth iou_normalizer
        obj_normalizer cls_normalizer uc_normalizer delta_normalizer iou_loss iou_thresh_kind beta_nms beta1 nms_kind
        jitter resize focal_loss ignore_thresh truth_thresh iou_thresh random track_history_size sim_thresh
        dets_for_track dets_for_show track_ciou_norm embedding_layer map""",
    ),
    "region": _schema(
        "classes num anchors softmax tree",
        """max jitter rescore classfix bias_match thresh random focal_loss object_scale noobject_scale class_scale
        coord_scale mask_scale map""",
        coords=("4",), background=OFF_VALUES, absolute=("1",), log=OFF_VALUES, sqrt=OFF_VALUES,
    ),
}  # fmt: skip

ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "max": "maxpool",
    "local_avg": "local_avgpool",
    "avg": "avgpool",
    "conn": "connected",
    "soft": "softmax",
}
