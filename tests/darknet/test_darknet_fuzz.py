"""Damaged cfgs and weights through the whole import: a clear error or a working model, and nothing else.

CSPDET_FUZZ_CASES says how many; 2,000 take a few minutes.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from darknet_data import CFGS, write_numbers

from cspdet.checkpoints.loading import load_model
from cspdet.cli.main import main
from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.errors import UserError

CASES = int(os.environ.get("CSPDET_FUZZ_CASES", "100"))
MAX_SECONDS = 60  # of one case, on a machine that does other things as well
MAX_MEMORY = 2**30
MAX_WEIGHTS = 3_000_000  # larger networks get a file that does not fit

WORDS = (
    "0",
    "-1",
    "1",
    "2",
    "7",
    "1.5",
    "-99999",
    "99999999999999",
    "1e9",
    "nan",
    "",
    "x",
    "1,2",
    "-1,-1,-1",
    "#",
    "\0",
)
LINES = (
    *("[route]", "[shortcut]", "[yolo]", "[net]", "[maxpool]", "[upsample]", "[connected]", "[convolutional]"),
    *("layers=-1", "layers=999", "layers=0,1", "from=-2", "stride=3", "output=4096", "groups=2", "size=1000"),
    *("====", "[", "]", "[]", "\x00\x01", "é"),
)


def damaged(text: str, rng: random.Random) -> str:
    """A few lines of a cfg removed, repeated, moved, garbled, or with absurd numbers."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        i, kind = rng.randrange(len(lines)), rng.randrange(8)
        if kind == 0 and len(lines) > 1:
            del lines[i]
        elif kind == 1:
            del lines[i : i + rng.randrange(1, 8)]
            lines = lines or [""]
        elif kind == 2 and "=" in lines[i]:
            lines[i] = lines[i].split("=")[0] + "=" + rng.choice(WORDS)
        elif kind == 3 and "=" in lines[i]:
            number = rng.choice((rng.randrange(-20, 200), 10 ** rng.randrange(9), -(10 ** rng.randrange(9))))
            lines[i] = lines[i].split("=")[0] + f"={number}"
        elif kind == 4:
            lines.insert(i, rng.choice(LINES))
        elif kind == 5:
            lines.insert(rng.randrange(len(lines)), lines[i])
        elif kind == 6:
            characters = list(lines[i])
            rng.shuffle(characters)
            lines[i] = "".join(characters)
        else:
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def numbers_needed(text: str) -> int:
    """How many a fitting file has; some count for cfgs that no file can fit."""
    try:
        layers = build_graph(parse_cfg(text, "x.cfg")).layers
    except UserError:
        return 5000
    return min(MAX_WEIGHTS, sum(layer.num_weights for layer in layers))


def spoil(path: Path, rng: random.Random) -> None:
    """Cut, lengthen or overwrite a part of a file."""
    data = bytearray(path.read_bytes())
    kind = rng.randrange(5)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        data += rng.randbytes(rng.choice((1, 4, 400)))
    elif kind == 2:
        at = rng.randrange(len(data))
        data[at : at + 64] = rng.randbytes(64)
    elif kind == 3:
        data[20:] = rng.randbytes(len(data) - 20)
    else:
        data[:12] = rng.randbytes(12)
    path.write_bytes(data)


def run_case(seed: int, folder: Path) -> str:
    """`error` or `model`; anything else is an exception."""
    rng = random.Random(seed)
    text = CFGS[rng.choice(list(CFGS))]
    spoil_weights = rng.random() < 0.4
    if not spoil_weights or rng.random() < 0.2:
        text = damaged(text, rng)
    cfg, weights, output = folder / "x.cfg", folder / "x.weights", folder / "x.pt"
    cfg.write_bytes(text.encode())
    write_numbers(weights, numbers_needed(text), seed=seed)
    if spoil_weights:
        spoil(weights, rng)
    output.unlink(missing_ok=True)
    code = main(
        ["import-darknet", str(cfg), str(weights), "--output", str(output), *(["--partial"] if seed % 3 == 0 else [])]
    )
    assert code in (0, 2), f"exit code {code}"
    assert output.exists() == (code == 0)
    if code == 2:
        return "error"
    loaded = load_model(output)
    assert layers_in_file_order(loaded.network)
    with torch.no_grad():
        out = loaded.network(torch.rand(1, 3, *loaded.config.input.size))
    for raw in out if isinstance(out, tuple) else (out,):
        assert raw.numel()
    return "model"


def too_long(signum: int, frame: object) -> None:
    raise TimeoutError(f"a case took more than {MAX_SECONDS} seconds")


@pytest.mark.e2e
def test_damage_ends_in_a_clear_error_or_a_working_model(tmp_path, capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"error": 0, "model": 0}
    previous = signal.signal(signal.SIGALRM, too_long)
    slowest = 0.0
    try:
        for seed in range(CASES):
            start = time.perf_counter()
            signal.alarm(MAX_SECONDS)
            try:
                outcomes[run_case(seed, tmp_path)] += 1
            except Exception as error:
                raise AssertionError(f"case {seed}: {type(error).__name__}: {error}") from error
            slowest = max(slowest, time.perf_counter() - start)
            text = capsys.readouterr().err
            assert "Traceback" not in text
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MAX_MEMORY, f"{grown / 2**20:.0f} MiB"
    assert min(outcomes.values()) > CASES // 20, outcomes
    print(f"{outcomes}, slowest case {slowest:.1f} s, memory grew by {grown / 2**20:.0f} MiB")
