"""Initial weights of the class outputs: each class of the data starts from the class of the file with the same name.

A prediction layer has, for each anchor, outputs for box and objectness, then one output per class. The outputs for box
and objectness are kept. A class output is kept if the file has a class of the same name; else it starts from the mean
of all class outputs of the file.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cspdet.structures import ClassLayer

log = logging.getLogger("cspdet")

# Names that mean the same class, by the spelling of COCO.
CLASS_SYNONYMS = {
    "aeroplane": "airplane",
    "cellphone": "cell phone",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "people": "person",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class ClassMatch:
    """For each class of the data, the class of the file from which its outputs start.

    Attributes:
        names: Class names of the data.
        source_index: For each class of the data, the index of the class of the same name in the file, or None.
        num_source: Number of classes of the file.
    """

    names: tuple[str, ...]
    source_index: tuple[int | None, ...]
    num_source: int

    @classmethod
    def by_name(cls, names: Sequence[str], source_names: Sequence[str]) -> ClassMatch:
        """Match classes by name.

        A class of the file with exactly the same name is the match. If there is none, the match is the only class of
        the file with the same `canonical_name`. If several have it, there is no match.

        Args:
            names: Class names of the data.
            source_names: Class names of the file.
        """
        exact = {name: i for i, name in reversed(list(enumerate(source_names)))}
        similar = Counter(map(canonical_name, exact))
        index = {canonical_name(name): i for name, i in exact.items() if similar[canonical_name(name)] == 1}
        index.pop("", None)  # names without letters and digits, such as `-`
        return cls(tuple(names), tuple(exact.get(n, index.get(canonical_name(n))) for n in names), len(source_names))

    @property
    def is_identity(self) -> bool:
        """Whether the classes of data and file are equal, in the same order."""
        return self.source_index == tuple(range(self.num_source))

    @property
    def matched_names(self) -> tuple[str, ...]:
        """The class names of the data that have a match in the file."""
        return tuple(name for name, index in zip(self.names, self.source_index, strict=True) if index is not None)

    def log_summary(self, source: str) -> None:
        """Log which classes are kept.

        Args:
            source: Name of the file.
        """
        kept = self.matched_names
        named = f": {', '.join(kept[:8])}{', ...' if kept[8:] else ''}" if kept else ""
        rest = len(self.names) - len(kept)
        others = f"; the other {rest} start from the mean of the {self.num_source} classes of the file" if rest else ""
        log.info("%s: kept %d of %d classes by name%s%s", source, len(kept), len(self.names), named, others)


def canonical_name(name: str) -> str:
    """Return a class name in lower case, with blanks instead of `_` and `-`, and COCO's name for a synonym."""
    name = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    return CLASS_SYNONYMS.get(name.replace(" ", ""), name)


def has_class_outputs(model: nn.Module, loaded: Container[str]) -> bool:
    """Whether all weights of the layers with class outputs are among the `loaded` entries of a state dict."""
    name_of = {module: name for name, module in model.named_modules()}
    layers = getattr(model, "class_layers", ())
    keys = [f"{name_of[x.module]}.{name}" for x in layers for name, _ in x.module.named_parameters(recurse=False)]
    return all(key in loaded for key in keys)


def match_class_outputs(
    model: nn.Module, layers: Sequence[ClassLayer], weights: dict[str, Tensor], match: ClassMatch
) -> dict[str, Tensor]:
    """Return the entries of the file that belong to class layers, with the outputs of the classes of the data.

    Args:
        model: The network into which the weights are loaded.
        layers: The layers of the network with class outputs.
        weights: The state dict of the file.
        match: The classes of the data and of the file.

    Returns:
        The entries in the shapes of the network. Entries with other inputs or number of anchors are omitted.
    """
    name_of = {module: name for name, module in model.named_modules()}
    matched = {}
    for layer in layers:
        per_anchor = layer.num_other + match.num_source
        for name, value in layer.module.named_parameters(recurse=False):
            key = f"{name_of[layer.module]}.{name}"
            found = weights.get(key)
            num_anchors = len(value) // (layer.num_other + len(match.names))
            if found is not None and len(found) == num_anchors * per_anchor and found.shape[1:] == value.shape[1:]:
                matched[key] = _match_outputs(found.unflatten(0, (num_anchors, per_anchor)), layer.num_other, match)
    return matched


def _match_outputs(found: Tensor, num_other: int, match: ClassMatch) -> Tensor:
    """Return outputs for the classes of the data.

    Args:
        found: (A, num_other + classes of the file, ...), the outputs per anchor.
        num_other: Number of outputs before the class outputs.
        match: The classes of the data and of the file.

    Returns:
        (A x (num_other + classes of the data), ...).
    """
    classes = found[:, num_other:]
    mean = classes.double().mean(dim=1).to(found.dtype)
    outputs = [mean if index is None else classes[:, index] for index in match.source_index]
    return torch.cat([found[:, :num_other], torch.stack(outputs, dim=1)], dim=1).flatten(0, 1)
