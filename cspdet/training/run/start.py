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

from cspdet.checkpoints.initial_weights import start_from
from cspdet.checkpoints.load_report import TransferReport
from cspdet.config.loader import load_config, parse_config
from cspdet.device import pick_device
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint
from cspdet.recipe import ClassifierRecipe, Recipe, recipe_to_plain
from cspdet.structures import Classes
from cspdet.training.distributed.context import World, may_restart, own_device, restarts
from cspdet.training.run.run_dir import RunFolder
from cspdet.training.run.run_lock import RunLock
from cspdet.training.tasks.base import B, Model, Task
from cspdet.training.trainer import Trainer, report_folder

log = logging.getLogger("cspdet")

AnyRecipe = TypeVar("AnyRecipe", Recipe, ClassifierRecipe)

# What may change between the parts of one run: nothing that the numbers of the steps already made depend on.
MAY_CHANGE = ("data", "eval", "train.epochs", "train.workers", "train.cache", "train.evaluate_every",
              "train.save_every_minutes", "train.bad_pictures", "train.cache_folder", "train.patience",
              "train.timeout_minutes", "train.compile")  # fmt: skip
VERB_OF = {Recipe: "train", ClassifierRecipe: "train-classifier"}


@dataclass(frozen=True)
class Request:
    """What stood on the command line."""

    config: Path | None
    output: Path | None
    resume: Path | None
    weights: str | None
    device: torch.device
    stop_after: int | None
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> Request:
        """Raises ConfigError for what cannot be, whatever the config says."""
        if args.stop_after is not None and args.stop_after < 1:
            raise ConfigError(f"--stop-after: expected 1 or more, found {args.stop_after}")
        if args.resume is not None and (args.weights is not None or args.output is not None):
            raise ConfigError(
                "--resume goes on in its own folder with its own weights; leave out --weights and --output"
            )
        return cls(
            args.config, args.output, args.resume, args.weights, own_device(pick_device(args.device)), args.stop_after,
            tuple(args.overrides),
        ).after_restart()  # fmt: skip

    def after_restart(self) -> Request:
        """What it means when torchrun starts the same line again after a failure: go on with what was saved."""
        if self.resume is not None or not may_restart():
            return self
        if self.output is None:
            raise ConfigError("torchrun --max-restarts: name a folder with --output, so that a restart finds it")
        if not restarts() or not (self.output / "last.pt").exists():
            return self
        return replace(self, config=None, output=None, resume=self.output, weights=None, overrides=())

    @property
    def where(self) -> str:
        """What messages about the config name."""
        return str(self.config or self.resume)


