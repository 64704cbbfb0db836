"""Every section and key of a cfg that is known here: those that are read, and those that have no say in the result.

A key is `read` where the network depends on it; `fixed` where it would change the network and only the value that
changes nothing is supported; a hint where only Darknet's own training, display or memory depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """The keys of one kind of section."""

    read: frozenset[str]
    fixed: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the spellings that change nothing
    hints: frozenset[str] = frozenset()

    @property
    def known(self) -> frozenset[str]:
        return self.read | self.hints | frozenset(self.fixed)


OFF = ("0", "0.0")

# Darknet reads these in every layer. `dontload` and `dontloadscales` say what of the .weights file is a layer's.
_EVERY_LAYER = "clip dont_update burnin_update learning_rate onlyforward stopbackward train_only_bn dynamic_minibatch"
_LOADING = frozenset({"dontload", "dontloadscales"})


def _kind(read: str, hints: str = "", **fixed: tuple[str, ...]) -> Kind:
    return Kind(frozenset(read.split()) | _LOADING, fixed, frozenset(f"{hints} {_EVERY_LAYER}".split()))


KINDS: dict[str, Kind] = {
    "net": _kind(
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
    "convolutional": _kind(
        "filters size stride stride_x stride_y dilation pad padding groups batch_normalize cbn activation",
        "dot angle grad_centr stream wait_stream assisted_excitation",
        antialiasing=OFF, binary=OFF, xnor=OFF, bin_output=OFF, flipped=OFF, sway=OFF, rotate=OFF, stretch=OFF,
        stretch_sway=OFF, coordconv=OFF, reverse=OFF, share_index=("-1000000000",),
    ),
    "maxpool": _kind("size stride stride_x stride_y padding maxpool_depth out_channels", antialiasing=OFF,
                     maxpool_zero_nonmax=OFF),
    "local_avgpool": _kind("size stride stride_x stride_y padding"),
    "avgpool": _kind(""),
    "upsample": _kind("stride scale"),
    "route": _kind("layers groups group_id", "stream wait_stream"),
    "shortcut": _kind("from activation", weights_type=("none",), weights_normalization=("none",)),
    "sam": _kind("from activation"),
    "scale_channels": _kind("from activation scale_wh"),
    "reorg": _kind("stride", reverse=OFF),
    "reorg3d": _kind("stride", reverse=OFF),
    "connected": _kind("output activation batch_normalize"),
    "dropout": _kind("probability", "dropblock dropblock_size_rel dropblock_size_abs"),
    "softmax": _kind("temperature", "spatial noloss", groups=("1",)),
    "cost": _kind("", "type scale ratio"),
    "yolo": _kind(
        "classes num mask anchors scale_x_y new_coords",
        """max show_details max_delta counters_per_class label_smooth_eps objectness_smooth iou_normalizer
        obj_normalizer cls_normalizer uc_normalizer delta_normalizer iou_loss iou_thresh_kind beta_nms beta1 nms_kind
        jitter resize focal_loss ignore_thresh truth_thresh iou_thresh random track_history_size sim_thresh
        dets_for_track dets_for_show track_ciou_norm embedding_layer map""",
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
