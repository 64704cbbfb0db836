"""Write a model as Darknet files (.cfg, .weights, .names).

The files are first written under temporary names. A network is built from these files and compared with the model. If
the outputs agree, the files are renamed to the target names.
"""

from __future__ import annotations

import filecmp
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cspdet.darknet.cfg import Cfg, parse_cfg
from cspdet.darknet.config import CFG_SOURCE_NAME
from cspdet.darknet.names import read_names
from cspdet.darknet.network import DarknetClassifier, DarknetDetector
from cspdet.darknet.num_classes import with_num_classes
from cspdet.darknet.weights import LayerWeights, SkipInit, read_weights, write_weights
from cspdet.darknet.write.cfg_writer import CfgLayer
from cspdet.darknet.write.hyperparameters import Options, net_options, yolo_options
from cspdet.darknet.write.sections import build_sections
from cspdet.errors import ConfigError, UserError
from cspdet.io.atomic import atomic_write
from cspdet.models.backbones.timm_backbone import TimmBackbone
from cspdet.models.bundle import ModelBundle, check_size
from cspdet.models.config import NormalizeConfig

if TYPE_CHECKING:
    from cspdet.darknet.config import DarknetClassifierConfig, DarknetModelConfig
    from cspdet.recipe import DetectionRecipe, Recipe

BN_EPS = 1e-5  # epsilon of Darknet's batch normalization
MAX_RELATIVE_ERROR = 1e-5  # largest allowed difference of the network read back, as a fraction of the largest output


@dataclass(frozen=True)
class DarknetFiles:
    """Contents of the .cfg, .weights and .names files."""

    cfg: str
    layers: list[LayerWeights]
    names: tuple[str, ...]
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class ExportResult:
    """Written files, and the result of their verification.

    Attributes:
        paths: Paths of the .cfg, the .weights and the .names file.
        num_weights: Number of values in the .weights file.
        relative_error: Largest output difference between the model and the network built from the files, divided by the
            largest output.
    """

    paths: tuple[Path, ...]
    num_weights: int
    relative_error: float


def build_darknet_files(bundle: ModelBundle, size_hw: tuple[int, int] | None, where: str) -> DarknetFiles:
    """Build the contents of the Darknet files of a model.

    Args:
        bundle: The model.
        size_hw: Height and width of the input for [net]; None: the input size of the model.
        where: Name of the model for messages.

    Raises:
        ConfigError: The model cannot be expressed in a Darknet cfg, or does not support this size.
    """
    size_hw = size_hw or bundle.config.input.size
    check_size(size_hw, bundle.torch_network, where)
    if isinstance(bundle.torch_network, (DarknetDetector, DarknetClassifier)):
        cfg, layers = _updated_cfg_text(bundle, size_hw), _body_weights(bundle.torch_network)
    else:
        cfg, layers = _export_model(bundle, size_hw, where)
    return DarknetFiles(cfg, layers, bundle.categories.names, size_hw)


def darknet_paths(target: Path) -> tuple[Path, Path, Path]:
    """Return the paths of the .cfg, the .weights and the .names file of an export to `target`."""
    return target.with_suffix(".cfg"), target.with_suffix(".weights"), target.with_suffix(".names")


def write_darknet(files: DarknetFiles, model: nn.Module, target: Path) -> ExportResult:
    """Write the .cfg, .weights and .names files, if a network built from them has the same outputs as the model.

    Args:
        files: The contents.
        model: The exported network, in evaluation mode.
        target: Path of the .cfg; the other files are written next to it.

    Raises:
        UserError: The outputs differ, a file cannot be written, or a target file exists with other content. Existing
            files are kept.
    """
    paths = darknet_paths(target)
    with ExitStack() as stack:
        cfg, weights, names = (stack.enter_context(atomic_write(path)) for path in paths)
        cfg.write_text(files.cfg, encoding="utf-8")
        names.write_text("".join(f"{name}\n" for name in files.names), encoding="utf-8")
        write_weights(weights, files.layers)
        if read_names(names) != files.names:
            raise UserError(f"{paths[2]}: not written: a .names file has one name per line and no empty names")
        relative_error = _relative_error(model, _read_back(cfg, weights), files.size_hw)
        if not relative_error <= MAX_RELATIVE_ERROR:
            reason = f"the outputs of the network read back differ by {relative_error:.1e} of the largest"
            raise UserError(f"{target}: not written: {reason}; expected at most {MAX_RELATIVE_ERROR:g}")
        for tmp_path, path in zip((cfg, weights, names), paths, strict=True):
            if path.is_file() and not filecmp.cmp(tmp_path, path, shallow=False):
                raise UserError(f"{path}: exists with other content; it is kept: expected another --output")
    return ExportResult(paths, sum(layer.num_elements for layer in files.layers), relative_error)


def _read_back(cfg: Path, weights: Path) -> nn.Module:
    parsed = parse_cfg(cfg.read_text(encoding="utf-8"), str(cfg))
    with SkipInit():
        network = DarknetDetector(parsed) if parsed.heads else DarknetClassifier(parsed)
    read_weights(weights, network.body.layer_weights())
    return network.eval()