def add_run_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """What every training command takes; `what` is trained."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help=f"a {what}'s config file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/<config name>, -2, -3 ... when taken")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on where the run in this folder stopped")
    parser.add_argument(
        "--weights", metavar="FILE",
        help="start from what fits of a checkpoint (.pt), Darknet's .weights or .conv.N, or timm:NAME",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after epoch N; --resume goes on")


def lock_named(request: Request, lock: RunLock) -> None:
    """Keep other runs out of the folder that was named, before anything in it is read: what is read stays true.

    Raises:
        UserError: another process trains there, or it cannot be written.
    """
    named = request.resume or request.output
    if named is not None:
        lock.take(named)


def read_request(
    request: Request,
    schema: type[AnyRecipe],
    example: str,
    for_classes: Callable[[AnyRecipe, int], AnyRecipe] = lambda recipe, count: recipe,
) -> tuple[AnyRecipe, Checkpoint | None]:
    """The recipe, and the checkpoint to go on with, if any; overrides of that may only touch what is harmless.

    for_classes  gives the recipe for a number of classes, where its network says how many it has

    Raises:
        ConfigError, CheckpointError: with what was expected and found.
    """
    verb = VERB_OF[schema]
    if request.resume is None:
        if request.config is None:
            raise ConfigError(f"{verb}: expected a CONFIG, such as {example}, or --resume DIR")
        if request.output is not None and (request.output / "last.pt").exists():
            raise ConfigError(
                f"{request.output}: holds a run already; go on with cspdet {verb} --resume {request.output}, "
                "or choose another --output"
            )
        return load_config(request.config, schema, request.overrides), None
    path = request.resume / "last.pt"
    checkpoint = load_checkpoint(path)
    if checkpoint.training is None:
        raise CheckpointError(f"{path}: holds no training state to resume from")
    if not isinstance(checkpoint.recipe, schema):
        other = VERB_OF[type(checkpoint.recipe)]
        raise ConfigError(f"{path}: is of another kind; go on with: cspdet {other} --resume {request.resume}")
    if request.config is not None:
        given = for_classes(load_config(request.config, schema), len(checkpoint.classes))
        if given.model != checkpoint.recipe.model:
            raise ConfigError(f"{request.config}: describes another network than the run in {request.resume}")
    _tell_edits(request.resume / "config.yaml", checkpoint.recipe, schema)
    for word in request.overrides:
        key = word.split("=")[0]
        if not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE):
            raise ConfigError(f"override {word!r}: cannot change on --resume; what can: {', '.join(MAY_CHANGE)}")
    return parse_config(recipe_to_plain(checkpoint.recipe), schema, str(path), request.overrides), checkpoint


def _tell_edits(path: Path, recipe: Recipe | ClassifierRecipe, schema: type[AnyRecipe]) -> None:
    """Whoever edits the file that lists the run's values expects something of it."""
    try:
        same = not path.exists() or load_config(path, schema) == recipe
    except ConfigError:
        same = False
    if not same:
        log.warning(
            "%s: is not what last.pt was trained with, and has no effect; what may change is said as key=value", path
        )


def first_model(
    request: Request, checkpoint: Checkpoint | None, seed: int, build: Callable[[bool], Model]
) -> tuple[Model, TransferReport | None]:
    """The network with its first weights, drawn by `seed`, then those that the config or --weights asks for; and what
    became of each entry of --weights.

    build  makes the network, with the weights that the config asks for when its argument is true
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(checkpoint is None)
    if request.weights is None or checkpoint is not None:
        return model, None
    return model, start_from(model, request.weights)


def pick_folder(request: Request, world: World, lock: RunLock) -> Path:
    """Where the run goes: as named, or a free one that rank 0 chooses and keeps other runs out of."""
    named = request.resume or request.output
    if named is not None:
        return named
    stem = request.config.stem if request.config is not None else "run"
    return world.share(lock.take_free(Path("runs") / stem) if world.is_first else Path())


def with_cache_folder(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """The recipe with a place for `cache: disk`: the run's own, where the config names none."""
    if recipe.train.cache != "disk" or recipe.train.cache_folder is not None:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"cache_folder": folder / "cache"})})


def open_folder(
    path: Path, recipe: AnyRecipe, classes: Classes, transferred: TransferReport | None, world: World
) -> RunFolder:
    """The run's folder, with its config.yaml, and transfer.csv where it starts from other weights."""
    folder = RunFolder(path, recipe, classes)
    if world.is_first:
        folder.start(transferred)
    return folder


def train(
    model: Model,
    task: Task[Model, B],
    folder: RunFolder,
    request: Request,
    checkpoint: Checkpoint | None,
    data: str,
    world: World,
) -> int:
    """Run the loop; the exit code is its own. `data` tells in the log what is trained on."""
    trainer = Trainer(model, task, folder, request.device, world)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    processes = f"{world.size} processes, " if world.size > 1 else ""
    log.info("%s; %s%s, %s; into %s", data, processes, request.device, trainer.precision, folder.path)
    code = trainer.run(request.stop_after)
    if code == 0:
        log.info("%s", report_folder(folder.path, task.val_picture))
    return code
