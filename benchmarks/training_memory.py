"""Measure the memory of training: growth during a run, memory of a large annotation file, memory of the imports.

  python benchmarks/training_memory.py [--epochs 20] [--workers 2] [--only run,annotations,imports] [--json]

run          trains a small network on the built-in shapes; after each epoch it reads the memory of every process: RSS,
             and PSS, which divides shared pages among the processes that share them. Growth is measured from the third
             epoch to the last; the limit is 2% of RSS up or down for each process.
annotations  loads a generated file of the size of COCO train2017, 118,287 images with 860,001 boxes, in its own
             process, and forks loader processes that each read every image's path, size and boxes. Shared is the size
             of the loaded dataset, private the additional memory of a loader process over one that read nothing; the
             limits are 60 MB and 10 MB.
imports      RSS of a bare interpreter, and after importing torch, cspdet.cli.main, and all that training imports.

Exit code 1 if a limit is exceeded. Linux only: sizes are read from /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
PARTS = ("run", "annotations", "imports")
MAX_GROWTH = 0.02
MAX_SHARED_MB, MAX_PRIVATE_MB = 60.0, 10.0
IMAGES, BOXES, CLASSES = 118_287, 860_001, 80  # COCO's train2017
SETTLED = 3  # memory should be constant from this epoch on


@dataclass(frozen=True)
class Memory:
    """Memory of one process, in MB (10^6 bytes)."""

    rss: float
    pss: float
    private: float  # pages that no other process has: clean and dirty

    @classmethod
    def of(cls, process: int | str) -> Memory:
        """Raises OSError when the process has ended."""
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return cls(*(number * 1024 / 1e6 for number in (kilobytes["Rss"], kilobytes["Pss"], private)))


def children(process: int) -> list[int]:
    """The child processes, oldest first."""
    try:
        return [
            int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
        ]
    except OSError:
        return []


# --- a run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """The processes after an epoch: the training process first, then the loader processes."""

    epoch: int
    processes: tuple[Memory, ...]


def watch_run(epochs: int, workers: int, folder: Path) -> list[Epoch]:
    """Train, and read the memory of every process after each epoch."""
    from cspdet.datasets.synthetic.dataset import make_shapes

    make_shapes(folder / "shapes", images=64, size=96, seed=0)
    words = [
        "configs/csppelee_prn.yaml", f"data={folder}/shapes/shapes.yaml", "input.size=96", "train.batch_size=8",
        f"train.epochs={epochs}", f"train.workers={workers}", "eval.workers=0", "train.precision=fp32",
        "--device", "cpu", "--output", str(folder / "run"),
    ]  # fmt: skip
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, "tools/train.py", *words], cwd=ROOT, stderr=log, stdout=log)
        found = list(_after_each_epoch(process, folder / "run/metrics.jsonl", workers))
        if process.wait(120) or len(found) != epochs:
            raise SystemExit(f"training failed, or epochs were missed: {(folder / 'log.txt').read_text()[-1000:]}")
    return found


def _after_each_epoch(process: subprocess.Popen[bytes], metrics: Path, workers: int) -> Iterator[Epoch]:
    seen = 0
    while process.poll() is None:
        lines = metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0
        if lines > seen:
            seen = lines
            ids = [process.pid, *children(process.pid)[:workers]]
            yield Epoch(seen, tuple(Memory.of(one) for one in ids))
        time.sleep(0.01)


def growth(history: list[Epoch]) -> list[dict[str, float]]:
    """Compute each process's growth from epoch SETTLED on: percent of RSS, and MB an epoch by least squares."""
    settled = [epoch for epoch in history if epoch.epoch >= SETTLED]
    if len(settled) < 2:
        raise SystemExit(f"expected more than {SETTLED} --epochs")
    found = []
    for number in range(len(settled[0].processes)):
        rss = np.array([epoch.processes[number].rss for epoch in settled])
        slope = np.polyfit(np.array([epoch.epoch for epoch in settled]), rss, 1)[0]
        found.append({"percent": float(100 * (rss[-1] / rss[0] - 1)), "mb_per_epoch": float(slope)})
    return found


