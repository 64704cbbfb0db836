"""Training hyperparameters as Darknet cfg keys, so that an exported cfg can be trained with Darknet.

Darknet counts steps instead of epochs, and divides loss sums by the number of images in a step. If a recipe divides by
the number of positives instead, its loss weights and learning rate have another scale. They are replaced by those of
csresnext50-panet-spp-original-optimal.cfg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cspdet.models.bundle import ModelBundle
from cspdet.models.head import Anchors

if TYPE_CHECKING:
    from cspdet.recipe import DetectionRecipe
    from cspdet.training.config import TrainConfig
    from cspdet.training.losses.config import LossConfigBase, YoloLossConfig

COCO_NUM_CLASSES, COCO_NUM_IMAGES = 80, 118_287
STEPS_PER_CLASS, MIN_STEPS = 2000, 6000  # AlexeyAB's recommendation for custom datasets
REFERENCE_LEARNING_RATE, REFERENCE_BOX_WEIGHT = 0.00261, 0.07

Options = dict[str, object]


def net_options(bundle: ModelBundle, size_hw: tuple[int, int]) -> Options:
    """Return the options of the [net] section: input size, optimizer, augmentation and schedule.

    Args:
        bundle: The model, whose `config` is its recipe.
        size_hw: Height and width of the input in pixels.
    """
    size: Options = {"width": size_hw[1], "height": size_hw[0], "channels": 3}
    letterbox: Options = {"letter_box": 1} if bundle.config.input.resize == "letterbox" else {}
    if bundle.task == "classification":  # the training of the paper's classifiers
        paper: Options = {"learning_rate": 0.1, "policy": "poly", "power": 4, "max_batches": 800_000}
        return {"batch": 128, "subdivisions": 4, **size, **letterbox, "momentum": 0.9, "decay": 0.0005, **paper}
    train = cast("DetectionRecipe", bundle.config).train
    augment = train.augment
    return {
        "batch": train.nominal_batch_size,
        "subdivisions": max(1, train.nominal_batch_size // train.max_batch_size),
        **size, **letterbox,
        "momentum": train.optimizer.momentum, "decay": train.optimizer.weight_decay,
        "saturation": augment.saturation, "exposure": augment.exposure, "hue": augment.hue,
        "flip": int(augment.flip_horizontal > 0), **({"mosaic": 1} if augment.mosaic else {}),
        **_schedule_options(train, len(bundle.categories)),
    }  # fmt: skip


def yolo_options(train: TrainConfig, anchors: Anchors, num_classes: int, level: int) -> Options:
    """Return the options of the [yolo] section of one level.

    Args:
        train: The training config.
        anchors: Anchors of the head; the section lists the anchors of all levels.
        num_classes: Number of classes.
        level: Index of the level (0: finest).
    """
    wh = anchors.wh.tolist()
    anchors_per_level = len(wh[level])
    mask = range(level * anchors_per_level, (level + 1) * anchors_per_level)
    augment, loss, match = train.augment, train.loss, getattr(train.assigner, "match_iou", None)
    return {
        "mask": ",".join(str(i) for i in mask),
        "anchors": ", ".join(f"{w:g},{h:g}" for scale in wh for w, h in scale),
        "classes": num_classes, "num": len(wh) * anchors_per_level,
        "scale_x_y": f"{float(anchors.scale_x_y[level]):g}",
        **({"new_coords": 1} if anchors.wh_decoding == "square" else {}),
        "jitter": f"{min(0.9, max(1 - augment.scale[0], augment.scale[1] - 1)):g}",
        "random": int(train.multi_scale is not None),
        "ignore_thresh": train.assigner.ignore_iou, "truth_thresh": 1,
        **({"iou_thresh": match} if match is not None else {}), **_loss_options(loss),
    }  # fmt: skip


def _schedule_options(train: TrainConfig, num_classes: int) -> Options:
    optimizer, schedule = train.optimizer, train.schedule
    if num_classes == COCO_NUM_CLASSES:
        steps = train.epochs * COCO_NUM_IMAGES // train.nominal_batch_size
    else:
        steps = max(MIN_STEPS, STEPS_PER_CLASS * num_classes)
    learning_rate = optimizer.learning_rate if _is_darknet_loss(train.loss) else REFERENCE_LEARNING_RATE
    warmup_steps = min(schedule.warmup_steps, round(schedule.warmup_max_fraction * steps))
    options: Options = {"learning_rate": learning_rate, "burn_in": warmup_steps, "power": schedule.warmup_power,
                        "max_batches": steps}  # fmt: skip
    if schedule.name == "step":
        step_positions = ",".join(str(round(fraction * steps)) for fraction in schedule.steps)
        scales = ",".join(f"{schedule.factor:g}" for _ in schedule.steps)
        return {**options, "policy": "steps", "steps": step_positions, "scales": scales}
    if schedule.name == "cosine":
        return {
            **options,
            "policy": "sgdr",
            "sgdr_cycle": steps,
            "learning_rate_min": f"{learning_rate * schedule.final_lr_ratio:g}",
        }
    if schedule.name == "polynomial":
        return {**options, "policy": "poly", "power": schedule.power}  # Darknet has one power for warm-up and decay
    return {**options, "policy": "constant"}


def _loss_options(loss: LossConfigBase) -> Options:
    """Return the cfg keys of the YOLO loss; for another loss, return no keys."""
    if loss.name != "yolo":
        return {}
    loss = cast("YoloLossConfig", loss)
    is_darknet_loss = _is_darknet_loss(loss)
    return {
        "iou_loss": loss.box, "iou_normalizer": loss.box_weight if is_darknet_loss else REFERENCE_BOX_WEIGHT,
        "obj_normalizer": loss.objectness_weight if is_darknet_loss else 1.0,
        "cls_normalizer": loss.class_weight if is_darknet_loss else 1.0,
        **({"label_smooth_eps": loss.label_smoothing} if loss.label_smoothing else {}),
    }  # fmt: skip


def _is_darknet_loss(loss: LossConfigBase) -> bool:
    return getattr(loss, "normalizer", None) == "images"
