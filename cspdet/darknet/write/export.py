"""A model of ours as Darknet's files: cfg, weights and names, read back and compared before they are left on disk."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from cspdet.darknet.cfg import Cfg, parse_cfg, with_num_classes
from cspdet.darknet.model import CFG_SOURCE_NAME, DarknetClassifierConfig, DarknetModelConfig
from cspdet.darknet.names import read_names
from cspdet.darknet.network import DarknetClassifier, DarknetDetector
from cspdet.darknet.weights import LayerWeights, SkipInit, read_weights, write_weights
from cspdet.darknet.write.cfg_writer import CfgLayer
from cspdet.darknet.write.hyperparameters import Options, net_options, yolo_options
from cspdet.darknet.write.sections import build_sections
from cspdet.errors import ConfigError, UserError
from cspdet.io.atomic import atomic_write
from cspdet.models.backbones.timm_backbone import TimmBackbone
from cspdet.models.bundle import ModelBundle, check_size
from cspdet.models.classifier import ClassifierConfig
from cspdet.models.detector import ComposedDetector, DetectorConfig, NormalizeConfig
from cspdet.recipe import ClassificationRecipe, DetectionRecipe

BN_EPS = 1e-5  # Darknet's
MAX_RELATIVE_ERROR = 1e-5  # of the largest output: what the files read back may differ by


@dataclass(frozen=True)
class DarknetFiles:
    """What goes into the three files."""

    cfg: str
    layers: list[LayerWeights]
    names: tuple[str, ...]
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class ExportResult:
    """What was left on disk; `difference` is that of the network read back, as a share of the largest output."""

    paths: tuple[Path, ...]
    num_weights: int
    relative_error: float


def build_darknet_files(bundle: ModelBundle, size_hw: tuple[int, int] | None, where: str) -> DarknetFiles:
    """The files of a model for pictures of `size_hw`; None: of its own input size.

    Raises:
        ConfigError: the model has something that Darknet has no words for, or does not take this size.
    """
    size_hw = size_hw or bundle.config.input.size
    check_size(size_hw, bundle.torch_network, where)
    if isinstance(bundle.torch_network, (DarknetDetector, DarknetClassifier)):
        cfg, layers = _updated_cfg_text(bundle, size_hw), _body_weights(bundle.torch_network)
    else:
        cfg, layers = _export_model(bundle, size_hw, where)
    return DarknetFiles(cfg, layers, bundle.categories.names, size_hw)


def write_darknet(files: DarknetFiles, model: nn.Module, target: Path) -> ExportResult:
    """Write `target`, which ends in .cfg, and its .weights and .names, once the drafts gave the model's outputs.

    Raises:
        UserError: they did not, or a file cannot be written; what stood there before is kept.
    """
    paths = tuple(target.with_suffix(suffix) for suffix in (".cfg", ".weights", ".names"))
    with ExitStack() as stack:
        cfg, weights, names = (stack.enter_context(atomic_write(path)) for path in paths)
        cfg.write_text(files.cfg, encoding="utf-8")
        names.write_text("".join(f"{name}\n" for name in files.names), encoding="utf-8")
        write_weights(weights, files.layers)
        if read_names(names) != files.names:
            raise UserError(f"{paths[2]}: not written: a .names file has a name a line, and none empty")
        relative_error = _relative_error(model, _read_back(cfg, weights), files.size_hw)
        if not relative_error <= MAX_RELATIVE_ERROR:
            raise UserError(
                f"{target}: not written: read back as Darknet reads it, the network gives something else, by "
                f"{relative_error:.1e} of its largest output; expected {MAX_RELATIVE_ERROR:g} at most"
            )
    return ExportResult(paths, sum(layer.num_elements for layer in files.layers), relative_error)


def _read_back(cfg: Path, weights: Path) -> nn.Module:
    parsed = parse_cfg(cfg.read_text(encoding="utf-8"), str(cfg))
    with SkipInit():
        network = DarknetDetector(parsed) if parsed.heads else DarknetClassifier(parsed)
    read_weights(weights, network.body.layer_weights())
    return network.eval()


@torch.no_grad()
def _relative_error(model: nn.Module, network: nn.Module, size_hw: tuple[int, int]) -> float:
    """The largest between their outputs, as a share of the largest output, on two pictures of noise."""
    relative_errors = []
    for seed in range(2):
        images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(seed))
        ours, theirs = _outputs(model, images), _outputs(network, images)
        if [x.shape for x in ours] != [x.shape for x in theirs]:
            return math.inf
        max_abs = max(float(x.abs().max()) for x in ours)
        absolute_errors = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
        # What is no number compares as neither larger nor smaller
        relative_errors += [error / (max_abs or 1.0) if math.isfinite(error) else math.inf for error in absolute_errors]
    return max(relative_errors)


def _outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    output = model(images)
    return (output,) if isinstance(output, Tensor) else output


# --- networks of ours ----------------------------------------------------------------------------


def _export_model(bundle: ModelBundle, size_hw: tuple[int, int], where: str) -> tuple[str, list[LayerWeights]]:
    model, recipe = bundle.torch_network, cast(DetectionRecipe | ClassificationRecipe, bundle.config)
    for name, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            raise ConfigError(f"{where}: Darknet has no words for {name}, a network of timm ({module.model})")
    if isinstance(recipe.model, (DetectorConfig, ClassifierConfig)) and recipe.model.normalize != NormalizeConfig():
        raise ConfigError(
            f"{where}: model.normalize: Darknet takes pictures in [0, 1] as they are; expected mean 0 and std 1"
        )

    def head(level: int) -> Options:
        assert isinstance(recipe, DetectionRecipe) and isinstance(model, ComposedDetector)
        return yolo_options(recipe, model.anchors, model.num_classes, level)

    layers = build_sections(model, size_hw, where, head)
    sections = [_format_section("net", net_options(recipe, size_hw, len(bundle.categories)))]
    sections += [_format_section(layer.section_type, layer.options, layer.name) for layer in layers]
    title = f"# {bundle.name}, written by cspdet for {size_hw[0]}x{size_hw[1]}\n"
    return "\n".join([title, *sections]), [
        _layer_weights(layer) for layer in layers if layer.weighted_module is not None
    ]


def _format_section(section_type: str, options: Options, name: str = "") -> str:
    lines = [f"# {name}"] if name else []
    return "\n".join([*lines, f"[{section_type}]", *(f"{key}={value}" for key, value in options.items()), ""])


def _layer_weights(layer: CfgLayer) -> LayerWeights:
    """Of a convolution with a bias or a normalization, or with neither, which Darknet stores as a bias of 0."""
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
    """The same function with Darknet's epsilon: the scales make up for the other one."""
    named_tensors = dict(layer.named_tensors)
    if eps == BN_EPS or "scales" not in named_tensors:
        return layer
    variances = named_tensors["variances"].detach().double()
    named_tensors["scales"] = (
        named_tensors["scales"].detach() * ((variances + BN_EPS) / (variances + eps)).sqrt()
    ).float()
    return LayerWeights(layer.name, tuple(named_tensors.items()))


# --- networks that came from a cfg ---------------------------------------------------------------


def _updated_cfg_text(bundle: ModelBundle, size_hw: tuple[int, int]) -> str:
    """The cfg as it came, but for another input or another number of classes."""
    config = cast(DetectionRecipe | ClassificationRecipe, bundle.config).model
    assert isinstance(config, (DarknetModelConfig, DarknetClassifierConfig))
    cfg = parse_cfg(config.text, CFG_SOURCE_NAME)
    changed = with_num_classes(cfg, len(bundle.categories)) if cfg.heads else cfg
    height, width = size_hw
    requested = {"width": width, "height": height, "letter_box": int(bundle.config.input.resize == "letterbox")}
    net = changed.net.with_options(
        **{key: value for key, value in requested.items() if cfg.net.get_int(key, 0) != value}
    )
    return _edit_cfg_text(config.text, cfg, Cfg(net, changed.layers, CFG_SOURCE_NAME))


def _edit_cfg_text(text: str, before: Cfg, after: Cfg) -> str:
    """The text with the lines of the keys that differ changed, and new keys right behind their heading."""
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
