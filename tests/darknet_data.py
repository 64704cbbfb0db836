"""Small Darknet networks of our own, and .weights files for them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.network import DarknetClassifier, DarknetDetector

NET = """
[net]
width=64
height=64
channels=3
batch=1
"""


def conv(filters: int, size: int = 1, stride: int = 1, *more: str, norm: bool = True, act: str = "leaky") -> str:
    """A [convolutional] section."""
    lines = [f"filters={filters}", f"size={size}", f"stride={stride}", "pad=1", f"activation={act}", *more]
    return "\n[convolutional]\n" + "\n".join((["batch_normalize=1"] if norm else []) + lines) + "\n"


def yolo(mask: str, *more: str, classes: int = 2) -> str:
    """A [yolo] section with three anchors to choose from."""
    lines = [f"mask={mask}", "anchors=10,14, 23,27, 37,58", f"classes={classes}", "num=3", "ignore_thresh=.7", *more]
    return "\n[yolo]\n" + "\n".join(lines) + "\n"


# Two heads, the coarse one first; every section that the tiny networks use.
TINY = (
    NET + conv(8, 3) + "[maxpool]\nsize=2\nstride=2\n" + conv(16, 3, 2) + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
    + conv(8, 3) + "[route]\nlayers = -1, -3\n" + conv(16, 3, 4) + "[maxpool]\nsize=2\nstride=1\n"
    + conv(7, norm=False, act="linear") + yolo("2") + "[route]\nlayers=-3\n" + conv(8) + "[upsample]\nstride=4\n"
    + "[route]\nlayers=-1,5\n" + conv(7, norm=False, act="linear") + yolo("0")
)  # fmt: skip

# One head with new_coords; shortcuts of every kind, squeeze and excitation, attention.
RICH = (
    NET.replace("batch=1", "letter_box=1") + conv(8, 3, 2, act="mish") + conv(8, 3, 1, act="linear")
    + "[shortcut]\nfrom=-2\nactivation=leaky\n" + conv(12, 3, 2, "groups=4", act="swish")
    + "[shortcut]\nfrom=-2,-3\nactivation=linear\n" + "[avgpool]\n" + conv(4, norm=False, act="relu")
    + conv(12, norm=False, act="logistic") + "[scale_channels]\nfrom=-4\n" + conv(12, act="logistic")
    + "[sam]\nfrom=-2\n" + "[maxpool]\nmaxpool_depth=1\nout_channels=6\n" + "[dropout]\nprobability=.5\n"
    + conv(14, norm=False, act="logistic") + yolo("0,2", "scale_x_y=2.0", "new_coords=1")
)  # fmt: skip

CLASSIFIER = (
    NET + conv(8, 7, 2, act="relu6") + "[maxpool]\nsize=3\nstride=2\n" + "[reorg]\nstride=2\n"
    + "[local_avgpool]\nsize=3\nstride=2\n" + "[connected]\noutput=10\nbatch_normalize=1\nactivation=relu\n"
    + "[connected]\noutput=5\nactivation=linear\n" + "[softmax]\ngroups=1\ntemperature=2\n" + "[cost]\ntype=sse\n"
)  # fmt: skip

CFGS = {"tiny": TINY, "rich": RICH, "classifier": CLASSIFIER}


def network(text: str) -> DarknetDetector | DarknetClassifier:
    """The network of a cfg, with fresh weights."""
    cfg = parse_cfg(text, "x.cfg")
    return DarknetDetector(cfg) if cfg.heads else DarknetClassifier(cfg)


def write_numbers(path: Path, count: int, *, seed: int = 0, version: tuple[int, int, int] = (0, 2, 5)) -> Path:
    """A .weights file of small random numbers above 0, which every part of a layer can have."""
    numbers = np.random.default_rng(seed).uniform(0.05, 0.3, count).astype("<f4")
    seen = struct.pack("<Q" if 10 * version[0] + version[1] >= 2 else "<I", 6400)
    path.write_bytes(struct.pack("<iii", *version) + seen + numbers.tobytes())
    return path


def write_pair(folder: Path, text: str, name: str = "x") -> tuple[Path, Path]:
    """The cfg and a .weights file of exactly its numbers."""
    cfg = folder / f"{name}.cfg"
    cfg.write_text(text)
    body = network(text).body
    return cfg, write_numbers(folder / f"{name}.weights", sum(layer.count for layer in body.numbers()))
