"""Export to Darknet: .cfg, .weights and .names files."""

from __future__ import annotations

from pathlib import Path

from cspdet.darknet.write.export import build_darknet_files, darknet_paths, write_darknet
from cspdet.exporters.base import ExportConfig, ExportFormat, ExportResult
from cspdet.models.bundle import ModelBundle


class DarknetFormat(ExportFormat):
    """Export format of Darknet: a .cfg file, with .weights and .names files next to it.

    The export is verified by loading the files into a new network.
    """

    suffixes = (".cfg",)

    def files(self, target: Path) -> tuple[Path, ...]:
        """Return the paths of the three files."""
        return darknet_paths(target)

    def export(self, bundle: ModelBundle, config: ExportConfig, target: Path) -> ExportResult:
        """Write the three files; see `ExportFormat.export`."""
        self.check_options(config)
        files = build_darknet_files(bundle, config.size_hw, bundle.name)
        written = write_darknet(files, bundle.torch_network, target)
        height, width = files.size_hw
        return ExportResult(
            written.paths, files.size_hw, len(files.names), written.relative_error,
            f"{written.num_weights:,} weights for {height}x{width}", {"numbers": written.num_weights},
        )  # fmt: skip
