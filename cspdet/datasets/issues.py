"""Count issues by type; each type is reported as one line with its first examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

MAX_EXAMPLES = 3  # per type of issue


@dataclass
class IssueCounter:
    """Counts the issues of one file by type, and keeps the first examples of each type."""

    where: str  # the file, for messages
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, issue_type: str, example: str = "") -> None:
        """Count one issue.

        Args:
            issue_type: Type of the issue, as in the message.
            example: Description of the object with the issue; "" for none.
        """
        self.counts[issue_type] = self.counts.get(issue_type, 0) + 1
        examples = self.examples.setdefault(issue_type, [])
        if example and len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def add_where(self, issue_type: str, mask: np.ndarray, describe: Callable[[int], str]) -> None:
        """Count one issue for each True of `mask` (N,); `describe(index)` returns the text of an example."""
        (indices,) = np.nonzero(mask)
        if len(indices):
            self.counts[issue_type] = self.counts.get(issue_type, 0) + len(indices)
            examples = self.examples.setdefault(issue_type, [])
            examples.extend(describe(int(i)) for i in indices[: MAX_EXAMPLES - len(examples)])

    def lines(self) -> list[str]:
        """Return one line per type: `file: type: example; example; example; and 54 more`."""
        result = []
        for issue_type, count in self.counts.items():
            examples = list(self.examples[issue_type])
            if examples and count > len(examples):
                examples.append(f"and {count - len(examples)} more")
            result.append(": ".join((self.where, issue_type, *(("; ".join(examples),) if examples else ()))))
        return result
