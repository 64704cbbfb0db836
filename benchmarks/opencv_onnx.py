"""Check that OpenCV's DNN module computes the boxes and scores of cspdet from the ONNX file of a Darknet cfg.

  python benchmarks/opencv_onnx.py CFG... [--image street.jpg]

OpenCV 5 has no Darknet importer. Each cfg gets random weights. `cspdet import-darknet` and
`cspdet export --outputs decoded --no-dynamic` convert it, OpenCV runs the ONNX file, and PyTorch the checkpoint. The
limits are 0.5 pixels for boxes and 1e-4 for scores. A row also has the size of the .weights file that the cfg needs,
and the published size, if the catalogue (`cspdet zoo`) has a model of this name. Exit code 1 if a limit is exceeded, or
the sizes differ.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from cspdet.checkpoints.loading import load_model
from cspdet.cli.main import main as run_cspdet
from cspdet.darknet.cfg import parse_cfg, read_cfg
from cspdet.darknet.layers import Convolution
from cspdet.darknet.network import DarknetDetector
from cspdet.darknet.weights import write_weights
from cspdet.models.postprocess import decode
from cspdet.zoo.catalogue import read_catalogue

MAX_PIXELS, MAX_SCORE = 0.5, 1e-4
OUTPUT_STD = 1.5  # of the random outputs of a head


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cfgs", nargs="+", type=Path, metavar="CFG", help="cfgs of detectors")
    parser.add_argument("--image", help="an image; default: noise")
    args = parser.parse_args()
    failed = False
    for cfg in args.cfgs:
        with tempfile.TemporaryDirectory() as folder:
            failed |= not compare(cfg, Path(folder), args.image)
    return int(failed)


@torch.no_grad()
def compare(cfg: Path, folder: Path, image_path: str | None) -> bool:
    """Print the row of a cfg; return whether it is within the limits."""
    network = DarknetDetector(parse_cfg(read_cfg(cfg), str(cfg)))
    blob = make_blob(image_path, network.cfg.size_hw)
    randomize(network, torch.from_numpy(blob))
    write_weights(folder / "x.weights", network.body.layer_weights())
    size, published = (folder / "x.weights").stat().st_size, published_size(cfg.stem)
    checkpoint, onnx = str(folder / "x.pt"), str(folder / "x.onnx")
    importing = ["import-darknet", str(cfg), str(folder / "x.weights"), "--output", checkpoint, "--quiet"]
    exporting = ["export", checkpoint, "--outputs", "decoded", "--no-dynamic", "--output", onnx, "--quiet"]
    for command in (importing, exporting):
        if run_cspdet(command):
            return False
    bundle = load_model(Path(checkpoint))
    boxes, scores = decode(bundle.torch_network(torch.from_numpy(blob)), bundle.detector.anchors)
    net = cv2.dnn.readNetFromONNX(onnx)
    net.setInput(blob)
    found_boxes, found_scores = net.forward(("box_xyxy", "score"))
    pixels = float(np.abs(found_boxes - boxes.numpy()).max())
    score = float(np.abs(found_scores - scores.numpy()).max())
    height, width = network.cfg.size_hw
    known = "-" if published is None else f"{published:,}"
    print(
        f"{cfg.stem:38} {height}x{width} planned {size:,} published {known}: {boxes.shape[1]} boxes "
        f"to {boxes.abs().max():.0f} px differ by {pixels:.1e} px, scores to {scores.max():.2f} by {score:.1e}",
        flush=True,
    )
    return pixels <= MAX_PIXELS and score <= MAX_SCORE and published in (None, size)


def published_size(name: str) -> int | None:
    """Return the size in the catalogue of the model whose weights have this name."""
    entries = read_catalogue().values()
    return next((entry.weights.bytes for entry in entries if Path(entry.weights.name).stem == name), None)


def make_blob(image_path: str | None, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the (1, 3, H, W) input of the network."""
    height, width = size_hw
    if image_path is None:
        return np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
    image = cv2.imread(image_path)
    assert image is not None, image_path
    return cv2.dnn.blobFromImage(image, 1 / 255, (width, height), swapRB=True)


@torch.no_grad()
def randomize(network: DarknetDetector, images: torch.Tensor) -> None:
    """Fill the weights with noise that keeps the scale of signals, and scale the outputs of every head."""
    draw = torch.Generator().manual_seed(0)
    for layer in network.body.layer_weights():
        for kind, tensor in layer.named_tensors:
            noise = torch.randn(tensor.shape, generator=draw)
            if kind == "weights":
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(1 + 0.2 * noise.clamp(-3, 3) if kind in ("scales", "variances") else 0.1 * noise)
    heads = [network.body.graph.layers[index].sources[0] for index in network.body.output_indices]
    for index, raw in zip(heads, network.eval()(images), strict=True):
        conv = network.body.layer[index]
        assert isinstance(conv, Convolution)
        std, mean = torch.std_mean(raw[..., :5])
        conv.conv.weight *= OUTPUT_STD / std
        assert conv.conv.bias is not None
        conv.conv.bias -= mean * OUTPUT_STD / std


if __name__ == "__main__":
    raise SystemExit(main())
