"""What a recipe says about training, in Darknet's keys, so that an exported cfg can be trained there.

Darknet counts steps where we count epochs, and divides its sums by the pictures of a step. A recipe that divides by the
positives has other weights and another learning rate; for these the authors' later ones stand in.
"""

from __future__ import annotations

from cspdet.models.head import Anchors
from cspdet.recipe import ClassifierRecipe, Recipe, TrainConfig
from cspdet.training.losses.yolo import LossConfig

COCO_CLASSES, COCO_PICTURES = 80, 118_287
USUAL_STEPS, LEAST_STEPS = 2000, 6000  # a class, and at all: AlexeyAB's advice for data of one's own
# csresnext50-panet-spp-original-optimal.cfg
AUTHORS_RATE, AUTHORS_BOX_WEIGHT = 0.00261, 0.07

Options = dict[str, object]


def net_options(recipe: Recipe | ClassifierRecipe, size_hw: tuple[int, int], classes: int) -> Options:
    """The [net] section."""
    size: Options = {"width": size_hw[1], "height": size_hw[0], "channels": 3}
    letterbox: Options = {"letter_box": 1} if recipe.input.resize == "letterbox" else {}
    if isinstance(recipe, ClassifierRecipe):  # the training of the paper's classifiers
        paper: Options = {"learning_rate": 0.1, "policy": "poly", "power": 4, "max_batches": 800_000}
        return {"batch": 128, "subdivisions": 4, **size, **letterbox, "momentum": 0.9, "decay": 0.0005, **paper}
    train, augment = recipe.train, recipe.train.augment
    return {
        "batch": train.nominal_batch_size,
        "subdivisions": max(1, train.nominal_batch_size // train.step_pictures),
        **size, **letterbox,
        "momentum": train.optimizer.momentum, "decay": train.optimizer.weight_decay,
        "saturation": augment.saturation, "exposure": augment.exposure, "hue": augment.hue,
        "flip": int(augment.flip_horizontal > 0), **({"mosaic": 1} if augment.mosaic else {}),
        **_schedule(train, classes),
    }  # fmt: skip


def yolo_options(recipe: Recipe, anchors: Anchors, classes: int, level: int) -> Options:
    """The [yolo] section of a scale, 0 the finest; every one lists the anchors of all."""
    train = recipe.train
    wh = anchors.wh.tolist()
    per_level = len(wh[level])
    mask = range(level * per_level, (level + 1) * per_level)
    augment, loss, match = train.augment, train.loss, train.assign.match_iou
    return {
        "mask": ",".join(str(i) for i in mask),
        "anchors": ", ".join(f"{w:g},{h:g}" for scale in wh for w, h in scale),
        "classes": classes, "num": len(wh) * per_level,
        "scale_x_y": f"{float(anchors.scale_x_y[level]):g}", **({"new_coords": 1} if anchors.sizes == "square" else {}),
        "jitter": f"{min(0.9, max(1 - augment.scale[0], augment.scale[1] - 1)):g}",
        "random": int(train.multi_scale is not None),
        "ignore_thresh": train.assign.ignore_iou, "truth_thresh": 1,
        **({"iou_thresh": match} if match is not None else {}), **_loss(loss),
    }  # fmt: skip


def _schedule(train: TrainConfig, classes: int) -> Options:
    optimizer, schedule = train.optimizer, train.schedule
    if classes == COCO_CLASSES:
        steps = train.epochs * COCO_PICTURES // train.nominal_batch_size
    else:
        steps = max(LEAST_STEPS, USUAL_STEPS * classes)
    rate = optimizer.learning_rate if _as_darknet(train.loss) else AUTHORS_RATE
    burn_in = min(schedule.burn_in_steps, round(schedule.burn_in_share * steps))
    options: Options = {"learning_rate": rate, "burn_in": burn_in, "power": schedule.burn_in_power,
                        "max_batches": steps}  # fmt: skip
    if schedule.name == "step":
        at = ",".join(str(round(share * steps)) for share in schedule.steps)
        scales = ",".join(f"{schedule.factor:g}" for _ in schedule.steps)
        return {**options, "policy": "steps", "steps": at, "scales": scales}
    if schedule.name == "cosine":
        return {**options, "policy": "sgdr", "sgdr_cycle": steps, "learning_rate_min": f"{rate * schedule.final:g}"}
    if schedule.name == "polynomial":
        return {**options, "policy": "poly", "power": schedule.power}  # Darknet has one power for burn-in and decay
    return {**options, "policy": "constant"}


def _loss(loss: LossConfig) -> Options:
    same = _as_darknet(loss)
    return {
        "iou_loss": loss.box, "iou_normalizer": loss.box_weight if same else AUTHORS_BOX_WEIGHT,
        "obj_normalizer": loss.objectness_weight if same else 1.0, "cls_normalizer": loss.class_weight if same else 1.0,
        **({"label_smooth_eps": loss.label_smoothing} if loss.label_smoothing else {}),
    }  # fmt: skip


def _as_darknet(loss: LossConfig) -> bool:
    return loss.normalizer == "images"