@torch.no_grad()
def _relative_error(model: nn.Module, network: nn.Module, size_hw: tuple[int, int]) -> float:
    """Return the largest output difference of two networks for two noise images, divided by the largest output."""
    relative_errors = []
    for seed in range(2):
        images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(seed))
        expected, actual = _outputs(model, images), _outputs(network, images)
        if [x.shape for x in expected] != [x.shape for x in actual]:
            return math.inf
        max_abs = max(float(x.abs().max()) for x in expected)
        absolute_errors = [float((a - b).abs().max()) for a, b in zip(expected, actual, strict=True)]
        # max() ignores some NaN values, because comparisons with NaN are false: replace them by infinity
        relative_errors += [error / (max_abs or 1.0) if math.isfinite(error) else math.inf for error in absolute_errors]
    return max(relative_errors)


def _outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    output = model(images)
    return (output,) if isinstance(output, Tensor) else output


# --- networks of cspdet --------------------------------------------------------------------------


def _export_model(bundle: ModelBundle, size_hw: tuple[int, int], where: str) -> tuple[str, list[LayerWeights]]:
    """Convert a network that was not built from a cfg.

    Returns:
        The text of its cfg, and its layers with weights in the order of the .weights file.
    """
    model, recipe = bundle.torch_network, cast("Recipe", bundle.config)
    for name, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            raise ConfigError(
                f"{where}: {name} cannot be expressed in a Darknet cfg: a network of timm ({module.model})"
            )
    if getattr(recipe.model, "normalize", NormalizeConfig()) != NormalizeConfig():
        raise ConfigError(
            f"{where}: model.normalize: Darknet takes images in [0, 1] without normalization; expected mean 0 and std 1"
        )

    def head_options(level: int) -> Options:
        train = cast("DetectionRecipe", recipe).train
        return yolo_options(train, bundle.detector.anchors, bundle.detector.num_classes, level)

    layers = build_sections(model, size_hw, where, head_options)
    sections = [_format_section("net", net_options(bundle, size_hw))]
    sections += [_format_section(layer.section_type, layer.options, layer.name) for layer in layers]
    title = f"# {bundle.name}, written by cspdet for {size_hw[0]}x{size_hw[1]}\n"
    return "\n".join([title, *sections]), [
        _layer_weights(layer) for layer in layers if layer.weighted_module is not None
    ]


def _format_section(section_type: str, options: Options, name: str = "") -> str:
    lines = [f"# {name}"] if name else []
    return "\n".join([*lines, f"[{section_type}]", *(f"{key}={value}" for key, value in options.items()), ""])


def _layer_weights(layer: CfgLayer) -> LayerWeights:
    """Return the weights of a layer. A layer without bias and normalization gets a bias of 0, as Darknet requires."""
    weighted, norm = layer.weighted_module, layer.norm
    assert weighted is not None
    weights = ("weights", weighted.weight)
    if norm is None:
        bias = torch.zeros(len(weighted.weight)) if weighted.bias is None else weighted.bias
        return LayerWeights(layer.name, (("bias", bias), weights))
    assert norm.running_mean is not None and norm.running_var is not None
    named_tensors = (("bias", norm.bias), ("scales", norm.weight), ("means", norm.running_mean),
             ("variances", norm.running_var), weights)  # fmt: skip
    return _convert_bn_eps(LayerWeights(layer.name, named_tensors), norm.eps)


def _convert_bn_eps(layer: LayerWeights, eps: float) -> LayerWeights:
    """Rescale gamma of a normalization trained with epsilon `eps`, so that Darknet's epsilon gives equal outputs."""
    named_tensors = dict(layer.named_tensors)
    if eps == BN_EPS or "scales" not in named_tensors:
        return layer
    variances = named_tensors["variances"].detach().double()
    named_tensors["scales"] = (
        named_tensors["scales"].detach() * ((variances + BN_EPS) / (variances + eps)).sqrt()
    ).float()
    return LayerWeights(layer.name, tuple(named_tensors.items()))


# --- networks built from a cfg -------------------------------------------------------------------


def _updated_cfg_text(bundle: ModelBundle, size_hw: tuple[int, int]) -> str:
    """Return the text of the imported cfg with the current input size and number of classes of the model."""
    config = cast("DarknetModelConfig | DarknetClassifierConfig", cast("Recipe", bundle.config).model)
    cfg = parse_cfg(config.text, CFG_SOURCE_NAME)
    changed = with_num_classes(cfg, len(bundle.categories)) if cfg.heads else cfg
    height, width = size_hw
    requested = {"width": width, "height": height, "letter_box": int(bundle.config.input.resize == "letterbox")}
    net = changed.net.with_options(
        **{key: value for key, value in requested.items() if cfg.net.get_int(key, 0) != value}
    )
    return _edit_cfg_text(config.text, cfg, Cfg(net, changed.layers, CFG_SOURCE_NAME))


def _edit_cfg_text(text: str, before: Cfg, after: Cfg) -> str:
    """Edit the text of a cfg: change the lines of keys that differ, and insert new keys below their section heading."""
    lines = text.split("\n")
    pairs = zip((before.net, *before.layers), (after.net, *after.layers), strict=True)
    for old, new in pairs:
        for key, option in new.options.items():
            if key not in old:
                lines[old.line - 1] += f"\n{key}={option.text}"
            elif old.options[key].text != option.text:
                lines[option.line - 1] = f"{key}={option.text}"
    return "\n".join(lines)


def _body_weights(model: DarknetDetector | DarknetClassifier) -> list[LayerWeights]:
    eps = next((m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)), BN_EPS)
    return [_convert_bn_eps(layer, eps) for layer in model.body.layer_weights()]
