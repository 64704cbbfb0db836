"""A model with everything that is needed to use it: one type for detectors, classifiers and exported files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from cspdet.config.input import InputConfig
from cspdet.errors import CheckpointError, ConfigError
from cspdet.models.classifier import Classifier
from cspdet.models.detector import Detector
from cspdet.structures import MODEL_TYPES, Categories, TaskName

if TYPE_CHECKING:
    from cspdet.config.input import InputConfig
    from cspdet.inference.metadata import ModelMetadata

Network = Detector | Classifier


class BundleConfig(Protocol):
    """What is used of the config that a model was built from; a recipe and the metadata of an exported file have it."""

    @property
    def input(self) -> InputConfig:
        """Size and resizing of the network's input."""

    @property
    def eval(self) -> Any:
        """How the outputs are evaluated: an EvalConfig of a detector, a ClassifierEvalConfig of a classifier."""

    @property
    def data(self) -> Path | None:
        """The data descriptor or folder that the model was trained on, where it is known."""


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A network in evaluation mode on the CPU, or an exported file, with its config and categories.

    Attributes:
        task: What the model does.
        network: The torch module; None for an exported file, which only an engine can run.
        config: The recipe of the model; the metadata of an exported file.
        categories: Names and ids of the classes, by class index.
        name: The name that messages and reports use, such as the stem of the file.
        metadata: What an exported file says of itself; None for a network.
        path: The exported file; None for a network.
    """

    task: TaskName
    network: Network | None
    config: BundleConfig
    categories: Categories
    name: str
    metadata: ModelMetadata | None = None
    path: Path | None = None

    @property
    def detector(self) -> Detector:
        """The network of a detector.

        Raises:
            CheckpointError: a classifier, or an exported file.
        """
        check_task("detection", self.task, self.name)
        return cast(Detector, self.torch_network)

    @property
    def classifier(self) -> Classifier:
        """The network of a classifier.

        Raises:
            CheckpointError: a detector, or an exported file.
        """
        check_task("classification", self.task, self.name)
        return cast(Classifier, self.torch_network)

    @property
    def torch_network(self) -> Network:
        """The network, whatever its task.

        Raises:
            CheckpointError: an exported file.
        """
        if self.network is None:
            raise CheckpointError(
                f"{self.path}: expected a checkpoint (.pt) or a config (.yaml), found an exported file, whose network "
                "only an engine can run"
            )
        return self.network

    def with_input_size(self, size_hw: tuple[int, int], where: str) -> ModelBundle:
        """The same model for another input size.

        Args:
            size_hw: Height and width in pixels.
            where: What an error names as the source of the size.

        Raises:
            ConfigError: the network does not take this size.
        """
        check_size(size_hw, self.torch_network, where)
        config = cast(Any, self.config)
        input_ = config.input.model_copy(update={"size": size_hw})
        return replace(self, config=config.model_copy(update={"input": input_}))


def check_task(expected: str, found: str, where: str) -> None:
    """Raise CheckpointError unless the model of `where` is for the expected task."""
    if found != expected:
        raise CheckpointError(f"{where}: expected {MODEL_TYPES[expected]}, found {MODEL_TYPES[found]}")


def check_size(size_hw: tuple[int, int], network: Network, where: str) -> None:
    """Raise ConfigError unless the network takes images of this height and width."""
    try:
        network.check_size(size_hw)
    except ValueError as error:
        raise ConfigError(f"{where}: input.size: {error}") from None