def run_part(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure memory per epoch, its growth, and whether the limit is kept."""
    history = watch_run(args.epochs, args.workers, folder)
    grown = growth(history)
    passed = all(abs(process["percent"]) <= 100 * MAX_GROWTH for process in grown)
    return {"epochs": [asdict(epoch) for epoch in history], "growth": grown, "passed": passed}


def print_run(found: dict[str, Any]) -> None:
    """Print a table with RSS and PSS of each process after each epoch."""
    names = ["training", *(f"loader {i}" for i in range(len(found["growth"]) - 1))]
    print("MB after each epoch, RSS / PSS")
    print("epoch  " + "".join(f"{name:>17}" for name in names))
    for row in found["epochs"]:
        print(f"{row['epoch']:5}  " + "".join(f"{one['rss']:9.1f} /{one['pss']:6.1f}" for one in row["processes"]))
    print(f"from epoch {SETTLED} to the last (limit: {MAX_GROWTH:.0%} up or down):")
    for name, one in zip(names, found["growth"], strict=True):
        print(f"  {name:10} {one['percent']:+.2f}%, {one['mb_per_epoch']:+.3f} MB an epoch")


# --- annotations ---------------------------------------------------------------------------------

# Runs in its own process, so that it holds nothing else; prints JSON.
ANNOTATIONS = """
import json, sys, time
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from training_memory import Memory
from cspdet.datasets.formats.coco import load_coco
from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.workers import identity_collate, worker_context, worker_init_fn

class Touch(Dataset):
    def __getitem__(self, turn):
        before = Memory.of("self")
        boxes = 0
        for i in range(len(coco) if turn >= workers else 0):
            coco.path(i), coco.size_hw[i].tolist(), int(coco.image_id[i])
            boxes += len(coco.boxes(i)[0])
        return turn, boxes, vars(before), vars(Memory.of("self"))

workers = int(sys.argv[2])
empty = Memory.of("self")
began = time.perf_counter()
coco = load_coco(SplitFiles(Path(sys.argv[1]).parent, Path(sys.argv[1])), "train")
seconds = time.perf_counter() - began
loaded = Memory.of("self")
# item n goes to process n % workers: each has one turn without touching anything, and one with
loader = DataLoader(Touch(), sampler=range(2 * workers), batch_size=None,
                    num_workers=workers, collate_fn=identity_collate,
                    worker_init_fn=worker_init_fn, multiprocessing_context=worker_context(workers), prefetch_factor=2)
turns = sorted(loader, key=lambda turn: turn[0])
print(json.dumps({"images": len(coco), "boxes": len(coco.box_xyxy), "seconds": seconds, "mb": coco.nbytes / 1e6,
                  "rss_grown": loaded.rss - empty.rss, "turns": turns}))
"""


def write_annotations(path: Path) -> None:
    """Write COCO JSON of the size of train2017, with all fields except segmentations."""
    rng = np.random.default_rng(0)
    names = [f"{number:012d}.jpg" for number in np.sort(rng.choice(600_000, IMAGES, replace=False)).tolist()]
    images = [
        f'{{"license": 3, "file_name": "{name}", "height": 480, "width": 640, "id": {int(name[:12])}}}'
        for name in names
    ]
    corner = rng.uniform((0, 0), (560, 400), (BOXES, 2)).round(2)
    side = rng.uniform(2, 80, (BOXES, 2)).round(2)
    image, kind = rng.integers(0, IMAGES, BOXES), rng.integers(1, CLASSES + 1, BOXES)
    rows = zip(corner.tolist(), side.tolist(), image.tolist(), kind.tolist(), strict=True)
    annotations = (
        f'{{"area": {w * h:.2f}, "iscrowd": 0, "image_id": {int(names[i][:12])}, "bbox": [{x}, {y}, {w}, {h}], '
        f'"category_id": {k}, "id": {number}}}'
        for number, ((x, y), (w, h), i, k) in enumerate(rows, start=1)
    )
    categories = json.dumps([{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)])
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"images": [{", ".join(images)}], "categories": {categories}, "annotations": [')
        file.write(next(annotations))
        file.writelines(f", {annotation}" for annotation in annotations)
        file.write("]}")


def annotations_part(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the loaded dataset, and the private memory of each loader process after it read all of it."""
    path, workers = folder / "annotations.json", max(1, args.workers)
    write_annotations(path)
    words = [sys.executable, "-c", ANNOTATIONS, str(path), str(workers), str(ROOT / "benchmarks")]
    found: dict[str, Any] = json.loads(subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    turns = found.pop("turns")
    found["file_mb"] = path.stat().st_size / 1e6
    found["workers"] = [
        {
            "fresh_private": idle[2]["private"],
            "private": touched[3]["private"],
            "grown": touched[3]["private"] - idle[2]["private"],
            "pss": touched[3]["pss"],
            "boxes": touched[1],
        }
        for idle, touched in zip(turns[:workers], turns[workers:], strict=True)
    ]
    grown = max(worker["grown"] for worker in found["workers"])
    found["passed"] = found["mb"] <= MAX_SHARED_MB and grown <= MAX_PRIVATE_MB
    return found


def print_annotations(found: dict[str, Any]) -> None:
    """As lines."""
    print(f"{found['images']} images, {found['boxes']} boxes, {found['file_mb']:.0f} MB of JSON:")
    print(f"  loaded in {found['seconds']:.1f} s; shared {found['mb']:.1f} MB (limit: {MAX_SHARED_MB:.0f}), "
          f"the process grew by {found['rss_grown']:.1f} MB")  # fmt: skip
    for number, one in enumerate(found["workers"]):
        private = f"private {one['fresh_private']:.1f} -> {one['private']:.1f} MB: {one['grown']:+.1f}"
        bar = f"(limit: {MAX_PRIVATE_MB:.0f}); PSS {one['pss']:.1f}"
        print(f"  loader {number}: touched {one['boxes']} boxes, {private} {bar}")


# --- imports -------------------------------------------------------------------------------------

IMPORTS = ("", "torch", "cspdet.cli.main", "cspdet.cli.train")


def imports_part(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """RSS in MB of an interpreter that imported each."""
    code = "import sys; sys.argv[1] and __import__(sys.argv[1]); print(open('/proc/self/smaps_rollup').read())"
    found = {}
    for name in IMPORTS:
        said = subprocess.run(
            [sys.executable, "-c", code, name], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        rss = next(line for line in said.stdout.splitlines() if line.startswith("Rss:"))
        found[name] = int(rss.split()[1]) * 1024 / 1e6
    return {"rss": found, "passed": True}


def print_imports(found: dict[str, Any]) -> None:
    """As lines."""
    print("RSS of an interpreter that imported")
    for name, rss in found["rss"].items():
        print(f"  {name or 'nothing':24} {rss:7.1f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the run (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes; default: %(default)s")
    parser.add_argument("--only", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the tables")
    args = parser.parse_args()
    parts = args.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}; found {args.only}")
    measure = {"run": run_part, "annotations": annotations_part, "imports": imports_part}
    print_part = {"run": print_run, "annotations": print_annotations, "imports": print_imports}
    found: dict[str, Any] = {}
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            found[part] = measure[part](args, Path(folder))
        if not args.json:
            print_part[part](found[part])
            print()
    missed = [part for part, result in found.items() if not result["passed"]]
    print(json.dumps(found) if args.json else f"bars missed: {', '.join(missed)}" if missed else "all bars kept")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
