"""`ModelBundle`: a loaded model with its config and categories, for detectors, classifiers and exported files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from cspdet.config.input import InputConfig
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.model_info import ModelInfo
from cspdet.models.classifier import Classifier
from cspdet.models.detector import Detector
from cspdet.structures import MODEL_TYPES, Categories, TaskName

if TYPE_CHECKING:
    from cspdet.inference.metadata import ModelMetadata

Network = Detector | Classifier


class BundleConfig(Protocol):
    """Interface of the config of a loaded model. Recipes and the metadata of exported files implement it."""

    @property
    def input(self) -> InputConfig:
        """Input size, and how images are resized to it."""

    @property
    def eval(self) -> Any:
        """Evaluation settings: EvalConfig of a detector, or ClassifierEvalConfig of a classifier."""

    @property
    def data(self) -> Path | None:
        """The data descriptor or folder of the training data; None if it is unknown."""


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A network in evaluation mode on the CPU, or an exported file, with its config and categories.

    Attributes:
        task: The task of the model: detection or classification.
        network: The torch module; None for an exported file (an engine runs it).
        config: The recipe of the model, or the metadata of an exported file.
        categories: Names and ids of the classes, by class index.
        name: Name for messages and reports, such as the stem of the file name.
        metadata: Metadata of an exported file; None for a network.
        path: The exported file; None for a network.
        program: The program and version that wrote the checkpoint or exported file; None: there is no such file.
        info: Facts about the weights of a checkpoint, such as data, metrics and license.
    """

    task: TaskName
    network: Network | None
    config: BundleConfig
    categories: Categories
    name: str
    metadata: ModelMetadata | None = None
    path: Path | None = None
    program: str | None = None
    info: ModelInfo = field(default_factory=ModelInfo)

    @property
    def detector(self) -> Detector:
        """The network of a detector; raises CheckpointError for a classifier or an exported file."""
        check_task("detection", self.task, self.name)
        return cast(Detector, self.torch_network)

    @property
    def classifier(self) -> Classifier:
        """The network of a classifier; raises CheckpointError for a detector or an exported file."""
        check_task("classification", self.task, self.name)
        return cast(Classifier, self.torch_network)

    @property
    def torch_network(self) -> Network:
        """The network as a torch module.

        Raises:
            CheckpointError: The model is an exported file.
        """
        if self.network is None:
            raise CheckpointError(
                f"{self.path}: expected a checkpoint (.pt, .safetensors) or a config (.yaml), found an exported file, "
                "whose network only an engine can run"
            )
        return self.network

    def with_input_size(self, size_hw: tuple[int, int], where: str) -> ModelBundle:
        """Return the same model with another input size.

        Args:
            size_hw: Height and width in pixels.
            where: The origin of the size, such as a flag, for error messages.

        Raises:
            ConfigError: The network does not support this size.
        """
        check_size(size_hw, self.torch_network, where)
        config = cast(Any, self.config)
        input_ = config.input.model_copy(update={"size": size_hw})
        return replace(self, config=config.model_copy(update={"input": input_}))


def check_task(expected: str, found: str, where: str) -> None:
    """Raise CheckpointError if the model does not have the expected task.

    Args:
        expected: `detection` or `classification`.
        found: The task of the model.
        where: Name of the model for the message.
    """
    if found != expected:
        raise CheckpointError(f"{where}: expected {MODEL_TYPES[expected]}, found {MODEL_TYPES[found]}")


def check_size(size_hw: tuple[int, int], network: Network, where: str) -> None:
    """Raise ConfigError if the network does not support images of this height and width."""
    try:
        network.check_size(size_hw)
    except ValueError as error:
        raise ConfigError(f"{where}: input.size: {error}") from None
