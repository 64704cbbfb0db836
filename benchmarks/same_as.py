"""Whether the working tree computes bit for bit what an earlier commit computes, after a refactoring.

  python benchmarks/same_as.py COMMIT [--jobs data,train,eval] [--tree DIR] [--keep DIR]

The commit is extracted into a temporary folder. The same small jobs run there and in the working tree, side by side, in
fp32 on the CPU with one thread each, and their files are compared. Each tree is used from outside: its scripts in
tools/ and its configs, by the option and config names of the commit, which the working tree must still accept.
Tensors are compared in the order of the file, since their names may have changed. Jobs, by default all of them:

  data        make the built-in shapes: the same files
  train       2 detectors, 40 steps each: metrics, weights, EMA, optimizer state, results and images
  eval        evaluate the best.pt of each tree, and the commit's best.pt with both trees
  detect      detections and drawn images, of whole images and with tiles
  export      the Darknet cfg and weights; the ONNX initializers and outputs
  resume      a run that the commit stopped after epoch 1, continued by both trees
  classifier  crop the objects, train on the crops, evaluate

Exit code 1 when anything differs or a command fails, 2 for a wrong COMMIT or option.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_COMMAND = 900.0
# Endings of JSON keys that no two runs or no two trees share: times, rates, places and versions.
IGNORED_KEYS = ("_per_second", "_wait_fraction", "seconds", "fps", "_ms", "path", "version")
IGNORED_ENTRIES = ("format", "program", "task", "recipe", "config")  # of a checkpoint: names may have changed

# {tree} is the tree under test; {data} holds the files that both trees read. Keys are spelled as in the commit.
COMMON = (
    "train.precision=fp32", "train.seed=0", "train.epochs=2", "--device", "cpu",
)  # fmt: skip
DETECTORS = {
    "csppelee_efm_sam": (
        "{tree}/configs/csppelee_efm_sam.yaml", "train={tree}/configs/train/recommended.yaml",
        "data={data}/shapes/shapes.yaml", "input.size=96", "train.batch_size=4", "train.nominal_batch_size=4",
        "train.workers=0", "eval.workers=0", "train.augment.mosaic=0.7", "train.augment.mixup=0.3",
        "train.augment.cutmix=0.3", "train.augment.copy_small=2", "train.augment.close_mosaic=1",
        "train.augment.rotate=10", "train.augment.shear=5", "train.augment.flip_vertical=0.3",
        "train.multi_scale={low: 0.6, high: 1.4, every: 3}", "train.loss.class_weights=auto",
        "train.ema={decay: 0.99, share: 0.2}", *COMMON,
    ),
    "yolov3_tiny": (
        "{tree}/configs/yolov3_tiny.yaml", "train={tree}/configs/train/optimal.yaml",
        "data={data}/shapes/shapes.yaml", "input.size=[96,128]", "input.resize=stretch", "train.batch_size=4",
        "train.nominal_batch_size=8", "train.workers=1", "eval.workers=1", "train.assign.rule=dynamic",
        "train.assign.dynamic.top=8", "train.schedule.burn_in_steps=10", "train.schedule.burn_in_share=0.5",
        "train.loss.focal=both", "train.loss.label_smoothing=0.1", "train.repeat_factor=0.5",
        "train.augment.albumentations=[{name: GaussianBlur, args: {p: 0.5}}]", "eval.vote_iou=0.7", *COMMON,
    ),
}  # fmt: skip
CLASSIFIER = (
    "{tree}/configs/classification/csppeleenet.yaml", "--data", "{data}/crops", "input.size=64",
    "train.batch_size=32", "train.nominal_batch_size=32", "train.workers=0", "eval.workers=0",
    "train.augment.mosaic=0.2", "train.augment.erase=0.3", "train.augment.rotate=10",
    "train.augment.flip_vertical=0.3", "train.augment.close_mixing=1",
    "train.multi_scale={low: 0.6, high: 1.4, every: 3}", *COMMON,
)  # fmt: skip


class Failed(Exception):
    """A command ended with an error, or a file that it should leave is missing."""


@dataclass(frozen=True)
class Row:
    """One comparison. An empty `difference` means identical; `note` says what else there is to say."""

    compared: str
    difference: str = ""
    note: str = ""


@dataclass(frozen=True)
class Side:
    """A tree, and the folder that its commands run in; both sides use the same relative paths in their folders."""

    name: str
    tree: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        """One thread, no GPU, and the package of this tree."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        own = {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **threads, **own}

    def check_import(self) -> None:
        """Raise Failed unless `import cspdet` takes the package of this tree."""
        words = [sys.executable, "-c", "import cspdet; print(cspdet.__file__)"]
        done = subprocess.run(words, cwd=self.folder, env=self.environment(), capture_output=True, text=True)
        if done.returncode or Path(done.stdout.strip()).resolve() != (self.tree / "cspdet/__init__.py").resolve():
            raise Failed(f"{self.name}: cspdet comes from {done.stdout.strip() or done.stderr.strip()[-300:]!r}")


