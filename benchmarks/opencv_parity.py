"""Check that cspdet's Darknet importer computes the same outputs as OpenCV's, for cfgs with random weights.

  python benchmarks/opencv_parity.py --python /path/to/python-with-opencv-4 FOLDER-OR-CFG...

OpenCV 5 has no Darknet importer, so --python names an interpreter that has opencv-python-headless 4. Compares the
inputs of the [yolo] sections, or a classifier's logits and probabilities. The limit is a difference of 1e-5 of the
largest output, with OpenCV's batch-normalization epsilon of 1e-6. Cfgs that OpenCV cannot run are reported: shortcuts
with a stride, and sections that its importer does not support. Exit code 1 if an output differs or no
network was compared.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cspdet.darknet.cfg import Cfg, parse_cfg, read_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.layers import Convolution
from cspdet.darknet.network import DarknetClassifier, DarknetDetector
from cspdet.darknet.weights import LayerWeights, SkipInit, write_weights

MAX_DIFFERENCE = 1e-5
OPENCV_EPS = 1e-6
UNKNOWN = "Unknown layer type: "  # OpenCV's error for a section that its importer lacks

# Runs in the interpreter of --python: reads x.cfg, x.weights, x.npy, names.txt; writes the outputs to out.npz.
OPENCV_SCRIPT = """
import sys, cv2, numpy as np
folder = sys.argv[1]
net = cv2.dnn.readNetFromDarknet(f"{folder}/x.cfg", f"{folder}/x.weights")
net.setInput(np.load(f"{folder}/x.npy"))
names = open(f"{folder}/names.txt").read().split()
known = set(net.getLayerNames())
names = [next(n for n in name.split("|") if n in known) for name in names]
np.savez(f"{folder}/out.npz", *net.forward(names))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that has OpenCV 4")
    parser.add_argument("paths", nargs="+", type=Path, help="cfgs, or folders of them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cfgs = [cfg for path in args.paths for cfg in (sorted(path.glob("*.cfg")) if path.is_dir() else [path])]
    failed = compared = 0
    for path in cfgs:
        cfg = parse_cfg(read_cfg(path), str(path))
        if has_strided_shortcut(cfg):
            print(f"{path.name:48} has shortcuts with a stride, which OpenCV cannot run")
            continue
        differences = compare(cfg, args.python, args.seed)
        if isinstance(differences, str):
            print(f"{path.name:48} has [{differences}], which OpenCV does not support")
            continue
        compared += 1
        equal = all(difference <= MAX_DIFFERENCE for difference in differences)  # not if an output is not a number
        failed += not equal
        verdict = "" if equal else "  DIFFERS"
        print(f"{path.name:48} {' '.join(f'{d:.1e}' for d in differences)}{verdict}")
    print(f"{compared} of {len(cfgs)} networks compared")
    return 1 if failed or not compared else 0


def has_strided_shortcut(cfg: Cfg) -> bool:
    """Return whether a shortcut reads a map of another size."""
    layers = build_graph(cfg).layers
    shortcuts = [layer for layer in layers if layer.section.section_type == "shortcut"]
    return any(layers[s].shape.size_hw != layer.shape.size_hw for layer in shortcuts for s in layer.sources)


def randomize(numbers: list[LayerWeights], seed: int) -> None:
    """Fill the weights with noise that has the statistics of trained networks, so that signals keep their scale."""
    draw = torch.Generator().manual_seed(seed)
    for layer in numbers:
        for what, tensor in layer.named_tensors:
            noise = torch.randn(tensor.shape, generator=draw)
            if what in ("scales", "variances"):
                noise = 1 + 0.2 * noise.clamp(-3, 3)
            elif what in ("bias", "means"):
                noise = 0.1 * noise
            else:
                noise = noise * (2 / tensor[0].numel()) ** 0.5
            tensor.data.copy_(noise)


def steady_gates(model: nn.Module, image: torch.Tensor) -> None:
    """Set the batch-normalization statistics before each sigmoid from its input, as training would.

    Random weights let signals grow to hundreds. Gates would then be 0 or 1, decided by rounding errors.
    """

    def settle(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    gates = [module for module in model.modules() if isinstance(module, Convolution)]
    norms = [gate.norm for gate in gates if isinstance(gate.act, nn.Sigmoid) and gate.norm is not None]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()


def compare(cfg: Cfg, python: str, seed: int) -> list[float] | str:
    """The largest difference of each output as a fraction of its largest value; or the section that OpenCV lacks."""
    with SkipInit():
        kind = DarknetDetector if cfg.heads else DarknetClassifier
        model = kind(cfg, bn_eps=OPENCV_EPS)
    numbers = model.body.layer_weights()
    randomize(numbers, seed)
    image = torch.rand(1, 3, *cfg.size_hw, generator=torch.Generator().manual_seed(seed))
    steady_gates(model, image)
    with torch.no_grad():
        out = model.eval()(image)
    outputs = (
        [raw.permute(0, 1, 4, 2, 3).flatten(1, 2) for raw in out] if isinstance(out, tuple) else [out, out.softmax(1)]
    )
    outputs = outputs[: len(outputs_of(cfg, model))]  # a cfg may end without [softmax]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # unlike Darknet, OpenCV does not skip a byte-order mark
        (place / "x.cfg").write_text("".join(line + "\n" for line in lines_of(cfg)))
        write_weights(place / "x.weights", numbers)
        np.save(place / "x.npy", image.numpy())
        (place / "names.txt").write_text("\n".join(outputs_of(cfg, model)))
        done = subprocess.run([python, "-c", OPENCV_SCRIPT, folder], capture_output=True, text=True, timeout=600)
        if UNKNOWN in done.stderr:
            return done.stderr.split(UNKNOWN, 1)[1].split()[0]
        if done.returncode != 0:
            raise SystemExit(f"{cfg.source}: OpenCV fails: {done.stderr.strip().splitlines()[-1]}")
        theirs = [torch.from_numpy(array) for array in np.load(place / "out.npz").values()]
    return [
        float((a.flatten() - b.flatten()).abs().max() / b.abs().max()) for a, b in zip(outputs, theirs, strict=True)
    ]  # fmt: skip


def lines_of(cfg: Cfg) -> list[str]:
    """Return the lines of the cfg without comments and formatting."""
    lines = []
    for section in (cfg.net, *cfg.layers):
        lines += [f"[{section.section_type}]", *(f"{key}={option.text}" for key, option in section.options.items()), ""]
    return lines


def outputs_of(cfg: Cfg, model: DarknetDetector | DarknetClassifier) -> list[str]:
    """Return OpenCV's names of the layers to compare; the activation after a convolution is a separate layer there."""
    if isinstance(model, DarknetDetector):
        return [f"conv_{index - 1}" for index in model.body.output_indices]
    last = next(
        i for i in reversed(range(len(cfg.layers))) if cfg.layers[i].section_type not in ("softmax", "cost", "dropout")
    )
    kind = {"convolutional": "conv", "avgpool": "avgpool"}[cfg.layers[last].section_type]
    return [
        f"{kind}_{last}",
        *(f"softmax_{i}" for i, layer in enumerate(cfg.layers) if layer.section_type == "softmax"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
