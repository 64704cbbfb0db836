"""What became of each entry of a network, and of a file of weights, when a training began with the file's."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from cspdet.errors import counted

log = logging.getLogger("cspdet")

Shape = tuple[int, ...]
COUNTER = "num_batches_tracked"  # of a normalization; no other program keeps it, and nothing depends on it


@dataclass(frozen=True)
class Entry:
    """A tensor of the network, of the file, or of both: its name and its shape on either side, None where it lacks."""

    name: str
    shape: Shape | None
    found: Shape | None

    @property
    def taken(self) -> bool:
        """Whether the network has it from the file: by name and shape."""
        return self.shape is not None and self.shape == self.found

    @property
    def instead(self) -> str:
        """What the file has under this name."""
        return "not in the file" if self.found is None else f"found {self.found}"

    @property
    def part(self) -> str:
        """The top-level part: backbone, neck, head."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class TransferReport:
    """All entries: the network's in its own order, then those of the file that the network has not."""

    where: str  # the file, or timm:NAME
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, model: nn.Module, given: Mapping[str, Tensor], where: str) -> TransferReport:
        """What of `model` the entries `given` fit."""
        own = _shapes(model.state_dict())
        found = _shapes(given)
        names = [*own, *(name for name in found if name not in own)]
        return cls(where, tuple(Entry(name, own.get(name), found.get(name)) for name in names))

    def tell(self) -> None:
        """Log how much of each part was taken, and, shortened, what was not; a part that got nothing needs no list."""
        own = [entry for entry in self.entries if entry.shape is not None]
        total = Counter(entry.part for entry in own)
        taken = Counter(entry.part for entry in own if entry.taken)
        shares = ", ".join(f"{part} {taken[part]} of {count}" for part, count in total.items())
        log.info("%s: took %d of the network's %d entries: %s", self.where, taken.total(), total.total(), shares)
        fresh = [entry for entry in own if not entry.taken and (entry.found is not None or taken[entry.part])]
        for line in counted([f"{entry.name}, expected {entry.shape}, {entry.instead}" for entry in fresh]):
            log.info("  fresh: %s", line)
        unused = [entry.name for entry in self.entries if entry.shape is None]
        if unused:
            more = f" and {len(unused) - 1} more" if unused[1:] else ""
            log.info("  of the file, not in the network: %s%s", unused[0], more)

    def table(self) -> str:
        """Every entry as CSV: `entry,shape,found,taken`, shapes as 64x32x3x3 and empty where that side has none."""
        lines = ["entry,shape,found,taken"]
        for entry in self.entries:
            lines.append(f"{entry.name},{_cell(entry.shape)},{_cell(entry.found)},{'yes' if entry.taken else 'no'}")
        return "\n".join(lines) + "\n"


def _shapes(entries: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in entries.items() if not name.endswith(COUNTER)}


def _cell(shape: Shape | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "1"  # a single number has the shape ()