@dataclass
class Trial:
    """Both sides, and what has been made there already, since jobs share data and trained models."""

    reference: Side
    changed: Side
    made: dict[str, str] = field(default_factory=dict)  # name -> the error that it ended with, or ""
    commands: int = 0

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.reference, self.changed

    def run(self, verb: str, *words: str, sides: Sequence[Side] | None = None) -> None:
        """Run tools/VERB.py with these arguments for both commits in parallel; raise Failed on an error."""
        self.commands += 1
        started = [(side, *self._start(side, verb, words)) for side in (self.sides if sides is None else sides)]
        failures = []
        for side, process, log in started:
            try:
                code: int | str = process.wait(SECONDS_PER_COMMAND)
            except subprocess.TimeoutExpired:
                process.kill()
                code = f"nothing within {SECONDS_PER_COMMAND:.0f} s"
            if code:
                last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
                failures.append(f"{verb} in {side.name}: exit {code}: {last[:300]}")
        if failures:
            raise Failed("; ".join(failures))

    def _start(self, side: Side, verb: str, words: Sequence[str]) -> tuple[subprocess.Popen[bytes], Path]:
        log = side.folder / f"logs/{self.commands:02}-{verb}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        places = (("{tree}", side.tree), ("{data}", self.reference.folder))
        for mark, path in places:
            words = [word.replace(mark, str(path)) for word in words]
        with log.open("wb") as file:
            script = [sys.executable, str(side.tree / f"tools/{verb}.py"), *words]
            return subprocess.Popen(script, cwd=side.folder, env=side.environment(), stdout=file, stderr=file), log

    def once(self, name: str, make: Callable[[], None]) -> None:
        """Call `make` unless this was done before; raise its failure again if it failed."""
        if name not in self.made:
            try:
                make()
                self.made[name] = ""
            except Failed as failure:
                self.made[name] = str(failure)
        if self.made[name]:
            raise Failed(self.made[name])

    def make_data(self) -> None:
        """The built-in shapes, in both folders."""
        words = ("shapes", "--output", "shapes", "--images", "80", "--size", "128", "--seed", "3")
        self.once("data", lambda: self.run("prepare_data", *words))

    def train_detector(self, name: str) -> None:
        """The run of this config, in both folders."""
        self.make_data()
        self.once(f"train {name}", lambda: self.run("train", *DETECTORS[name], "--output", f"runs/{name}"))

    def share_checkpoint(self, name: str) -> str:
        """Copy the commit's best.pt to the same path in both folders; this path."""
        path = f"shared/{name}/best.pt"
        for side in self.sides:
            (side.folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.reference.folder / f"runs/{name}/best.pt", side.folder / path)
        return path

    def compare(self, compare: Callable[[Path, Path], str], path: str, what: str = "") -> Row:
        """Compare what both sides left at `path` by `compare`, which returns the first difference."""
        one, two = (side.folder / path for side in self.sides)
        missing = [side.name for side in self.sides if not (side.folder / path).exists()]
        difference = f"missing in {' and '.join(missing)}" if missing else compare(one, two)
        return Row(what or path, difference)


# What the jobs compare


def data_job(trial: Trial) -> Iterator[Row]:
    trial.make_data()
    yield from compare_folders(trial, "shapes")


def train_job(trial: Trial) -> Iterator[Row]:
    for name in DETECTORS:
        trial.train_detector(name)
        yield from compare_runs(trial, f"runs/{name}")


def eval_job(trial: Trial) -> Iterator[Row]:
    for name in DETECTORS:
        trial.train_detector(name)
        yield from evaluate(trial, f"runs/{name}/best.pt", f"eval/{name}")
        yield from evaluate(trial, trial.share_checkpoint(name), f"eval-shared/{name}")


