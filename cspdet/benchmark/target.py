"""A model that is about to be timed: its engine, its input, and what a pass is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from cspdet.benchmark.rows import RowSpec
from cspdet.checkpoints.loading import LoadedClassifier, load_any_model, load_classifier_model
from cspdet.checkpoints.model_profile import is_classifier
from cspdet.datasets.classification.crops import ImageCrop, short_side
from cspdet.datasets.image_io import read_picture
from cspdet.device import pick_device
from cspdet.errors import ConfigError, nearest
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import is_exported
from cspdet.inference.engines.factory import engine_of_network, load_engine
from cspdet.inference.metadata import Facts, facts_of
from cspdet.inference.predictor import Predictor
from cspdet.recipe import InputConfig

TORCHVISION = "torchvision:"
TORCHVISION_SIZE = (224, 224)
PICTURE_HW = (480, 640)
CROP_SHARE = 0.887
MAX_IOU, MAX_DETECTIONS = 0.6, 100


@dataclass(frozen=True)
class Subject:
    """`forward` is a pass of a batch that is ready in memory; `end_to_end` one from decoded pictures to results."""

    name: str
    engine: Engine
    forward: Callable[[], object]
    end_to_end: Callable[[], object] | None


def load_subject(spec: RowSpec) -> Subject:
    """The model of a row in its engine.

    Raises:
        UserError: no such model, engine, precision or size, or one that does not go with another.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
        cv2.setNumThreads(spec.threads)
    engine = _engine(spec)
    images = torch.rand(spec.batch, 3, *engine.size_hw, generator=torch.Generator().manual_seed(0))
    images = images.to(engine.device)
    picture = made_picture() if spec.picture is None else read_picture(Path(spec.picture))
    return Subject(engine.facts.name, engine, lambda: engine(images), _end_to_end(engine, picture, spec))


def made_picture() -> np.ndarray:
    """(480, 640, 3) uint8 RGB of colored blots, the same every time."""
    blots = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(blots, PICTURE_HW[::-1], interpolation=cv2.INTER_CUBIC))


def _engine(spec: RowSpec) -> Engine:
    device = pick_device(spec.device)
    if spec.model.startswith(TORCHVISION):
        network, facts = torchvision_classifier(spec.model, spec.size_hw)
    elif not is_exported(spec.model) and _holds_classifier(spec):
        loaded = load_classifier_model(spec.model, weights=spec.weights, overrides=_with_size(spec))
        network, facts = loaded.model, facts_of(loaded)
    else:
        return load_engine(
            spec.model, weights=spec.weights, overrides=spec.overrides, backend=spec.backend,
            precision=spec.precision, device=device, size=spec.size_hw, threads=spec.threads,
        )  # fmt: skip
    return engine_of_network(
        network, facts, device, backend=spec.backend, precision=spec.precision, threads=spec.threads
    )


def _holds_classifier(spec: RowSpec) -> bool:
    path = Path(spec.model)
    if path.suffix in (".yaml", ".yml"):
        return path.is_file() and is_classifier(path)
    return path.suffix == ".pt" and path.is_file() and isinstance(load_any_model(path), LoadedClassifier)


def _with_size(spec: RowSpec) -> tuple[str, ...]:
    if spec.size_hw is None:
        return spec.overrides
    return (*spec.overrides, f"input.size=[{spec.size_hw[0]},{spec.size_hw[1]}]")


def torchvision_classifier(model: str, size_hw: tuple[int, int] | None) -> tuple[nn.Module, Facts]:
    """`torchvision:resnet50` and the like with random weights, to compare speeds with.

    Raises:
        ConfigError: torchvision has no such classifier.
    """
    name = model.removeprefix(TORCHVISION)
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ConfigError(f"{model}: torchvision has no classifier {name!r}{nearest(name, names)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # these two draw their first weights by a slow method unless told
        more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, weights=None, **more).eval()
    facts = Facts(
        name=name, task="classifier", class_names=tuple(f"class {i + 1}" for i in range(1000)),
        category_ids=tuple(range(1, 1001)), input=InputConfig(size=size_hw or TORCHVISION_SIZE), outputs="logits",
        strides=(1,),
    )  # fmt: skip
    return network, facts


def _end_to_end(engine: Engine, picture: np.ndarray, spec: RowSpec) -> Callable[[], object] | None:
    """From decoded pictures to detections in their pixels, or to class probabilities."""
    if engine.facts.task == "detector":
        limits = {"max_iou": MAX_IOU, "max_detections": MAX_DETECTIONS}
        predictor = Predictor(engine, engine.device, min_score=spec.min_score, **limits)  # type: ignore[arg-type]
        return lambda: predictor.predict([picture] * spec.batch)
    crop = ImageCrop(engine.size_hw, short_side(engine.size_hw, CROP_SHARE))

    def classify() -> Tensor:
        views = np.concatenate([crop(picture, "the picture") for _ in range(spec.batch)])
        return engine(torch.from_numpy(views))[0].softmax(dim=1)

    return classify
