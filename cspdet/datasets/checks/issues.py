"""Counting what is wrong or was changed: a million bad boxes become one line that says where to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

MAX_EXAMPLES = 3  # places told for each kind


@dataclass
class IssueCounter:
    """Findings in one file by kind: how often each, and its first places."""

    where: str
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, issue_type: str, example: str = "") -> None:
        """Count one finding."""
        self.counts[issue_type] = self.counts.get(issue_type, 0) + 1
        named = self.examples.setdefault(issue_type, [])
        if example and len(named) < MAX_EXAMPLES:
            named.append(example)

    def add_where(self, issue_type: str, mask: np.ndarray, describe: Callable[[int], str]) -> None:
        """Count the true entries of `found`, (N,) bool, and name the first ones."""
        (indices,) = np.nonzero(mask)
        if len(indices):
            self.counts[issue_type] = self.counts.get(issue_type, 0) + len(indices)
            named = self.examples.setdefault(issue_type, [])
            named.extend(describe(int(i)) for i in indices[: MAX_EXAMPLES - len(named)])

    def lines(self) -> list[str]:
        """`file: kind: place; place; place; and 54 more`, a line a kind."""
        result = []
        for issue_type, count in self.counts.items():
            examples = list(self.examples[issue_type])
            if examples and count > len(examples):
                examples.append(f"and {count - len(examples)} more")
            result.append(": ".join((self.where, issue_type, *(("; ".join(examples),) if examples else ()))))
        return result