def evaluate(trial: Trial, checkpoint: str, output: str) -> Iterator[Row]:
    """Evaluate the checkpoint at this path on both sides."""
    trial.run("eval", checkpoint, "--voc", "--workers", "0", "--device", "cpu", "--output", output)
    yield trial.compare(compare_json, f"{output}/metrics.json")
    yield trial.compare(compare_json, f"{output}/detections.json")


def detect_job(trial: Trial) -> Iterator[Row]:
    """A low score threshold, since a network of 40 steps is unsure; without detections there is nothing to compare."""
    trial.train_detector("yolov3_tiny")
    words = ("runs/yolov3_tiny/best.pt", "{data}/shapes/val", "--min-score", "0.002", "--device", "cpu")
    for output, extra in (("detect", ()), ("detect-tiles", ("--tile", "64", "--max-iou", "0.5"))):
        trial.run("detect", *words, *extra, "--output", output)
        yield from compare_folders(trial, output)
        lines = (trial.reference.folder / output / "detections.jsonl").read_text(encoding="utf-8").splitlines()
        count = sum(len(json.loads(line)["detections"]) for line in lines)
        yield Row(f"{output}: {count} detections", "" if count else "no detections to compare")


def export_job(trial: Trial) -> Iterator[Row]:
    absent = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    for name in DETECTORS:
        trial.train_detector(name)
        for side in trial.sides:
            (side.folder / "export").mkdir(exist_ok=True)
        stem = f"export/{name}"
        trial.run("export", f"runs/{name}/best.pt", "--format", "darknet", "--output", f"{stem}.cfg")
        yield trial.compare(compare_without_comments, f"{stem}.cfg")
        yield trial.compare(compare_bytes, f"{stem}.weights")
        if absent:
            yield Row(f"{stem}.onnx", note=f"skipped, {', '.join(absent)} is not installed")
            continue
        trial.run("export", f"runs/{name}/best.pt", "--format", "onnx", "--output", f"{stem}.onnx")
        yield trial.compare(compare_initializers, f"{stem}.onnx", f"{stem}.onnx: initializers")
        yield trial.compare(compare_outputs, f"{stem}.onnx", f"{stem}.onnx: outputs of onnxruntime")


def resume_job(trial: Trial) -> Iterator[Row]:
    trial.make_data()
    words = (*DETECTORS["csppelee_efm_sam"], "--stop-after", "1", "--output", "runs/resumed")
    trial.run("train", *words, sides=[trial.reference])
    shutil.copytree(trial.reference.folder / "runs/resumed", trial.changed.folder / "runs/resumed")
    trial.run("train", "--resume", "runs/resumed", "--device", "cpu")
    yield from compare_runs(trial, "runs/resumed")


def classifier_job(trial: Trial) -> Iterator[Row]:
    trial.make_data()
    trial.run("prepare_data", "objects", "{data}/shapes/shapes.yaml", "--output", "crops")
    yield from compare_folders(trial, "crops")
    trial.run("train_classifier", *CLASSIFIER, "--output", "runs/classifier")
    yield from compare_runs(trial, "runs/classifier")
    words = ("--data", "{data}/crops", "--ten-crop", "--workers", "0", "--device", "cpu", "--output", "eval-classifier")
    trial.run("eval_classifier", "runs/classifier/best.pt", *words)
    yield trial.compare(compare_json, "eval-classifier/metrics.json")
    yield trial.compare(compare_bytes, "eval-classifier/predictions.csv")


JOBS: dict[str, Callable[[Trial], Iterator[Row]]] = {
    "data": data_job,
    "train": train_job,
    "eval": eval_job,
    "detect": detect_job,
    "export": export_job,
    "resume": resume_job,
    "classifier": classifier_job,
}


def compare_runs(trial: Trial, folder: str) -> Iterator[Row]:
    """What a training command left: metrics, checkpoints, results and images."""
    yield trial.compare(compare_json_lines, f"{folder}/metrics.jsonl")
    for name in ("last.pt", "best.pt"):
        path = trial.reference.folder / folder / name
        tensors = f": {sum(torch.is_tensor(value) for _, value in leaves_of(path))} tensors" if path.exists() else ""
        yield trial.compare(compare_checkpoints, f"{folder}/{name}", f"{folder}/{name}{tensors}")
    for pattern, compare in (("*.json", compare_json), ("*.jpg", compare_bytes)):
        for name in names_in(trial, folder, pattern):
            yield trial.compare(compare, f"{folder}/{name}")


