"""The model of a benchmark row, loaded in its engine, with the functions that are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from cspdet.benchmark.rows import BenchmarkSpec
from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.model_profile import profile_model
from cspdet.config.input import InputConfig
from cspdet.datasets.classification.crops import ImageCrop, short_side
from cspdet.datasets.image_io import read_image
from cspdet.errors import ConfigError, did_you_mean
from cspdet.inference.config import EngineConfig
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import is_exported
from cspdet.inference.engines.factory import build_engine, build_network_engine
from cspdet.inference.metadata import ModelMetadata, build_metadata
from cspdet.inference.predictor import Predictor
from cspdet.io.folders import CHECKPOINT_SUFFIXES
from cspdet.models.config import PostprocessConfig
from cspdet.models.profile import profile
from cspdet.recipe import infer_task

TORCHVISION_PREFIX = "torchvision:"
TORCHVISION_SIZE = (224, 224)
SYNTHETIC_IMAGE_HW = (480, 640)
CROP_RATIO = 0.887
NMS_IOU, MAX_DETECTIONS = 0.6, 100


@dataclass(frozen=True)
class BenchmarkTarget:
    """A loaded model with its timed functions.

    Attributes:
        name: Name of the model.
        engine: The engine that runs the network.
        forward: Runs the network on a batch that is already in memory.
        end_to_end: Runs preprocessing, network and post-processing on decoded images; None if this is not supported.
    """

    name: str
    engine: Engine
    forward: Callable[[], object]
    end_to_end: Callable[[], object] | None


def load_target(spec: BenchmarkSpec) -> BenchmarkTarget:
    """Load the model of a row in its engine.

    Raises:
        UserError: The model or engine does not exist, or the engine does not support the precision or size.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
        cv2.setNumThreads(spec.threads)
    engine = _engine(spec)
    images = torch.rand(spec.batch, 3, *engine.size_hw, generator=torch.Generator().manual_seed(0))
    images = images.to(engine.device)
    image = synthetic_image() if spec.image is None else read_image(Path(spec.image))
    return BenchmarkTarget(engine.metadata.name, engine, lambda: engine(images), _make_end_to_end(engine, image, spec))


def synthetic_image() -> np.ndarray:
    """Create a (480, 640, 3) uint8 RGB image of random colors, the same in every call."""
    blots = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(blots, SYNTHETIC_IMAGE_HW[::-1], interpolation=cv2.INTER_CUBIC))


def _engine(spec: BenchmarkSpec) -> Engine:
    config = EngineConfig(spec.backend, spec.precision, spec.device, spec.size_hw, spec.threads)
    config.check()
    if spec.model.startswith(TORCHVISION_PREFIX):
        network, metadata = torchvision_classifier(spec.model, spec.size_hw)
    elif not is_exported(spec.model, spec.backend) and _is_classifier_model(spec):
        bundle = load_model(
            spec.model, weights=spec.weights, overrides=_with_size(spec), task="classification"
        )  # fmt: skip
        network, metadata = bundle.torch_network, build_metadata(bundle)
    else:
        bundle = load_model(
            spec.model, weights=spec.weights, overrides=spec.overrides, task="detection", backend=spec.backend
        )  # fmt: skip
        return build_engine(bundle, config)
    return build_network_engine(network, metadata, config)


def _is_classifier_model(spec: BenchmarkSpec) -> bool:
    path = Path(spec.model)
    if path.suffix in (".yaml", ".yml"):
        return path.is_file() and infer_task(path) == "classification"
    return path.suffix in CHECKPOINT_SUFFIXES and path.is_file() and load_model(path).task == "classification"


def _with_size(spec: BenchmarkSpec) -> tuple[str, ...]:
    if spec.size_hw is None:
        return spec.overrides
    return (*spec.overrides, f"input.size=[{spec.size_hw[0]},{spec.size_hw[1]}]")


def torchvision_classifier(model: str, size_hw: tuple[int, int] | None) -> tuple[nn.Module, ModelMetadata]:
    """Build a torchvision classifier, such as `torchvision:resnet50`, with random weights.

    Returns:
        The network in evaluation mode, and metadata with the input size `size_hw`, or 224x224 if it is None.

    Raises:
        ConfigError: torchvision has no classifier of this name.
    """
    name = model.removeprefix(TORCHVISION_PREFIX)
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ConfigError(f"{model}: torchvision has no classifier {name!r}{did_you_mean(name, names)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # The initialization of these two is slow.
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, weights=None, **options).eval()
    metadata = ModelMetadata(
        name=name, task="classification", class_names=tuple(f"class {i + 1}" for i in range(1000)),
        category_ids=tuple(range(1, 1001)), input=InputConfig(size=size_hw or TORCHVISION_SIZE), outputs="logits",
        strides=(1,),
    )  # fmt: skip
    return network, metadata


def _make_end_to_end(engine: Engine, image: np.ndarray, spec: BenchmarkSpec) -> Callable[[], object] | None:
    """Create the function that is timed end to end: from decoded images to detections or class probabilities."""
    if engine.metadata.task == "detection":
        postprocess = PostprocessConfig(min_score=spec.min_score, nms_iou=NMS_IOU, max_detections=MAX_DETECTIONS)
        predictor = Predictor(engine, postprocess)
        return lambda: predictor.predict([image] * spec.batch)
    crop = ImageCrop(engine.size_hw, short_side(engine.size_hw, CROP_RATIO))

    def classify() -> Tensor:
        views = np.concatenate([crop(image, "the image") for _ in range(spec.batch)])
        return engine(torch.from_numpy(views))[0].softmax(dim=1)

    return classify


def count_bflops(spec: BenchmarkSpec, size_hw: tuple[int, int]) -> float | None:
    """Compute the BFLOPs of the network for one image; return None for an exported file."""
    if spec.model.startswith(TORCHVISION_PREFIX):
        network, _ = torchvision_classifier(spec.model, size_hw)
        return profile(network, size_hw).bflops
    if is_exported(spec.model, spec.backend):
        return None
    return profile_model(Path(spec.model), spec.overrides, size_hw).cost.bflops
