"""Fine-tuning from trained weights with another number of classes: with the class-wise start, and without it.

  python benchmarks/finetune.py yolo-fastest-1.1 bccd=bccd.yaml solar=solar.yaml --seeds 0 1 2 --output FOLDER

Every row is trained for the same number of epochs: `headless` starts the prediction layers at random, as if no output
could be kept; `classes` keeps the outputs for boxes, objectness and classes of the same name. Finished rows are read
from `FOLDER/results.json`, so that an interrupted benchmark continues. The last lines are a table of AP and AP50: the
mean, and the lowest and highest value over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import cspdet
from cspdet.io.atomic import write_text

STARTS = ("headless", "classes")
Results = dict[str, dict[str, float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Train the rows that are missing, and print the table."""
    args = _parse(argv)
    path = args.output / "results.json"
    results: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    args.output.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name, data in args.data:
            for start in STARTS:
                key = f"{name} {args.recipe} {start} {seed}"
                if key not in results:
                    results[key] = _train(args, name, data, start, seed)
                    write_text(path, json.dumps(results, indent=1))
                    print(key, results[key], flush=True)
    for name, _ in args.data:
        for start in STARTS:
            rows = [results[f"{name} {args.recipe} {start} {seed}"] for seed in args.seeds]
            cells = [
                f"{key} {mean(row[key] for row in rows):.3f} "
                f"({min(row[key] for row in rows):.3f} to {max(row[key] for row in rows):.3f})"
                for key in ("AP", "AP50")
            ]
            print(f"{name:<12} {args.recipe:<12} {start:<9} {'  '.join(cells)}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a detector's checkpoint, or the name of a downloaded model")
    parser.add_argument("data", nargs="+", metavar="NAME=DESCRIPTOR", type=lambda text: tuple(text.split("=", 1)))
    parser.add_argument("--size", default="256", help="input size: a side, or [HEIGHT,WIDTH]")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recipe", default="finetune", help="a released training recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of every row")
    return parser.parse_args(argv)


def _train(args: argparse.Namespace, name: str, data: str, start: str, seed: int) -> dict[str, float]:
    """Train one row, and return AP and AP50 of its best weights."""
    overrides = [
        f"data={data}", f"train=train/{args.recipe}.yaml", f"input.size={args.size}", f"train.epochs={args.epochs}",
        f"train.eval_interval={args.epochs}", "train.augment.close_mosaic=3", f"train.seed={seed}", "train.workers=0",
        *args.set,
    ]  # fmt: skip
    run = args.output / f"{name}-{args.recipe}-{start}-{seed}"

    def keep_nothing(*_: Any) -> dict[str, Any]:
        return {}

    target = "cspdet.checkpoints.initial_weights.match_class_outputs"
    with mock.patch(target, keep_nothing) if start == "headless" else mock.patch.dict({}):
        cspdet.train(args.model, output=run, overrides=overrides, device="cpu")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = max((row for row in metrics if "AP" in row), key=lambda row: row["AP"])
    return {key: best[key] for key in ("AP", "AP50")}


if __name__ == "__main__":
    main()