def compare_folders(trial: Trial, folder: str) -> Iterator[Row]:
    """Every file below `folder`, as one row: text without comments, JSON by value, all else byte by byte."""
    names = names_in(trial, folder, "**/*")
    by_suffix = {".yaml": compare_without_comments, ".json": compare_json, ".jsonl": compare_json_lines}
    for name in names:
        row = trial.compare(by_suffix.get(Path(name).suffix, compare_bytes), f"{folder}/{name}")
        if row.difference:
            yield row
            return
    yield Row(f"{folder}: {len(names)} files", "" if names else "no files")


def names_in(trial: Trial, folder: str, pattern: str) -> list[str]:
    """Paths below `folder` of the files that either side has."""
    found = set()
    for side in trial.sides:
        parent = side.folder / folder
        found |= {str(path.relative_to(parent)) for path in parent.glob(pattern) if path.is_file()}
    return sorted(found)


# Comparisons of two files; each returns the first difference, or ""


def compare_bytes(one: Path, two: Path) -> str:
    first, second = one.read_bytes(), two.read_bytes()
    if first == second:
        return ""
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} bytes"
    return f"byte {next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)} of {len(first)}"


def compare_without_comments(one: Path, two: Path) -> str:
    """Lines of a cfg or YAML file, without comments and empty lines."""
    lines = [[line for line in (raw.split("#")[0].strip() for raw in lines_of(path)) if line] for path in (one, two)]
    return first_difference(lines[0], lines[1], "line")


def compare_json(one: Path, two: Path) -> str:
    return first_difference(json.loads(one.read_text(encoding="utf-8")), json.loads(two.read_text(encoding="utf-8")))


def compare_json_lines(one: Path, two: Path) -> str:
    documents = [[json.loads(line) for line in lines_of(path)] for path in (one, two)]
    return first_difference(documents[0], documents[1], "line")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def first_difference(one: Any, two: Any, where: str = "") -> str:
    """The first place where two nests of JSON values differ, apart from `IGNORED_KEYS`; "" for none."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = [[key for key in value if not key.endswith(IGNORED_KEYS)] for value in (one, two)]
        if set(keys[0]) != set(keys[1]):
            return f"{where}: only one has the keys {sorted(set(keys[0]) ^ set(keys[1]))[:5]}"
        pairs = ((f"{where}/{key}" if where else key, one[key], two[key]) for key in keys[0])
    elif isinstance(one, list) and isinstance(two, list):
        if len(one) != len(two):
            return f"{where}: {len(one)} and {len(two)} entries".lstrip(": ")
        pairs = ((f"{where} {i}".strip(), a, b) for i, (a, b) in enumerate(zip(one, two, strict=True)))
    else:  # repr: nan equals itself, 0.0 and -0.0 differ
        return "" if repr(one) == repr(two) else f"{where}: {one!r} and {two!r}"
    return next((found for place, a, b in pairs if (found := first_difference(a, b, place))), "")


def leaves_of(path: Path) -> list[tuple[str, Any]]:
    """Tensors and plain values of a checkpoint with their paths, in the order of the file."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return list(leaves({key: value for key, value in content.items() if key not in IGNORED_ENTRIES}))


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{where}/{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from leaves(part, f"{where}/{i}")
    else:
        yield where, value


def compare_checkpoints(one: Path, two: Path) -> str:
    """Weights, EMA, optimizer state and position, in the order of the file, whatever their names."""
    first, second = leaves_of(one), leaves_of(two)
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} tensors and values"
    found = []
    for (name, a), (other_name, b) in zip(first, second, strict=True):
        if difference := compare_leaves(a, b):
            names = name if name == other_name else f"{name}, {other_name}"
            found.append(f"{names}: {difference}")
    more = f"; so do {len(found) - 1} more" if len(found) > 1 else ""
    return found[0] + more if found else ""


