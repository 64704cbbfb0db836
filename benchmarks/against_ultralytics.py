"""Compare a cspdet recipe with ultralytics' default recipe: AP, training time and BFLOPs per second, from scratch.

  python benchmarks/against_ultralytics.py --data data/mine.yaml --ultralytics ul/bin/python --output runs/peers \
      --size 320 --epochs 60 --threads 2
  python benchmarks/against_ultralytics.py ... --only yolo11n,csppelee_efm_sam

Networks are trained one after the other, each in its own process with the given number of threads and no loader
processes. Ultralytics: the network of the YAML, pretrained=False, every other setting at its default (batch 16,
optimizer auto, EMA, close_mosaic 10, fp32 on a CPU), best.pt by its own fitness. Its detections are those of its own
validation (score 0.001, IoU 0.7, 300 per image), before COCO's limit of 100. cspdet: the config with its recipe,
best.pt by AP. `cspdet eval --detections` with pycocotools evaluates all of them, on the val split that both used to
choose best.pt.

BFLOPs: a forward pass of one image, convolutions and linear layers at 2 per multiply-add, poolings k*k*c*h*w, counted
in the same way for both. `its own count` is the value that ultralytics reports at the same size, which includes
attention's matrix products. images/s: images of all epochs divided by the time of their batches, without evaluations.

A finished row is stored in OUTPUT as NAME.json and is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo_folder import write_yolo_folder

from cspdet.checkpoints.loading import load_model
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import ConfigError, UserError, did_you_mean
from cspdet.io.atomic import write_text
from cspdet.models.profile import profile

ULTRALYTICS_NETWORKS = ("yolov5n", "yolo11n")
SIDE = Path(__file__).with_name("against_ultralytics_side.py")
CONFIG = Path(__file__).parents[1] / "configs/csppelee_efm_sam.yaml"
CSPDET = [sys.executable, "-c", "import sys; from cspdet.cli.main import main; sys.exit(main())"]  # the console command


@dataclass(frozen=True)
class Conditions:
    """Settings that are the same for all rows of a table."""

    data: str
    size: int
    epochs: int
    seed: int
    threads: int


@dataclass(frozen=True)
class Plan:
    """Settings of a comparison."""

    conditions: Conditions
    output: Path
    python: Path  # of ultralytics' environment
    config: Path
    overrides: tuple[str, ...]
    arguments: dict[str, object]  # of ultralytics, in place of its defaults


def main(words: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(words)
    try:
        plan = _plan(args)
        rows = [_row(name, plan) for name in _names(args.only, plan)]
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    print(json.dumps(rows, indent=2) if args.json else "\n".join(table(rows)))
    return 0


def _row(name: str, plan: Plan) -> dict[str, Any]:
    """Return the finished row of OUTPUT, or compute it.

    Raises:
        ConfigError: OUTPUT holds a row with other conditions.
        UserError: a training or an evaluation failed.
    """
    path = plan.output / f"{name}.json"
    is_cspdet = name == plan.config.stem
    changes = list(plan.overrides) if is_cspdet else plan.arguments
    conditions = {**asdict(plan.conditions), "changes": changes}
    if path.exists():
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in conditions if row["conditions"].get(key) != conditions[key]]
        if other:
            raise ConfigError(
                f"{path}: has {other[0]} {row['conditions'].get(other[0])}, expected {conditions[other[0]]}; "
                "choose another --output"
            )
        return row
    print(f"{name}: {plan.conditions.epochs} epochs, log in {plan.output / name}.log", file=sys.stderr)
    found = _train_cspdet(name, plan) if is_cspdet else _train_ultralytics(name, plan)
    detections = found.pop("detections")
    numbers = _evaluate(detections, plan)
    row = {
        "name": name, "AP": numbers["AP"], "AP50": numbers["AP50"], "AP75": numbers["AP75"], **found,
        "bflops_per_second": found["images_per_second"] * found["bflops"],
        "evaluator": numbers["evaluator"], "conditions": conditions,
    }  # fmt: skip
    write_text(path, json.dumps(row, indent=2) + "\n")
    return row


def _train_cspdet(name: str, plan: Plan) -> dict[str, Any]:
    """Run `cspdet train`, or resume an interrupted run."""
    where, folder = plan.conditions, plan.output / name
    command = [*CSPDET, "train"]
    if (folder / "last.pt").exists():
        command += ["--resume", str(folder)]
    else:
        command += [
            str(plan.config), "--output", str(folder), "--device", "cpu", f"data={where.data}",
            f"input.size={where.size}", f"train.epochs={where.epochs}", f"train.seed={where.seed}",
            "train.workers=0", "eval.workers=0", *plan.overrides,
        ]  # fmt: skip
    started, used = time.perf_counter(), cpu_seconds()
    _run(command, plan, name)
    minutes, cpu_minutes = (time.perf_counter() - started) / 60, (cpu_seconds() - used) / 60
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = [0, *(epoch["images_seen"] for epoch in epochs)]
    seconds = sum(
        (after - before) / epoch["images_per_second"]
        for before, after, epoch in zip(seen[:-1], seen[1:], epochs, strict=True)
    )
    bundle = load_model(folder / "best.pt")
    cost = profile(bundle.detector, bundle.config.input.size)
    return {
        "minutes": minutes, "cpu_minutes": cpu_minutes, "images_per_second": seen[-1] / seconds,
        "bflops": cost.bflops, "own_gflops": None,
        "parameters": cost.parameters, "detections": folder / "detections.json", "versions": {},
    }  # fmt: skip


def _train_ultralytics(name: str, plan: Plan) -> dict[str, Any]:
    """Train the network `name`.yaml of ultralytics with its default recipe."""
    where = plan.conditions
    data = _yolo_data(plan)
    common = {"model": f"{name}.yaml", "data": str(data), "size": where.size}
    training = {
        "epochs": where.epochs, "seed": where.seed, "threads": where.threads,
        "folder": str((plan.output / name).absolute()), "arguments": plan.arguments,
    }  # fmt: skip
    cost, trained = _ask_side([{"do": "cost", **common}, {"do": "train", **common, **training}], plan, name)
    descriptor = load_dataset_config(where.data)
    train, val = (load_coco(descriptor.split(split), split) for split in ("train", "val"))
    results = json.loads(Path(trained["predictions"]).read_text(encoding="utf-8"))
    detections = plan.output / name / "detections.json"
    write_text(detections, json.dumps(original_ids(results, train, val)))
    return {
        "minutes": trained["minutes"], "cpu_minutes": trained["cpu_minutes"],
        "images_per_second": trained["images"] / trained["seconds_in_epochs"],
        "bflops": cost["bflops"], "own_gflops": cost["own_gflops"], "parameters": cost["parameters"],
        "detections": detections,
        "versions": {key: trained[key] for key in ("ultralytics", "torch", "opencv")},
        "arguments": trained["arguments"],
    }  # fmt: skip


def original_ids(results: list[dict[str, Any]], train: CocoDataset, val: CocoDataset) -> list[dict[str, Any]]:
    """Map ultralytics' results, whose category n is class n - 1 of the train split, to the val split's category ids."""
    ids = dict(zip(val.classes.names, val.classes.category_ids, strict=True))
    id_of = {number: ids[name] for number, name in enumerate(train.classes.names, start=1) if name in ids}
    return [
        {"image_id": found["image_id"], "category_id": id_of[found["category_id"]],
         "bbox": found["bbox"], "score": found["score"]}
        for found in results if found["category_id"] in id_of
    ]  # fmt: skip


def _yolo_data(plan: Plan) -> Path:
    """Return data.yaml of the dataset in ultralytics' layout, written on first use."""
    folder = plan.output.absolute() / "yolo"
    if not (folder / "data.yaml").exists():
        write_yolo_folder(load_dataset_config(plan.conditions.data), folder)
    return folder / "data.yaml"


