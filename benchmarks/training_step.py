"""Worker process of `train_speed.py`: runs training steps and times their parts.

Reads one JSON request per line on stdin and answers on stdout: {"do": "load", "variant": ...} first, then
{"do": "steps", "count": N} and {"do": "memory"}. The order of the parts is that of `cspdet.training.trainer.Trainer`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cspdet.benchmark.ipc import Message, reserve_stdio, serve
from cspdet.benchmark.opencv_worker import peak_mib
from cspdet.benchmark.worker import cpu_name
from cspdet.checkpoints.building import build_classifier, build_detector, with_num_classes
from cspdet.config.loader import load_config
from cspdet.datasets.classification.image_folder import load_image_folder
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.device import Precision, autocast, resolve_precision, select_device, to_float_tensor
from cspdet.errors import ConfigError
from cspdet.models.bundle import check_size
from cspdet.models.profile import profile
from cspdet.recipe import ClassificationRecipe, infer_task, load_recipe
from cspdet.structures import Categories
from cspdet.training.cpu_fast_paths import disable_malloc_trim
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.state import TrainingState
from cspdet.training.tasks.base import TrainingData
from cspdet.training.tasks.classification import ClassificationTask
from cspdet.training.tasks.detection import DetectionTask

PARTS = ("data", "to_input", "forward", "loss", "backward", "optimizer", "ema")


@dataclass(frozen=True)
class Variant:
    """Settings of a row."""

    config: str
    data: str  # a descriptor, or for a classifier a folder of train/CLASS/*
    device: str
    precision: str
    batch: int | None  # None: the config's own
    size: tuple[int, int] | None  # height, width; None: the config's own
    workers: int  # loader processes
    compiled: bool
    channels_last: bool
    reuse_memory: bool  # on a CPU: see cspdet.training.cpu_fast_paths
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """Result of a variant."""

    size_hw: tuple[int, int]
    batch: int
    precision: str
    bflops: float  # 10^9 operations of a forward pass of one image, as `cspdet info` counts
    parameters: int
    images: int
    threads: int
    device: str
    torch: str


class TrainingStep:
    """Network, data, loss, optimizer and EMA of a config; `run` makes a step and times its parts."""

    def __init__(self, variant: Variant):
        self.device = select_device(variant.device)
        if variant.reuse_memory and self.device.type == "cpu":
            disable_malloc_trim()
        self.task, model, self.loaded = _task(variant, self.device)
        self.train = self.task.train_config
        self.precision: Precision = resolve_precision(self.train.precision, self.device)
        self.state: TrainingState[Any] = TrainingState(model, self.train, self.device, self.precision)
        self.layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        for network in (self.state.model, self.state.ema_or_model):
            network.to(memory_format=self.layout)
        self.forward = torch.compile(self.state.model) if variant.compiled else self.state.model
        self.state.train()
        self.world = DistributedContext()
        self.batches = self._endless()

    def run(self, *, parts: bool = True) -> dict[str, float]:
        """Milliseconds of each of PARTS, or without `parts` of the whole `step`: on CUDA, timing the parts makes the
        device wait for Python after each of them. Also those of the CPU, over all threads, as `cpu`.
        """
        watch = _Watch(self.device, parts=parts)
        state, optimizer = self.state, self.state.optimizer
        batch = next(self.batches)
        watch.lap("data")
        images = to_float_tensor(batch.images, self.device).contiguous(memory_format=self.layout)
        watch.lap("to_input")
        with autocast(self.device, self.precision):
            output = self.forward(images)
        watch.lap("forward")
        size_hw = (images.shape[2], images.shape[3])
        losses = self.task.losses(state.model, output, batch, size_hw, self.world.all_reduce_sum)
        total = losses.total
        watch.lap("loss")
        state.scaler.scale(total).backward()
        watch.lap("backward")
        state.scaler.unscale_(optimizer)
        longest = self.train.optimizer.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), longest, foreach=True)
        # The trainer also waits for the device here, to read the losses.
        *_, length = torch.stack((*(part.detach() for part in losses), norm)).tolist()
        if math.isfinite(length) or state.scaler.is_enabled():
            state.scaler.step(optimizer)
        state.scaler.update()
        optimizer.zero_grad()
        watch.lap("optimizer")
        if state.ema is not None:
            state.ema.update(state.model)
        watch.lap("ema")
        return watch.stop()

    def _endless(self) -> Iterator[Any]:
        """Repeat the first epoch, without its smaller last batch."""
        while True:
            yield from (batch for batch in self.task.loader.epoch(0) if len(batch.images) >= self.loaded.batch)


class _Watch:
    """Times the parts of one step, or only the whole."""

    def __init__(self, device: torch.device, *, parts: bool):
        self.device, self.parts = device, parts
        self.found: dict[str, float] = {}
        self.used = time.process_time()
        self.started = self.last = self._now()

    def lap(self, part: str) -> None:
        if self.parts:
            now = self._now()
            self.found[part], self.last = 1000 * (now - self.last), now

    def stop(self) -> dict[str, float]:
        found = self.found if self.parts else {"step": 1000 * (self._now() - self.started)}
        return {**found, "cpu": 1000 * (time.process_time() - self.used)}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _task(variant: Variant, device: torch.device) -> tuple[Any, Any, Loaded]:
    """Build the config's task and its network with random weights; also return their properties."""
    words = list(variant.overrides)
    if variant.batch is not None:
        words += [f"train.batch_size={variant.batch}", f"train.nominal_batch_size={variant.batch}"]
    if variant.size is not None:
        words.append(f"input.size=[{variant.size[0]},{variant.size[1]}]")
    words += [f"train.workers={variant.workers}", f"train.precision={variant.precision}", "train.cache=ram"]
    torch.manual_seed(0)
    task: DetectionTask | ClassificationTask
    if infer_task(Path(variant.config)) == "classification":
        images = load_image_folder(variant.data, "train")
        loaded = load_config(variant.config, ClassificationRecipe, words)
        classifier = with_num_classes(loaded, len(images.classes))
        model: Any = build_classifier(classifier, variant.config, pretrained=False)
        categories = Categories(images.classes, tuple(range(len(images.classes))))
        data = TrainingData(images, None, categories, Path(variant.data), variant.data)
        task = ClassificationTask(classifier.input, classifier.train, classifier.eval, data, device)
    else:
        recipe = load_recipe(variant.config, words)
        coco = load_coco(load_dataset_config(variant.data).split("train"), "train")
        model = build_detector(recipe, len(coco.classes), variant.config, pretrained=False)
        check_size(recipe.input.size, model, variant.config)
        coco_data = TrainingData(coco, None, coco.classes, Path(variant.data), variant.data)
        task = DetectionTask(recipe.input, recipe.train, recipe.eval, coco_data, device)
    batch_size = task.train_config.batch_size
    if not isinstance(batch_size, int):
        raise ConfigError(f"{variant.config}: train.batch_size is {batch_size!r}; say which with --batch")
    size, batch = task.input.size, min(batch_size, len(task.data.train))
    cost = profile(copy.deepcopy(model), size)  # counting moves a network to the meta device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    precision = resolve_precision(task.train_config.precision, device)
    about = Loaded(
        size, batch, precision, cost.bflops, cost.parameters, len(task.data.train), torch.get_num_threads(), name,
        str(torch.__version__),
    )  # fmt: skip
    return task, model, about


class Server:
    """Answers the parent's requests for one variant."""

    def __init__(self) -> None:
        self.step: TrainingStep | None = None

    def answer(self, question: Message) -> Message:
        if question["do"] == "load":
            values = question["variant"]
            size = values["size"] and tuple(values["size"])
            self.step = TrainingStep(Variant(**{**values, "size": size, "overrides": tuple(values["overrides"])}))
            return {"about": asdict(self.step.loaded)}
        assert self.step is not None, "a variant is loaded first"
        if question["do"] == "memory":
            device = self.step.device
            used = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib()
            return {"peak_mib": used}
        return {"steps": [self.step.run(parts=question["parts"]) for _ in range(question["count"])]}


def main() -> None:
    """Answer requests until the parent closes stdin."""
    questions, answers = reserve_stdio()
    serve(Server().answer, questions, answers)


if __name__ == "__main__":
    main()
