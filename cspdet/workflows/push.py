"""Upload a trained model to the Hugging Face Hub: weights as safetensors, a model card, config, metrics and curves."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, cast

from cspdet.checkpoints.loading import load_model
from cspdet.config.loader import dump_config
from cspdet.errors import ConfigError, UserError
from cspdet.exporters.base import ExportConfig, ExportPrecision
from cspdet.exporters.safetensors import SafetensorsFormat
from cspdet.io.atomic import write_text
from cspdet.io.folders import CHECKPOINT_SUFFIXES, increment_path, run_checkpoint
from cspdet.io.model_info import clean_text
from cspdet.io.outputs import RUN_CONFIG, has_mark
from cspdet.models.bundle import ModelBundle
from cspdet.models.profile import profile
from cspdet.recipe import Recipe, recipe_from_dict, recipe_to_dict
from cspdet.reports.model_card import IMAGES, ModelCard
from cspdet.reports.run_metrics import read_runs, select_keys
from cspdet.reports.training_curves import draw_curves
from cspdet.workflows.run_facts import network_name
from cspdet.zoo.hub import WEIGHTS_FILE, check_repo, upload_folder

log = logging.getLogger("cspdet")


class _Options(NamedTuple):
    """Options of an upload; see `push_to_hub`."""

    private: bool
    images: bool
    license: str | None
    precision: ExportPrecision
    output: Path | None


def push_to_hub(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    images: bool = False,
    license: str | None = None,
    precision: ExportPrecision = "fp32",
    output: str | Path | None = None,
) -> str:
    """Upload a trained model to the Hugging Face Hub, with a model card.

    The repository gets `model.safetensors`, `README.md`, `config.yaml`, `metrics.json` and `curves.png`. Local paths in
    the config are reduced to file names.

    Example:
        >>> cspdet.push_to_hub("runs/csppelee_efm_sam", "user/cells", license="mit")
        'https://huggingface.co/user/cells'
        >>> cspdet.fetch("hf:user/cells")
        >>> cspdet.load("hf:user/cells").name
        'cells'

    Args:
        run: The folder of a run, or a checkpoint.
        repo: The repository, `user/name`; it is created if it is missing.
        private: Whether the repository is private. An existing public repository is then an error.
        images: Whether sample images of the val split, with predictions, are uploaded.
        license: License of the weights, such as `mit`; None: the license that the checkpoint states.
        precision: Precision of the stored weights: fp32 or fp16.
        output: Folder to which the files are written. If it is given, nothing is uploaded.

    Returns:
        The address of the repository; with `output`, the path of the folder.

    Raises:
        UserError: There is no such run, the weights do not fit the precision, access is denied, or the upload fails.
    """
    options = _Options(private, images, license, precision, None if output is None else Path(output))
    run = _check(Path(run), repo, options)
    bundle = _public_bundle(load_model(run), repo, license)
    if bundle.info.license is None:
        log.warning("%s: the model card states no license, so nobody may use the model; use --license", repo)
    with _folder(options.output) as folder:
        _write_files(folder, run_checkpoint(run), bundle, repo, options)
        return str(folder) if output is not None else upload_folder(folder, repo, private=private)


def _check(run: Path, repo: str, options: _Options) -> Path:
    """Raise UserError if an argument is invalid; return the run."""
    check_repo(repo)
    if options.license is not None and clean_text(options.license) != options.license:
        raise ConfigError("--license: expected an identifier such as mit, or a short text")
    SafetensorsFormat("safetensors").check_options(ExportConfig(precision=options.precision))
    if not (run_checkpoint(run).is_file() and run_checkpoint(run).suffix in CHECKPOINT_SUFFIXES):
        raise UserError(f"{run}: expected the folder of a run with best.pt, or a checkpoint (.pt, .safetensors)")
    return run


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    """Yield a new folder named after `output`; None: a temporary folder that is removed afterwards."""
    if output is not None:
        yield increment_path(output)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _public_bundle(bundle: ModelBundle, repo: str, license_: str | None) -> ModelBundle:
    """Return the model, renamed to the repository name; local paths in its config are reduced to file names."""
    values = _without_folders(recipe_to_dict(cast(Recipe, bundle.config)))
    config = recipe_from_dict(bundle.task, values, bundle.name)
    changes = {"name": repo.split("/")[1], **({} if license_ is None else {"license": license_})}
    return replace(bundle, config=config, info=bundle.info.model_copy(update=changes))


def _without_folders(value: Any) -> Any:
    """Replace the absolute paths in nested dicts and lists by their file names."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and "\n" not in value:
        path = next((path for path in (PurePosixPath(value), PureWindowsPath(value)) if path.is_absolute()), None)
        return value if path is None else path.name
    return value


def _write_files(folder: Path, checkpoint: Path, bundle: ModelBundle, repo: str, options: _Options) -> None:
    """Write all files of the repository.

    Args:
        folder: The output folder.
        checkpoint: The file of the model. If it is the best.pt or last.pt of a run, results of the run are used.
        bundle: The model.
        repo: `user/name`.
        options: The options.
    """
    SafetensorsFormat("safetensors").export(
        bundle, ExportConfig(precision=options.precision), folder / WEIGHTS_FILE
    )  # fmt: skip
    write_text(folder / "config.yaml", dump_config(cast(Recipe, bundle.config)))
    _copy_results(checkpoint, folder, IMAGES if options.images else ())
    files = tuple(sorted(path.name for path in folder.iterdir()))
    card = ModelCard(repo, bundle.task, bundle.categories.names, bundle.info, _facts(bundle, options), files)
    write_text(folder / "README.md", card.render())


def _copy_results(checkpoint: Path, folder: Path, images: tuple[str, ...]) -> None:
    """Copy metrics and images of the best.pt of a run, and draw the curves of the run.

    Nothing is copied from a folder that `cspdet train` did not write. The metrics and images of a run are those of its
    best.pt, not of its last.pt.
    """
    run_dir = checkpoint.parent
    if checkpoint.name not in ("best.pt", "last.pt") or not has_mark(run_dir / "config.yaml", RUN_CONFIG):
        return
    for name in ("metrics.json", *images) if checkpoint.name == "best.pt" else ():
        if (run_dir / name).is_file():
            shutil.copyfile(run_dir / name, folder / name)
    if (run_dir / "metrics.jsonl").is_file():
        runs = read_runs([run_dir])
        draw_curves(runs, select_keys(runs, None, "epoch"), folder / "curves.png")


def _facts(bundle: ModelBundle, options: _Options) -> tuple[tuple[str, str], ...]:
    config = recipe_to_dict(cast(Recipe, bundle.config))
    cost = profile(bundle.torch_network, bundle.config.input.size)
    height, width = bundle.config.input.size
    return (
        ("network", network_name(config) or str(config["model"].get("name", bundle.task))),
        ("parameters", f"{cost.parameters / 1e6:.2f} M, stored in {options.precision}"),
        ("operations", f"{cost.bflops:.2f} BFLOPs at {width}x{height}"),
        ("input", f"{width}x{height} pixels (width x height), {bundle.config.input.resize}"),
    )
