"""A model of ours as Darknet's files: cfg, weights and names, read back and compared before they are left on disk."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cspdet.checkpoints.loading import LoadedClassifier, LoadedModel, check_size
from cspdet.darknet.cfg import Cfg, parse_cfg, with_classes
from cspdet.darknet.model import SOURCE, DarknetClassifierConfig, DarknetModelConfig
from cspdet.darknet.names import read_names
from cspdet.darknet.network import DarknetClassifier, DarknetDetector
from cspdet.darknet.weights import FreshWeightsUndrawn, Numbers, read_weights, write_weights
from cspdet.darknet.write.cfg_writer import Layer
from cspdet.darknet.write.hyperparameters import Options, net_options, yolo_options
from cspdet.darknet.write.sections import sections_of
from cspdet.errors import ConfigError, UserError
from cspdet.io.atomic import temporary
from cspdet.models.backbones.timm_backbone import TimmBackbone
from cspdet.models.classifier import ClassifierConfig
from cspdet.models.detector import DetectorConfig, NormalizeConfig, PartsDetector
from cspdet.recipe import Recipe

BN_EPS = 1e-5  # Darknet's
CLOSE = 1e-5  # of the largest output: what the files read back may differ by


@dataclass(frozen=True)
class DarknetFiles:
    """What goes into the three files."""

    cfg: str
    layers: list[Numbers]
    names: tuple[str, ...]
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class Written:
    """What was left on disk; `difference` is that of the network read back, as a share of the largest output."""

    paths: tuple[Path, ...]
    numbers: int
    difference: float


def describe(loaded: LoadedModel | LoadedClassifier, size_hw: tuple[int, int] | None, where: str) -> DarknetFiles:
    """The files of a model for pictures of `size_hw`; None: of its own input size.

    Raises:
        ConfigError: the model has something that Darknet has no words for, or does not take this size.
    """
    size_hw = size_hw or loaded.recipe.input.size
    check_size(size_hw, loaded.model, where)
    if isinstance(loaded.model, (DarknetDetector, DarknetClassifier)):
        cfg, layers = _imported(loaded, size_hw), _body_numbers(loaded.model)
    else:
        cfg, layers = _ours(loaded, size_hw, where)
    return DarknetFiles(cfg, layers, loaded.classes.names, size_hw)


def write(files: DarknetFiles, model: nn.Module, target: Path) -> Written:
    """Write `target`, which ends in .cfg, and its .weights and .names, once the drafts gave the model's outputs.

    Raises:
        UserError: they did not, or a file cannot be written; what stood there before is kept.
    """
    paths = tuple(target.with_suffix(suffix) for suffix in (".cfg", ".weights", ".names"))
    with ExitStack() as stack:
        cfg, weights, names = (stack.enter_context(temporary(path)) for path in paths)
        cfg.write_text(files.cfg, encoding="utf-8")
        names.write_text("".join(f"{name}\n" for name in files.names), encoding="utf-8")
        write_weights(weights, files.layers)
        if read_names(names) != files.names:
            raise UserError(f"{paths[2]}: not written: a .names file has a name a line, and none empty")
        difference = _difference(model, _read_back(cfg, weights), files.size_hw)
        if not difference <= CLOSE:
            raise UserError(
                f"{target}: not written: read back as Darknet reads it, the network gives something else, by "
                f"{difference:.1e} of its largest output; expected {CLOSE:g} at most"
            )
    return Written(paths, sum(layer.count for layer in files.layers), difference)


def _read_back(cfg: Path, weights: Path) -> nn.Module:
    parsed = parse_cfg(cfg.read_text(encoding="utf-8"), str(cfg))
    with FreshWeightsUndrawn():
        network = DarknetDetector(parsed) if parsed.heads else DarknetClassifier(parsed)
    read_weights(weights, network.body.numbers())
    return network.eval()


@torch.no_grad()
def _difference(model: nn.Module, network: nn.Module, size_hw: tuple[int, int]) -> float:
    """The largest between their outputs, as a share of the largest output, on two pictures of noise."""
    shares = []
    for seed in range(2):
        images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(seed))
        ours, theirs = _outputs(model, images), _outputs(network, images)
        if [x.shape for x in ours] != [x.shape for x in theirs]:
            return math.inf
        largest = max(float(x.abs().max()) for x in ours)
        apart = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
        # What is no number compares as neither larger nor smaller
        shares += [share / (largest or 1.0) if math.isfinite(share) else math.inf for share in apart]
    return max(shares)


def _outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    output = model(images)
    return (output,) if isinstance(output, Tensor) else output


# --- networks of ours ----------------------------------------------------------------------------


def _ours(loaded: LoadedModel | LoadedClassifier, size_hw: tuple[int, int], where: str) -> tuple[str, list[Numbers]]:
    model, recipe = loaded.model, loaded.recipe
    for name, part in model.named_modules():
        if isinstance(part, TimmBackbone):
            raise ConfigError(f"{where}: Darknet has no words for {name}, a network of timm ({part.model})")
    if isinstance(recipe.model, (DetectorConfig, ClassifierConfig)) and recipe.model.normalize != NormalizeConfig():
        raise ConfigError(
            f"{where}: model.normalize: Darknet takes pictures in [0, 1] as they are; expected mean 0 and std 1"
        )

    def head(level: int) -> Options:
        assert isinstance(recipe, Recipe) and isinstance(model, PartsDetector)
        return yolo_options(recipe, model.anchors, model.classes, level)

    layers = sections_of(model, size_hw, where, head)
    sections = [_section("net", net_options(recipe, size_hw, len(loaded.classes)))]
    sections += [_section(layer.kind, layer.options, layer.name) for layer in layers]
    title = f"# {loaded.name}, written by cspdet for {size_hw[0]}x{size_hw[1]}\n"
    return "\n".join([title, *sections]), [_numbers(layer) for layer in layers if layer.weighted is not None]


def _section(kind: str, options: Options, name: str = "") -> str:
    lines = [f"# {name}"] if name else []
    return "\n".join([*lines, f"[{kind}]", *(f"{key}={value}" for key, value in options.items()), ""])


def _numbers(layer: Layer) -> Numbers:
    """Of a convolution with a bias or a normalization, or with neither, which Darknet stores as a bias of 0."""
    weighted, norm = layer.weighted, layer.norm
    assert weighted is not None
    weights = ("weights", weighted.weight)
    if norm is None:
        bias = torch.zeros(len(weighted.weight)) if weighted.bias is None else weighted.bias
        return Numbers(layer.name, (("bias", bias), weights))
    assert norm.running_mean is not None and norm.running_var is not None
    parts = (("bias", norm.bias), ("scales", norm.weight), ("means", norm.running_mean),
             ("variances", norm.running_var), weights)  # fmt: skip
    return _with_darknets_eps(Numbers(layer.name, parts), norm.eps)


def _with_darknets_eps(layer: Numbers, eps: float) -> Numbers:
    """The same function with Darknet's epsilon: the scales make up for the other one."""
    parts = dict(layer.parts)
    if eps == BN_EPS or "scales" not in parts:
        return layer
    variances = parts["variances"].detach().double()
    parts["scales"] = (parts["scales"].detach() * ((variances + BN_EPS) / (variances + eps)).sqrt()).float()
    return Numbers(layer.name, tuple(parts.items()))


# --- networks that came from a cfg ---------------------------------------------------------------


def _imported(loaded: LoadedModel | LoadedClassifier, size_hw: tuple[int, int]) -> str:
    """The cfg as it came, but for another input or another number of classes."""
    config = loaded.recipe.model
    assert isinstance(config, (DarknetModelConfig, DarknetClassifierConfig))
    cfg = parse_cfg(config.text, SOURCE)
    changed = with_classes(cfg, len(loaded.classes)) if cfg.heads else cfg
    height, width = size_hw
    wanted = {"width": width, "height": height, "letter_box": int(loaded.recipe.input.resize == "letterbox")}
    net = changed.net.changed(**{key: value for key, value in wanted.items() if cfg.net.whole(key, 0) != value})
    return _edited(config.text, cfg, Cfg(net, changed.layers, SOURCE))


def _edited(text: str, before: Cfg, after: Cfg) -> str:
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


def _body_numbers(model: DarknetDetector | DarknetClassifier) -> list[Numbers]:
    eps = next((m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)), BN_EPS)
    return [_with_darknets_eps(layer, eps) for layer in model.body.numbers()]
