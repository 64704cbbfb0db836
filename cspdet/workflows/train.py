"""A training run: lock the run folder, read the recipe and the data, build the network, and train it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from cspdet.errors import DataError
from cspdet.recipe import Recipe, recipe_to_dict

if TYPE_CHECKING:
    from cspdet.io.checkpoint import Checkpoint
    from cspdet.training.distributed.context import DistributedContext
    from cspdet.training.run.options import TrainOptions
    from cspdet.training.run.run_lock import RunLock
    from cspdet.training.tasks.base import Task, TrainingData

log = logging.getLogger("cspdet")


class TrainingRun(NamedTuple):
    """Folder and exit code of a training run."""

    run_dir: Path  # contains best.pt, last.pt, metrics.jsonl ...
    exit_code: int  # 0; for a stopped run, which can be resumed, 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP)


def run_training(options: TrainOptions) -> TrainingRun:
    """Train a detector or a classifier, or resume a run.

    Args:
        options: Arguments of the run: the config or the run to resume, the output folder, and others.

    Raises:
        UserError: The config, data, weights or folder is missing or invalid.
    """
    from cspdet.checkpoints.finetune import use_model_as_config
    from cspdet.checkpoints.resume import load_recipe_or_resume
    from cspdet.training.cpu_threads import cpu_threads, resolve_cpu_threads
    from cspdet.training.distributed.context import init_distributed, is_main_process
    from cspdet.training.run.options import lock_run_dir
    from cspdet.training.run.run_lock import RunLock

    options.validate()
    options = use_model_as_config(options.resume_after_restart())
    with RunLock(active=is_main_process()) as lock:
        lock_run_dir(options, lock)
        recipe, checkpoint = load_recipe_or_resume(options)
        if options.data is not None:
            recipe = recipe.model_copy(update={"data": options.data.absolute()})
        threads = resolve_cpu_threads(recipe.train.cpu_threads, options.device, os.environ)
        if threads is not None:  # saved with the run, so that a resumed run computes the same
            recipe = _with_train(recipe, cpu_threads=threads)
        with cpu_threads(threads), init_distributed(options.device, recipe.train.timeout_minutes) as context:
            return _train(options, recipe, checkpoint, context, lock)


def _train(
    options: TrainOptions, recipe: Recipe, checkpoint: Checkpoint | None, context: DistributedContext, lock: RunLock
) -> TrainingRun:
    from cspdet.checkpoints.building import with_num_classes
    from cspdet.checkpoints.resume import build_initial_network
    from cspdet.config.loader import dump_config
    from cspdet.evaluation.detection import format_classes
    from cspdet.training.batch_size import min_images_per_process, resolve_batch_size
    from cspdet.training.epoch_end import run_summary
    from cspdet.training.run.options import resolve_run_dir
    from cspdet.training.run.run_dir import RunDir
    from cspdet.training.tasks import TASKS
    from cspdet.training.trainer import Trainer
    from cspdet.workflows.run_facts import training_info
    from cspdet.workflows.run_report import plot_run, report_run

    task_type: type[Task[Any, Any, Any]] = TASKS.get(recipe.task)
    data = task_type.load_data(recipe.data, recipe.train.on_bad_image)
    if checkpoint is not None and checkpoint.categories != data.categories:
        expected, found = (format_classes(one) for one in (checkpoint.categories, data.categories))
        raise DataError(
            f"{data.source}: its classes differ from those of the resumed run: expected {expected}; found {found}"
        )
    given, recipe = recipe, with_num_classes(recipe, len(data.categories))
    if given.model != recipe.model:
        log.info(
            "%s: the network has %d outputs, one per class of the data", options.config_source, len(data.categories)
        )
    network, transfer_report = build_initial_network(options, recipe, checkpoint, data.categories.names)
    task_type.check_network(recipe.train, network)
    batch_size = resolve_batch_size(recipe.train, recipe.input.size, network, options.device, context)
    recipe = _with_train(recipe, batch_size=batch_size)
    path = resolve_run_dir(options, context, lock)

    weights = options.weights if checkpoint is None else checkpoint.info.initial_weights
    task = _build_task(task_type, recipe, path, data, options, context)
    least = min_images_per_process(recipe.train, recipe.input.size, max(network.strides))
    if least > 1:
        task.loader.require_images(least)
    run_dir = RunDir(
        path, recipe.task, recipe_to_dict(recipe), data.categories, training_info(path, recipe, data, weights)
    )
    if context.is_main_process:
        run_dir.start(dump_config(recipe), None if transfer_report is None else transfer_report.to_csv())
    trainer: Trainer[Any, Any] = Trainer(network, task, recipe.train, run_dir, options.device, context)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    processes = f"{context.world_size} processes, " if context.world_size > 1 else ""
    log.info("%s; %s%s, %s; into %s", data.summary, processes, options.device, trainer.precision, path)
    exit_code = trainer.run(options.stop_after)
    if exit_code == 0:
        log.info("%s", run_summary(path, task.val_image_name))
    if context.is_main_process:
        plot_run(path)
        report_run(path, recipe, data, network, is_complete=exit_code == 0)
    return TrainingRun(path, exit_code)


def _with_train(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def _build_task(
    task_type: type[Task[Any, Any, Any]],
    recipe: Recipe,
    run_dir: Path,
    data: TrainingData[Any],
    options: TrainOptions,
    context: DistributedContext,
) -> Task[Any, Any, Any]:
    """Build the task. With `train.cache: disk`, the default cache folder is `cache` in the run folder."""
    if recipe.train.cache == "disk" and recipe.train.cache_folder is None:
        recipe = _with_train(recipe, cache_folder=run_dir / "cache")
    build = cast(Any, task_type)
    task: Task[Any, Any, Any] = build(recipe.input, recipe.train, recipe.eval, data, options.device, context.shard)
    return task
