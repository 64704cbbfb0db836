"""Report of the weights that were loaded from a file, and of the weights that were not loaded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from cspdet.errors import truncate_list
from cspdet.io.csv_text import format_csv

log = logging.getLogger("cspdet")

Shape = tuple[int, ...]
# Buffer of batch normalization that other formats do not store and that does not affect results.
BN_COUNTER_SUFFIX = "num_batches_tracked"


@dataclass(frozen=True)
class TransferEntry:
    """Name and shapes of a tensor.

    Attributes:
        name: Name in the state dict.
        shape: Shape in the network; None if the network does not have this tensor.
        file_shape: Shape in the file; None if the file does not have this tensor.
        by_class: Whether the outputs of a class layer were loaded by the names of the classes.
    """

    name: str
    shape: Shape | None
    file_shape: Shape | None
    by_class: bool = False

    @property
    def loaded(self) -> bool:
        """Whether the tensor was loaded, because both shapes are equal or its outputs were matched by class."""
        return self.by_class or (self.shape is not None and self.shape == self.file_shape)

    @property
    def taken(self) -> str:
        """The cell of the CSV report: yes, by class, or no."""
        return "by class" if self.by_class else "yes" if self.loaded else "no"

    @property
    def mismatch_reason(self) -> str:
        """Reason why the tensor was not loaded."""
        return "not in the file" if self.file_shape is None else f"found {self.file_shape}"

    @property
    def part(self) -> str:
        """Name of the top-level module, such as backbone, neck or head."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class TransferReport:
    """Report of which tensors of a file were loaded into a network.

    `entries` contains the tensors of the network in order, then the tensors that are only in the file. `classes` are
    the names of the classes of the data whose outputs were loaded.
    """

    source: str  # the file, or timm:NAME
    entries: tuple[TransferEntry, ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def compare(
        cls, model: nn.Module, state_dict: Mapping[str, Tensor], source: str, by_class: Collection[str] = ()
    ) -> TransferReport:
        """Create a report by comparing a network with the state dict of a file.

        Args:
            model: The network.
            state_dict: State dict of the file.
            source: Name of the file.
            by_class: Names of the tensors whose outputs were loaded by the names of the classes.
        """
        model_shapes = _shapes(model.state_dict())
        file_shapes = _shapes(state_dict)
        names = [*model_shapes, *(name for name in file_shapes if name not in model_shapes)]
        return cls(
            source,
            tuple(
                TransferEntry(name, model_shapes.get(name), file_shapes.get(name), name in by_class) for name in names
            ),
        )

    def log_summary(self) -> None:
        """Log the number of loaded entries of each part (top-level module), and the first entries that were not loaded.

        If nothing was loaded into a part, its entries that are missing in the file are not listed.
        """
        model_entries = [entry for entry in self.entries if entry.shape is not None]
        total = Counter(entry.part for entry in model_entries)
        loaded = Counter(entry.part for entry in model_entries if entry.loaded)
        counts = ", ".join(f"{part} {loaded[part]} of {count}" for part, count in total.items())
        log.info("%s: loaded %d of the %d network entries: %s", self.source, loaded.total(), total.total(), counts)
        not_loaded = [
            entry
            for entry in model_entries
            if not entry.loaded and (entry.file_shape is not None or loaded[entry.part])
        ]
        for line in truncate_list(
            [f"{entry.name}, expected {entry.shape}, {entry.mismatch_reason}" for entry in not_loaded]
        ):
            log.info("  not loaded: %s", line)
        unused = [entry.name for entry in self.entries if entry.shape is None]
        if unused:
            more = f" and {len(unused) - 1} more" if unused[1:] else ""
            log.info("  in the file, not in the network: %s%s", unused[0], more)

    def to_csv(self) -> str:
        """Format all entries as CSV. A shape is written as 64x32x3x3; a missing shape is empty.

        The columns are `entry`, the name of the tensor; `shape`, its shape in the network; `found`, its shape in the
        file; and `taken`: `yes` if the tensor was loaded, `by class` if its outputs were loaded by class name, else
        `no`.
        """
        rows = ((entry.name, _cell(entry.shape), _cell(entry.file_shape), entry.taken) for entry in self.entries)
        return format_csv(("entry", "shape", "found", "taken"), rows)


def _shapes(entries: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in entries.items() if not name.endswith(BN_COUNTER_SUFFIX)}


def _cell(shape: Shape | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "1"  # a scalar has the shape ()
