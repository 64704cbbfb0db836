"""What a training command does before and after the loop: read the config or the run to go on with, take starting
weights, make the folder, train.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from cspdet.checkpoints.initial_weights import load_initial_weights
from cspdet.checkpoints.load_report import TransferReport
from cspdet.checkpoints.recipes import recipe_from_checkpoint, task_of_recipe
from cspdet.config.aliases import rename_override
from cspdet.config.loader import dump_config, load_config, parse_config
from cspdet.device import select_device
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, recipe_to_dict
from cspdet.structures import Categories
from cspdet.training.distributed.context import DistributedContext, local_device, may_restart, restart_count
from cspdet.training.run.run_dir import RunDir
from cspdet.training.run.run_lock import RunLock
from cspdet.training.tasks.base import BatchT, ModelT, Task
from cspdet.training.trainer import Trainer, run_summary

log = logging.getLogger("cspdet")

RecipeT = TypeVar("RecipeT", DetectionRecipe, ClassificationRecipe)

# What may change between the parts of one run: nothing that the numbers of the steps already made depend on.
RESUME_OVERRIDABLE = ("data", "eval", "train.epochs", "train.workers", "train.cache", "train.eval_interval",
              "train.checkpoint_interval_minutes", "train.on_bad_image", "train.cache_folder", "train.patience",
              "train.timeout_minutes", "train.compile")  # fmt: skip
COMMAND_BY_RECIPE = {DetectionRecipe: "train", ClassificationRecipe: "train-classifier"}


@dataclass(frozen=True)
class TrainArgs:
    """What stood on the command line."""

    config: Path | None
    output: Path | None
    resume: Path | None
    weights: str | None
    device: torch.device
    stop_after: int | None
    overrides: tuple[str, ...]

    @classmethod
    def from_namespace(cls, args: argparse.Namespace) -> TrainArgs:
        """Raises ConfigError for what cannot be, whatever the config says."""
        if args.stop_after is not None and args.stop_after < 1:
            raise ConfigError(f"--stop-after: expected 1 or more, found {args.stop_after}")
        if args.resume is not None and (args.weights is not None or args.output is not None):
            raise ConfigError(
                "--resume goes on in its own folder with its own weights; leave out --weights and --output"
            )
        return cls(
            args.config, args.output, args.resume, args.weights, local_device(select_device(args.device)), args.stop_after,
            tuple(args.overrides),
        ).resume_after_restart()  # fmt: skip

    def resume_after_restart(self) -> TrainArgs:
        """What it means when torchrun starts the same line again after a failure: go on with what was saved."""
        if self.resume is not None or not may_restart():
            return self
        if self.output is None:
            raise ConfigError("torchrun --max-restarts: name a folder with --output, so that a restart finds it")
        if not restart_count() or not (self.output / "last.pt").exists():
            return self
        return replace(self, config=None, output=None, resume=self.output, weights=None, overrides=())

    @property
    def config_source(self) -> str:
        """What messages about the config name."""
        return str(self.config or self.resume)


def add_run_arguments(parser: argparse.ArgumentParser, model_type: str) -> None:
    """What every training command takes; `what` is trained."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help=f"a {model_type}'s config file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/<config name>, -2, -3 ... when taken")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on where the run in this folder stopped")
    parser.add_argument(
        "--weights", metavar="FILE",
        help="start from what fits of a checkpoint (.pt), Darknet's .weights or .conv.N, or timm:NAME",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after epoch N; --resume goes on")


def lock_run_dir(train_args: TrainArgs, lock: RunLock) -> None:
    """Keep other runs out of the folder that was named, before anything in it is read: what is read stays true.

    Raises:
        UserError: another process trains there, or it cannot be written.
    """
    named = train_args.resume or train_args.output
    if named is not None:
        lock.acquire(named)


def load_recipe_or_resume(
    train_args: TrainArgs,
    schema: type[RecipeT],
    example: str,
    with_num_classes: Callable[[RecipeT, int], RecipeT] = lambda recipe, count: recipe,
) -> tuple[RecipeT, Checkpoint | None]:
    """The recipe, and the checkpoint to go on with, if any; overrides of that may only touch what is harmless.

    for_classes  gives the recipe for a number of classes, where its network says how many it has

    Raises:
        ConfigError, CheckpointError: with what was expected and found.
    """
    command = COMMAND_BY_RECIPE[schema]
    if train_args.resume is None:
        if train_args.config is None:
            raise ConfigError(f"{command}: expected a CONFIG, such as {example}, or --resume DIR")
        if train_args.output is not None and (train_args.output / "last.pt").exists():
            raise ConfigError(
                f"{train_args.output}: holds a run already; go on with cspdet {command} --resume {train_args.output}, "
                "or choose another --output"
            )
        return load_config(train_args.config, schema, train_args.overrides), None
    path = train_args.resume / "last.pt"
    checkpoint = load_checkpoint(path)
    if checkpoint.training is None:
        raise CheckpointError(f"{path}: holds no training state to resume from")
    recipe = recipe_from_checkpoint(checkpoint, str(path))
    if not isinstance(recipe, schema):
        other = COMMAND_BY_RECIPE[type(recipe)]
        raise ConfigError(f"{path}: is of another kind; go on with: cspdet {other} --resume {train_args.resume}")
    if train_args.config is not None:
        given = with_num_classes(load_config(train_args.config, schema), len(checkpoint.categories))
        if given.model != recipe.model:
            raise ConfigError(f"{train_args.config}: describes another network than the run in {train_args.resume}")
    _warn_if_config_edited(train_args.resume / "config.yaml", recipe, schema)
    for word in train_args.overrides:
        key = rename_override(word).split("=")[0]
        if not any(key == overridable or key.startswith(f"{overridable}.") for overridable in RESUME_OVERRIDABLE):
            raise ConfigError(
                f"override {word!r}: cannot change on --resume; what can: {', '.join(RESUME_OVERRIDABLE)}"
            )
    return parse_config(recipe_to_dict(recipe), schema, str(path), train_args.overrides), checkpoint


def _warn_if_config_edited(path: Path, recipe: DetectionRecipe | ClassificationRecipe, schema: type[RecipeT]) -> None:
    """Whoever edits the file that lists the run's values expects something of it."""
    try:
        unchanged = not path.exists() or load_config(path, schema) == recipe
    except ConfigError:
        unchanged = False
    if not unchanged:
        log.warning(
            "%s: is not what last.pt was trained with, and has no effect; what may change is said as key=value", path
        )


def build_initial_model(
    train_args: TrainArgs, checkpoint: Checkpoint | None, seed: int, build: Callable[[bool], ModelT]
) -> tuple[ModelT, TransferReport | None]:
    """The network with its first weights, drawn by `seed`, then those that the config or --weights asks for; and what
    became of each entry of --weights.

    build  makes the network, with the weights that the config asks for when its argument is true
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(checkpoint is None)
    if train_args.weights is None or checkpoint is not None:
        return model, None
    return model, load_initial_weights(model, train_args.weights)


def resolve_run_dir(train_args: TrainArgs, context: DistributedContext, lock: RunLock) -> Path:
    """Where the run goes: as named, or a free one that rank 0 chooses and keeps other runs out of."""
    named = train_args.resume or train_args.output
    if named is not None:
        return named
    stem = train_args.config.stem if train_args.config is not None else "run"
    return context.broadcast(lock.acquire_unused(Path("runs") / stem) if context.is_main_process else Path())


def with_cache_folder(recipe: RecipeT, run_dir: Path) -> RecipeT:
    """The recipe with a place for `cache: disk`: the run's own, where the config names none."""
    if recipe.train.cache != "disk" or recipe.train.cache_folder is not None:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"cache_folder": run_dir / "cache"})})


def open_run_dir(
    path: Path,
    recipe: RecipeT,
    classes: Categories,
    transfer_report: TransferReport | None,
    context: DistributedContext,
) -> RunDir:
    """The run's folder, with its config.yaml, and transfer.csv where it starts from other weights."""
    task = task_of_recipe(recipe)
    run_dir = RunDir(path, task, recipe_to_dict(recipe), classes)
    if context.is_main_process:
        run_dir.start(dump_config(recipe), None if transfer_report is None else transfer_report.to_csv())
    return run_dir


def train(
    model: ModelT,
    task: Task[ModelT, BatchT],
    run_dir: RunDir,
    train_args: TrainArgs,
    checkpoint: Checkpoint | None,
    data_summary: str,
    context: DistributedContext,
) -> int:
    """Run the loop; the exit code is its own. `data` tells in the log what is trained on."""
    trainer = Trainer(model, task, run_dir, train_args.device, context)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    processes = f"{context.world_size} processes, " if context.world_size > 1 else ""
    log.info("%s; %s%s, %s; into %s", data_summary, processes, train_args.device, trainer.precision, run_dir.path)
    code = trainer.run(train_args.stop_after)
    if code == 0:
        log.info("%s", run_summary(run_dir.path, task.val_image_name))
    return code
