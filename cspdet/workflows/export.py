"""Export of a model to another format, with verification of the written files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cspdet.checkpoints.loading import load_model
from cspdet.exporters.base import ExportConfig, ExportResult, check_config, load_format
from cspdet.io.folders import CHECKPOINT_SUFFIXES
from cspdet.io.outputs import OutputFile, check_outputs


def export_model(
    model: str | Path,
    format: str,
    output: str | Path | None,
    config: ExportConfig,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> ExportResult:
    """Check all options, then load the model and export it. The arguments are those of `cspdet.export`."""
    export_format = load_format(format)
    if output is not None:
        export_format.check_target(Path(output))
    export_format.check_options(config)
    check_config(config)
    path, suffix = Path(model), export_format.suffixes[0]
    default = path.with_suffix(suffix) if path.suffix in CHECKPOINT_SUFFIXES else Path(f"{path.stem}{suffix}")
    target = default if output is None else Path(output)
    first, *others = export_format.files(target)
    check_outputs([OutputFile(first, export_format.mark, tuple(others))], (model, weights))
    bundle = load_model(model, weights=weights, overrides=overrides)
    return export_format.export(bundle, config, target)