def _evaluate(detections: Path, plan: Plan) -> dict[str, Any]:
    command = [
        *CSPDET, "eval", "--detections", str(detections), "--data", plan.conditions.data, "--json",
        "--evaluator", "pycocotools", "--max-detections", "100", "--output", str(detections.parent / "evaluated"),
    ]  # fmt: skip
    numbers: dict[str, Any] = json.loads(_run(command, plan, detections.parent.name))
    return numbers


def _ask_side(questions: list[dict[str, object]], plan: Plan, name: str) -> list[dict[str, Any]]:
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    answers = _run([str(plan.python), str(SIDE)], plan, name, lines)
    return [json.loads(line) for line in answers.splitlines()]


def _run(command: list[str], plan: Plan, name: str, lines: str = "") -> str:
    """Run a process and return its stdout; its stderr goes to NAME.log.

    Raises:
        UserError: the process failed; the message has its last line.
    """
    log = plan.output / f"{name}.log"
    threads = {key: str(plan.conditions.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "YOLO_CONFIG_DIR": str(plan.output.absolute())}
    with log.open("a", encoding="utf-8") as errors:
        done = subprocess.run(
            command, input=lines, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, check=False
        )
    if done.returncode:
        last = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise UserError(f"{name}: {command[0]} ended with {done.returncode}: {last[-1] if last else ''} (see {log})")
    return done.stdout


def cpu_seconds() -> float:
    """Return the CPU time of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Format the rows in Markdown, with their conditions."""
    where = rows[0]["conditions"]
    lines = [
        f"{where['data']}, {where['size']}x{where['size']}, {where['epochs']} epochs, seed {where['seed']}, "
        f"{where['threads']} thread{'s' if where['threads'] != 1 else ''}",
        "",
        "| network | AP | AP50 | minutes | CPU minutes | images/s | parameters M | BFLOPs | its own count | BFLOPs/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        own = "--" if row["own_gflops"] is None else f"{row['own_gflops']:.3f}"
        lines.append(
            f"| {row['name']} | {_number(row['AP'])} | {_number(row['AP50'])} | {row['minutes']:.1f} | "
            f"{row['cpu_minutes']:.1f} | {row['images_per_second']:.2f} | {row['parameters'] / 1e6:.2f} | "
            f"{row['bflops']:.3f} | {own} | {row['bflops_per_second']:.1f} |"
        )
    return lines


def _number(value: float | None) -> str:
    return "--" if value is None else f"{value:.4f}"


def _names(only: str | None, plan: Plan) -> list[str]:
    known = [*ULTRALYTICS_NETWORKS, plan.config.stem]
    names = known if only is None else only.split(",")
    # Any other YAML of ultralytics is accepted as well: yolov8n, yolo12n.
    odd = [name for name in names if name not in known and not name.startswith("yolo")]
    if odd:
        raise ConfigError(f"--only: unknown network {odd[0]!r}{did_you_mean(odd[0], known)}")
    return names


def _plan(args: argparse.Namespace) -> Plan:
    for name in ("size", "epochs", "threads"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}: expected 1 or more, found {getattr(args, name)}")
    descriptor = load_dataset_config(args.data)
    for split in ("train", "val"):
        descriptor.split(split)
    arguments = {}
    for word in args.their_set:
        key, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"--their-set: expected KEY=VALUE, found {word!r}")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    args.output.mkdir(parents=True, exist_ok=True)
    conditions = Conditions(str(args.data.absolute()), args.size, args.epochs, args.seed, args.threads)
    return Plan(conditions, args.output, args.ultralytics, args.config, tuple(args.overrides), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DESCRIPTOR", help="dataset with a train and a val split")
    add("--ultralytics", type=Path, required=True, metavar="PYTHON", help="interpreter that has ultralytics")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for runs, logs and finished rows")
    add("--config", type=Path, default=CONFIG, help="config of cspdet (default: configs/csppelee_efm_sam.yaml)")
    add("--size", type=int, default=320, metavar="S", help="side of the square input (default: %(default)s)")
    add("--epochs", type=int, default=60, metavar="N", help="number of epochs (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="number of CPU threads (default: %(default)s)")
    add("--only", metavar="NAME,..", help="rows: yolov5n, yolo11n, another ultralytics network, the stem of --config")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override in --config")
    add("--their-set", action="append", default=[], metavar="KEY=VALUE", help="an ultralytics setting")
    add("--json", action="store_true", help="print the rows as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
