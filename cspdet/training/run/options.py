"""Options of a training run, and the config keys that can be changed on resume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cspdet.errors import ConfigError
from cspdet.io.outputs import RUN_CONFIG, OutputFile, check_outputs
from cspdet.models.bundle import TaskName
from cspdet.training.distributed.context import DistributedContext, may_restart, restart_count
from cspdet.training.run.run_dir import CONFIG_FILE, RUN_FILES
from cspdet.training.run.run_lock import RunLock

# Keys that can be changed on resume: they do not affect the completed steps.
RESUME_OVERRIDABLE = ("data", "eval", "train.epochs", "train.workers", "train.cache", "train.eval_interval",
              "train.checkpoint_interval_minutes", "train.on_bad_image", "train.cache_folder", "train.patience",
              "train.timeout_minutes", "train.compile", "train.loggers", "train.cpu_fast_paths",
              "train.cpu_threads")  # fmt: skip


@dataclass(frozen=True)
class TrainOptions:
    """The arguments of a training run.

    Attributes:
        config: The config file; None when a run is resumed from its folder alone.
        output: The run folder; None: `runs/<config name>`, with the suffix -2, -3 ... if this folder exists.
        resume: The folder of the run to resume.
        weights: Initial weights: a checkpoint, a Darknet weights file, or timm:NAME.
        device: Device for training.
        stop_after: Stop after this epoch; the run can be resumed.
        overrides: Config overrides, `key.path=value`.
        task: The expected task; None: the task of the config.
        data: Replaces `data` of the config.
    """

    config: Path | None
    output: Path | None = None
    resume: Path | None = None
    weights: str | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 a device is immutable
    stop_after: int | None = None
    overrides: tuple[str, ...] = ()
    task: TaskName | None = None
    data: Path | None = None

    def validate(self) -> None:
        """Raise ConfigError for options that contradict each other or are out of range."""
        if self.stop_after is not None and self.stop_after < 1:
            raise ConfigError(f"--stop-after: expected 1 or more, found {self.stop_after}")
        if self.resume is not None and (self.weights is not None or self.output is not None):
            raise ConfigError(
                "--resume continues in the folder of the run with its weights; remove --weights and --output"
            )

    def resume_after_restart(self) -> TrainOptions:
        """Return options that resume from `last.pt` if torchrun restarted this process; if not, return these options.

        Raises:
            ConfigError: torchrun can restart (`--max-restarts`), but `--output` is missing: a restart needs the folder.
        """
        if self.resume is not None or not may_restart():
            return self
        if self.output is None:
            raise ConfigError("torchrun --max-restarts: name a folder with --output, so that a restart finds it")
        if not restart_count() or not (self.output / "last.pt").exists():
            return self
        return replace(self, config=None, output=None, resume=self.output, weights=None, overrides=())

    @property
    def config_source(self) -> str:
        """The config file or run folder, for messages."""
        return str(self.config or self.resume)


def lock_run_dir(options: TrainOptions, lock: RunLock) -> None:
    """Lock the run folder of the options before files in it are read.

    Raises:
        UserError: Another process trains in the folder, the folder is not writable, or a new run would replace files.
    """
    named = options.resume or options.output
    if named is not None:
        lock.acquire(named)
        if lock.active and options.resume is None and not restart_count():
            check_new_run_dir(named, options.config)


def check_new_run_dir(run_dir: Path, config: Path | None) -> None:
    """Check that a new run replaces no files in a folder that the user named.

    A run that ended before its first `last.pt` may be started again.

    Raises:
        UserError: The folder contains best.pt of another run, or files of the user that the run would replace.
    """
    if (run_dir / "last.pt").exists():
        return  # refused when the recipe is read, with the command that resumes the run
    if (run_dir / "best.pt").exists():
        raise ConfigError(f"--output {run_dir}: holds best.pt of another run; it is kept: expected another folder")
    others = tuple(run_dir / name for name in RUN_FILES)
    check_outputs([OutputFile(run_dir / CONFIG_FILE, RUN_CONFIG, others)], (config,))


def resolve_run_dir(options: TrainOptions, context: DistributedContext, lock: RunLock) -> Path:
    """Return the run folder that the options name; if they name none, rank 0 selects and locks an unused folder."""
    named = options.resume or options.output
    if named is not None:
        return named
    folder = Path("runs") / default_run_name(options.config)
    return context.broadcast(lock.acquire_unused(folder) if context.is_main_process else Path())


def default_run_name(config: Path | None) -> str:
    """Return the stem of the config; for x/best.pt or x/last.pt, return `x`; without a config, return `run`."""
    if config is None:
        return "run"
    folder = config.absolute().parent.name
    return folder if config.name in ("best.pt", "last.pt") and folder else config.stem