def compare_leaves(one: Any, two: Any) -> str:
    if not (torch.is_tensor(one) and torch.is_tensor(two)):
        return "" if repr(one) == repr(two) else f"{str(one)[:60]!r} and {str(two)[:60]!r}"
    if one.dtype != two.dtype or one.shape != two.shape:
        return f"{one.dtype} {tuple(one.shape)} and {two.dtype} {tuple(two.shape)}"
    if torch.equal(bytes_of(one), bytes_of(two)):
        return ""
    gap = (one.double() - two.double()).abs()
    return f"{int((one != two).sum())} of {one.numel()} elements differ, by up to {gap.max().item():.3g}"


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, since equal floats may differ in their bits."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def compare_initializers(one: Path, two: Path) -> str:
    """Types, shapes and bytes of the initializers as a multiset; names and order may differ."""
    first, second = initializers(one), initializers(two)
    if first == second:
        return ""
    only = [sum((a - b).values()) for a, b in ((first, second), (second, first))]
    (dtype, shape, _) = next(iter((first - second) or (second - first)))
    total = sum(first.values()), sum(second.values())
    return f"{only[0]} of {total[0]} and {only[1]} of {total[1]} have no equal, the first is {dtype} {shape}"


def initializers(path: Path) -> Counter[tuple[str, tuple[int, ...], bytes]]:
    import onnx

    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return Counter((str(array.dtype), array.shape, array.tobytes()) for array in arrays)


def compare_outputs(one: Path, two: Path) -> str:
    """Outputs of both graphs for the same random images, in order."""
    first, second = onnx_outputs(one), onnx_outputs(two)
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} outputs"
    pairs = zip(first, second, strict=True)
    found = (f"output {i}: {text}" for i, (a, b) in enumerate(pairs) if (text := compare_leaves(a, b)))
    return next(found, "")


def onnx_outputs(path: Path) -> list[torch.Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    pixels = np.random.default_rng(0).random((2, 3, 96, 128), dtype=np.float32)
    return [torch.from_numpy(output) for output in session.run(None, {image.name: pixels})]


# The trees, and the table


def extract(commit: str, folder: Path) -> str:
    """Write the files of the commit to `folder`; its short hash.

    Raises:
        Failed: the repository has no such commit.
    """
    archive = git("archive", "--format=zip", commit)
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(folder)
    return git("rev-parse", "--short", f"{commit}^{{commit}}").decode().strip()


def git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)
    if done.returncode:
        raise Failed(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def prepare(commit: str, tree: Path, work: Path) -> Trial:
    """Extract the commit, and check that each side imports its own package."""
    if not (tree / "cspdet/__init__.py").is_file():
        raise Failed(f"{tree}: holds no cspdet/")
    short = extract(commit, work / "commit")
    trial = Trial(Side(short, work / "commit", work / "of-commit"), Side("the tree", tree, work / "of-tree"))
    for side in trial.sides:
        side.folder.mkdir()
        side.check_import()
    return trial


def run_jobs(trial: Trial, names: Sequence[str]) -> list[Row]:
    """Run the jobs and print the table as it grows; all of its rows."""
    rows: list[Row] = []
    for name in names:
        began = time.monotonic()
        for row in rows_of(trial, name):
            print(f"{name:10}  {row.compared:52}  {verdict(row)}", flush=True)
            rows.append(row)
        print(f"{name:10}  {time.monotonic() - began:.0f} s", flush=True)
    return rows


def rows_of(trial: Trial, name: str) -> Iterator[Row]:
    try:
        yield from JOBS[name](trial)
    except Failed as failure:
        yield Row("command", str(failure))


def verdict(row: Row) -> str:
    if row.difference:
        return f"DIFFERS: {row.difference}"
    return row.note or "identical"


def job_names(text: str) -> list[str]:
    names = [name for name in re.split(r"[,\s]+", text) if name]
    unknown = [name for name in names if name not in JOBS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown job {unknown}; there are: {', '.join(JOBS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT", help="what the working tree is compared with")
    parser.add_argument("--jobs", type=job_names, default=list(JOBS), metavar="A,B", help="default: all")
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="DIR", help="default: the tree of this script")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder to leave all files and logs in")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="same_as-") as temporary:
        work = Path(temporary).resolve() if args.keep is None else args.keep.resolve()
        if args.keep is not None and work.exists() and any(work.iterdir()):
            parser.error(f"--keep {args.keep}: expected a new or empty folder")
        work.mkdir(parents=True, exist_ok=True)
        try:
            trial = prepare(args.commit, args.tree.resolve(), work)
        except Failed as failure:
            parser.error(str(failure))
        rows = run_jobs(trial, args.jobs)
    different = sum(bool(row.difference) for row in rows)
    compared = sum(not row.note for row in rows)
    result = f"{different} of {compared} comparisons DIFFER" if different else f"all {compared} comparisons identical"
    print(f"{result}: {trial.reference.name} and {args.tree} ({time.monotonic() - began:.0f} s)")
    return 1 if different or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
