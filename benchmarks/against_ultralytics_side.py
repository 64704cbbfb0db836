"""Worker process of `data_pipeline.py` and `against_ultralytics.py`: runs in an environment that has ultralytics.

Never imported by cspdet: ultralytics is AGPL, so it runs in its own process, and nothing of it is copied here. Reads
one JSON request per line on stdin and writes one JSON answer per line on stdout:

  {"do": "loader", "data": FILE, "size": S, "batch": B}  build its training loader with its default augmentation
  {"do": "batches", "seconds": T}                        time the loader
  {"do": "cost", "model": NAME, ...}                     count the operations and parameters of a network
  {"do": "train", ...}                                   train from its YAML, predict the val split
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before the import of ultralytics: nothing is fetched, reported or installed, and no optional package changes its
# default augmentation (albumentations would add transforms).
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false", WANDB_MODE="disabled")
sys.modules["albumentations"] = None  # type: ignore[assignment]

import cv2  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

Message = dict[str, Any]


class Server:
    """Answers the parent's requests."""

    def __init__(self) -> None:
        self.batches: Iterator[Any] = iter(())

    def answer(self, question: Message) -> Message:
        what = question.pop("do")
        if what == "loader":
            self.batches = endless(**question)
            next(self.batches)
            return versions()
        if what == "batches":
            return timed(self.batches, question["seconds"])
        if what == "cost":
            return cost(**question)
        assert what == "train", what
        return train(**question)


def versions() -> Message:
    import ultralytics

    return {"ultralytics": ultralytics.__version__, "torch": str(torch.__version__), "opencv": cv2.__version__}


def endless(data: str, size: int, batch: int) -> Iterator[Any]:
    """Its training batches, images in RAM, made in this process."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    single_threaded()
    described = check_det_dataset(data)
    config = get_cfg(overrides={"imgsz": size, "batch": batch, "cache": "ram", "workers": 0, "mode": "train"})
    images = build_yolo_dataset(config, described["train"], batch, described, mode="train", stride=32)
    loader = build_dataloader(images, batch, workers=0, shuffle=True, drop_last=False, device="cpu")
    while True:
        yield from iter(loader)


def single_threaded() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def timed(batches: Iterator[Any], seconds: float) -> Message:
    """Images, and for each batch its wall and CPU seconds."""
    wall, processor, images = [], [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not wall:
        started, used = time.perf_counter(), time.process_time()
        batch = next(batches)
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
        images.append(len(batch["img"]))
    return {"wall": wall, "cpu": processor, "images": images}


def cost(model: str, data: str, size: int) -> Message:
    """Operations of a forward pass of one image and numbers to learn, of the network for the classes of `data`.

    Convolutions and linear layers at 2 per multiply-add and poolings at k*k*c*h*w, counted during a forward pass, like
    `cspdet.models.profile`; also ultralytics' own count, which alone includes attention's matrix products.
    """
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import get_flops

    network = DetectionModel(model, nc=check_det_dataset(data)["nc"], verbose=False).eval()
    return {
        "bflops": count(network, size),
        "own_gflops": get_flops(network, size),
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def count(network: nn.Module, size: int) -> float:
    """10^9 operations of a forward pass of one (3, size, size) image."""
    found: list[float] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        height, width = output.shape[-2:]
        if isinstance(module, nn.Conv2d):
            found.append(2 * module.weight.numel() * height * width)
        elif isinstance(module, nn.MaxPool2d):
            found.append(int(module.kernel_size) ** 2 * output.shape[1] * height * width)

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d))]
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(found) / 1e9


def train(
    model: str, data: str, size: int, epochs: int, seed: int, threads: int, folder: str, arguments: Message
) -> Message:
    """Train from scratch with the default recipe on the CPU, then predict the val split with the best weights.

    Args:
        arguments: ultralytics settings that replace defaults.
    """
    from ultralytics import YOLO

    settings = {
        "data": data, "imgsz": size, "epochs": epochs, "seed": seed, "device": "cpu", "workers": 0, "pretrained": False,
        "project": folder, "name": "train", "exist_ok": True, "plots": False, "verbose": False, **arguments,
    }  # fmt: skip
    network = YOLO(model)
    clock = Clock()
    network.add_callback("on_train_start", lambda trainer: torch.set_num_threads(threads))
    network.add_callback("on_train_epoch_start", clock.start)
    network.add_callback("on_train_batch_end", clock.tick)
    network.add_callback("on_train_epoch_end", clock.stop)
    torch.set_num_threads(threads)
    started, used = time.perf_counter(), time.process_time()
    network.train(**settings)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    best = Path(folder) / "train" / "weights" / "best.pt"
    torch.set_num_threads(threads)
    YOLO(best).val(
        data=data, imgsz=size, device="cpu", workers=0, conf=0.001, iou=0.7, max_det=300, save_json=True, plots=False,
        project=folder, name="val", exist_ok=True, verbose=False, batch=16,
    )  # fmt: skip
    return {
        "minutes": seconds / 60, "cpu_minutes": cpu_seconds / 60, "images": clock.images,
        "seconds_in_epochs": clock.seconds,
        "epochs": clock.epochs, "predictions": str(Path(folder) / "val" / "predictions.json"),
        "arguments": {key: value for key, value in settings.items() if key not in ("project", "name")}, **versions(),
    }  # fmt: skip


class Clock:
    """Time from each epoch's first batch to its last, evaluations left out, and the images seen in it."""

    def __init__(self) -> None:
        self.seconds, self.images, self.epochs = 0.0, 0, 0
        self._since = self._now = 0.0

    def start(self, trainer: Any) -> None:
        self._since = time.perf_counter()

    def tick(self, trainer: Any) -> None:
        self._now = time.perf_counter()

    def stop(self, trainer: Any) -> None:
        self.seconds += self._now - self._since
        self.images += len(trainer.train_loader.dataset)
        self.epochs += 1


def main() -> None:
    """Answer requests until the parent closes stdin; all output of ultralytics goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    server = Server()
    for line in sys.stdin:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
