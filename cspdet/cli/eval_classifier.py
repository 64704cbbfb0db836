"""Top-1 and top-5 accuracy of a classifier on an image folder: DIR/val/CLASS/*, or the list DIR/val.txt.

  cspdet eval-classifier runs/csppeleenet/best.pt --data imagenet
  cspdet eval-classifier classification/cspresnet50 --weights csresnet50.weights --data imagenet --crop 1

The short side of each image is resized, and the center is cropped to the input size. For an input of 256 and the
default --crop 0.887, the short side is resized to 288 pixels, and 256x256 pixels are cropped. Classes of data and model
are matched by name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.cli.arguments import add_device_argument, add_model_options, check_model, model_file, print_lines
from cspdet.datasets.config import INTERPOLATIONS
from cspdet.io.atomic import write_text
from cspdet.io.csv_text import CsvRow, format_csv
from cspdet.io.folders import increment_path
from cspdet.io.names import count
from cspdet.io.outputs import METRICS_JSON, OutputFile, check_outputs
from cspdet.io.tables import Table
from cspdet.models.config import ClassifierEvalConfig

if TYPE_CHECKING:
    import numpy as np

    from cspdet.datasets.classification.image_folder import ImageFolderDataset
    from cspdet.evaluation.classification import ClassifierMetrics
    from cspdet.workflows.evaluate import ClassificationEvaluation

MAX_LISTED_CLASSES = 50  # with more classes, only the worst are printed
NUM_WORST_CLASSES = 20
MAX_CONFUSIONS = 20

Document = dict[str, Any]  # metrics.json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval-classifier`."""
    parser.add_argument(
        "model", type=model_file, metavar="MODEL", help="a checkpoint, a run folder, or a config with --weights"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with val/CLASS/* (default: `data` of the config)"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="for a config: a checkpoint, or Darknet's .weights"
    )
    parser.add_argument("--split", choices=("train", "val"), default="val", help="split (default: %(default)s)")
    add_crop_arguments(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per forward pass (default: 32)")
    parser.add_argument("--workers", type=int, metavar="N", help="number of loader processes")
    add_device_argument(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder (default: runs/eval-classifier, or -2 ... if it exists)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the metrics, and write metrics.json and predictions.csv to the output folder."""
    check_model(args.model, args.overrides)
    check_eval_outputs(args.output, (args.model, args.weights))
    from cspdet.workflows.evaluate import EvaluationOptions, evaluate_model

    settings = {name: getattr(args, name) for name in ClassifierEvalConfig.model_fields}
    evaluation = evaluate_model(
        EvaluationOptions(
            args.model, args.weights, args.overrides, "classification", args.data, args.split, args.device,
            settings={name: value for name, value in settings.items() if value is not None},
            interpolation=args.interpolation,
        )
    )  # fmt: skip
    if evaluation.task == "classification":
        print_classification(args, evaluation)


def check_eval_outputs(output: Path | None, inputs: Sequence[str | Path | None]) -> None:
    """Raise UserError if a result in the output folder would replace an input, or a file that cspdet did not write.

    Without an output folder, raise UserError if `runs`, in which the command creates one, is not writable.
    """
    if output is None:
        check_outputs([OutputFile(Path("runs") / "eval-new" / "metrics.json", None)])
        return
    others = (output / "detections.json", output / "predictions.csv")
    check_outputs([OutputFile(output / "metrics.json", METRICS_JSON, others)], inputs)


def print_classification(args: argparse.Namespace, evaluation: ClassificationEvaluation) -> None:
    """Print the metrics, and write metrics.json and predictions.csv to the output folder."""
    document = _document(evaluation)
    output = args.output or increment_path(Path("runs/eval-classifier"))
    write_text(output / "metrics.json", json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    write_text(output / "predictions.csv", predictions_csv(evaluation.metrics, evaluation.images))
    if args.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        print_lines([*format_table(document), "", f"written to {output}"])


def add_crop_arguments(parser: argparse._ActionsContainer, *, ten_crop: bool = True) -> None:
    """Add the arguments that control how images are resized and cropped to the input of a classifier."""
    parser.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="short side of the resized image in pixels (default: longer side of the input / --crop)",
    )
    parser.add_argument(
        "--crop", type=float, metavar="FRACTION", help="input size / short side of the resized image (default: 0.887)"
    )
    if ten_crop:
        parser.add_argument(
            "--ten-crop",
            action="store_true",
            default=None,
            help="average the predictions over the four corners, the center, and their mirror images",
        )
    parser.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        default="bilinear",
        help="interpolation of the resizing (default: %(default)s)",
    )


def eval_config_from_args(args: argparse.Namespace, base: ClassifierEvalConfig) -> ClassifierEvalConfig:
    """Return the `eval` section of a classifier config with the values from the command line.

    Raises:
        ConfigError: The values are invalid.
    """
    from cspdet.inference.classifier import override_eval_config

    given = {name: getattr(args, name, None) for name in ClassifierEvalConfig.model_fields}
    return override_eval_config(base, {name: value for name, value in given.items() if value is not None})


def _document(evaluation: ClassificationEvaluation) -> Document:
    metrics, images, crop = evaluation.metrics, evaluation.images, evaluation.crop
    return {
        "top1": metrics.top1,
        "top5": metrics.top5,
        "per_class": {name: of_class._asdict() for name, of_class in metrics.per_class.items()},
        "confusions": top_confusions(metrics.confusion, images.classes),
        "images": metrics.images,
        "split": images.split,
        "model": evaluation.model,
        "size": list(crop.size_hw),
        "resize": crop.resize,
        "ten_crop": crop.ten_crop,
        "interpolation": crop.interpolation,
    }


def top_confusions(confusion: np.ndarray, names: tuple[str, ...]) -> list[Document]:
    """Return the most frequent wrong predictions in a (C, C) confusion matrix, most frequent first."""
    import numpy as np

    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [(*divmod(int(index), len(names)), int(wrong.flat[index])) for index in order if wrong.flat[index]]
    return [{"class": names[true], "predicted": names[predicted], "images": count} for true, predicted, count in pairs]


def predictions_csv(metrics: ClassifierMetrics, images: ImageFolderDataset) -> str:
    """Return the predictions as CSV text, one line per image.

    The columns are path, true class, whether top-1 is correct (1 or 0), and the top classes with their probabilities.
    """
    rows: list[CsvRow] = []
    ranks = range(1, metrics.ranked.shape[1] + 1)
    head = [column for rank in ranks for column in (f"predicted_{rank}", f"score_{rank}")]
    for i, (ranked, scores) in enumerate(zip(metrics.ranked.tolist(), metrics.scores.tolist(), strict=True)):
        label = int(images.label[i])
        correct = int(ranked[0] == label and scores[0] > 0)
        best = [column for c, s in zip(ranked, scores, strict=True) for column in (images.classes[c], f"{s:.6f}")]
        rows.append([images.name(i), images.classes[label], correct, *best])
    return format_csv(["path", "class", "correct", *head], rows)


def format_table(document: Document) -> list[str | Table]:
    """Return the lines that are printed: top-1 and top-5, accuracy per class, and the most frequent confusions."""
    height, width = document["size"]
    seen = f"{'ten crops' if document['ten_crop'] else 'center'} of {height}x{width}, short side {document['resize']}"
    lines: list[str | Table] = [
        f"{count(document['images'], 'image')}, {seen}", "",
        f"top-1 {_percent(document['top1'])}", f"top-5 {_percent(document['top5'])}",
    ]  # fmt: skip
    rows = {name: row for name, row in document["per_class"].items() if row["images"]}
    if len(rows) > MAX_LISTED_CLASSES:
        rows = dict(sorted(rows.items(), key=lambda row: row[1]["top1"])[:NUM_WORST_CLASSES])
        lines += ["", f"the {len(rows)} worst of {len(document['per_class'])} classes (metrics.json has all)"]
    cells = [[name, f"{row['images']:,}", _percent(row["top1"]), _percent(row["top5"])] for name, row in rows.items()]
    lines += ["", Table(("class", "images", "top-1", "top-5"), cells)]
    mistakes = [[found["class"], found["predicted"], str(found["images"])] for found in document["confusions"][:5]]
    return [*lines, "", Table(("most confused", "as", "images"), mistakes, num_text=2)] if mistakes else lines


def _percent(fraction: float | None) -> str:
    return "--" if fraction is None else f"{100 * fraction:.2f}%"


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("eval-classifier"))
