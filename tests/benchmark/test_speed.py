"""`benchmark`: what its numbers mean, the talk with its workers, and whole runs on small networks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cspdet.benchmark.ipc import Worker, WorkerError
from cspdet.benchmark.matmul_peak import MatmulBenchmark
from cspdet.benchmark.report import describe_environment, table
from cspdet.benchmark.rows import BenchmarkRow, BenchmarkSpec, EngineInfo, Timing, interleave, with_distinct_names
from cspdet.benchmark.target import torchvision_classifier
from cspdet.cli.main import main
from cspdet.errors import ConfigError

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs/yolov3_tiny.yaml")
# The contract's keys of a row.
KEYS = {"model", "backend", "precision", "size", "batch", "threads", "forward_ms", "end_to_end_ms", "fps",
        "peak_memory_mib", "gflops", "gemm_peak_gflops", "device", "versions"}  # fmt: skip


def row(*, batch: int = 1, end_to_end: bool = True, bflops: float | None = 2.0) -> BenchmarkRow:
    about = EngineInfo("net", "torch", "fp32", (64, 96), 2, "a CPU", "detection", end_to_end, {"torch": "2"})
    return BenchmarkRow(
        BenchmarkSpec("net.pt", "torch", batch=batch), about, Timing((10.0, 30.0, 20.0)),
        Timing((40.0,)) if end_to_end else None, 500.0, 300.0, bflops, 200.0,
    )  # fmt: skip


# --- numbers -------------------------------------------------------------------------------------


@given(passes=st.integers(1, 500), rounds=st.integers(1, 20))
def test_turns_add_up_and_are_even(passes, rounds):
    turns = interleave(passes, rounds)
    assert sum(turns) == passes
    assert min(turns) >= 1
    assert max(turns) - min(turns) <= 1
    assert len(turns) == min(passes, rounds)


def test_the_numbers_of_a_row():
    # 2 BFLOPs in a median of 20 ms are 100 GFLOP/s, half of the 200 of the matrix product; 1000 / 40 images a second
    one = row()
    assert (one.gflops, one.fraction_of_peak, one.fps) == (100.0, 0.5, 25.0)
    # of 10, 20, 30 ms the 95th percentile lies nine tenths of the way from the second to the third
    assert one.to_json()["forward_ms"] == {"median": 20.0, "p95": 29.0}
    # four images in the same time are four times as much
    assert (row(batch=4).gflops, row(batch=4).fps) == (400.0, 100.0)
    # without an end to end time, images a second are those of the forward pass
    assert row(end_to_end=False).fps == 50.0
    assert row(bflops=None).gflops is None


def test_a_row_has_the_keys_that_were_promised():
    assert set(row().to_json()) >= KEYS
    assert json.loads(json.dumps(row().to_json())) == row().to_json()
    assert row(end_to_end=False).to_json()["end_to_end_ms"] is None


def test_a_spec_survives_the_way_to_the_worker():
    spec = BenchmarkSpec("a.yaml", "openvino", "bf16", (64, 96), 4, 2, "cpu", "w.pt", ("a=1",), "p.jpg", 0.1)
    assert BenchmarkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert BenchmarkSpec.from_json(json.loads(json.dumps(BenchmarkSpec("a", "torch").to_json()))) == BenchmarkSpec(
        "a", "torch"
    )


def test_the_table_has_a_dash_for_what_was_not_measured():
    first, second = table([row(), row(batch=16, end_to_end=False, bflops=None)]).rows
    assert "50%" in first
    assert second.count("--") == 4  # no end to end, no rate, no share
    assert describe_environment([row()]) == [
        "a CPU, 2 threads",
        "matrix multiplication on cpu in fp32: 200 GFLOP/s",
        "torch 2",
    ]


def test_models_with_the_same_name_are_named_by_their_paths():
    models = ("runs/a/best.pt", "runs/b/best.pt", "runs/a/best.pt", "other/net.pt")
    rows = [replace(row(), spec=BenchmarkSpec(model, "torch")) for model in models]
    assert [each.to_json()["model"] for each in with_distinct_names(rows[::2][:1] * 2)] == ["net", "net"]
    rows[3] = replace(rows[3], engine_info=replace(rows[3].engine_info, name="other"))
    names = [each.to_json()["model"] for each in with_distinct_names(rows)]
    assert names == ["a/best.pt", "b/best.pt", "a/best.pt", "other"]


def test_a_matrix_product_has_a_rate():
    product = MatmulBenchmark("fp32", torch.device("cpu"))
    product.a, product.b, product.flops = product.a[:64, :64], product.b[:64, :64], 2 * 64**3
    assert 0 < product.gflops() < 1e5


# --- workers -------------------------------------------------------------------------------------

ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip(), flush=True)\n"


def worker(script: str) -> Worker:
    return Worker([sys.executable, "-c", script], os.environ)


def test_questions_are_answered_in_order():
    talk = worker(ECHO)
    assert talk.request({"a": 1}) == {"a": 1}
    assert talk.request({"b": [2]}) == {"b": [2]}
    with pytest.raises(WorkerError, match="no such thing"):
        talk.request({"problems": ["no such thing"]})
    talk.close()


def test_the_last_line_of_a_crashed_worker_is_reported():
    talk = worker("import sys\nsys.stdin.readline()\nprint('out of memory', file=sys.stderr)\nsys.exit(3)")
    with pytest.raises(WorkerError, match="exited with 3: out of memory"):
        talk.request({"do": "load"})
    talk.close()


def test_a_worker_that_does_not_end_is_ended():
    talk = worker("import sys, time\nprint('{}', flush=True)\nsys.stdin.read()")
    assert talk.request({}) == {}
    talk.close()
    assert talk._process.returncode is not None


# --- whole runs ----------------------------------------------------------------------------------


@pytest.mark.e2e
def test_engines_side_by_side(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    plot = tmp_path / "speed.svg"
    words = [TINY, "--backend", "torch,onnxruntime,opencv", "--size", "64x96", "--repeat", "6", "--threads", "1"]
    assert main(["benchmark", *words, "--device", "cpu", "--json", "--plot", str(plot)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [found["backend"] for found in rows] == ["torch", "onnxruntime", "opencv"]
    for found in rows:
        assert set(found) >= KEYS
        assert (found["size"], found["batch"], found["threads"], found["passes"]) == ([64, 96], 1, 1, 6)
        assert 0 < found["forward_ms"]["median"] <= found["forward_ms"]["p95"]
        assert found["peak_memory_mib"] > found["libraries_mib"] > 10
        assert 0 < found["fraction_of_peak"] < 1.5
        assert found["gflops"] == pytest.approx(found["bflops"] / found["forward_ms"]["median"] * 1000, rel=0.01)
    assert [found["end_to_end_ms"] is None for found in rows] == [False, False, True]
    assert rows[2]["versions"]["opencv"] == cv2.__version__
    assert "yolov3_tiny" in plot.read_text()


@pytest.mark.e2e
def test_classifiers_are_measured_in_batches(capsys):
    config = str(ROOT / "configs/classification/peleenet.yaml")
    words = [config, "torchvision:squeezenet1_1", "--size", "64x64", "--batch", "2", "--backend", "torch"]
    assert main(["benchmark", *words, "--repeat", "2", "--device", "cpu"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    batch = rows[0].index("batch")
    assert [(row[0], row[batch]) for row in rows[1:3]] == [("peleenet", "2"), ("squeezenet1_1", "2")]


@pytest.mark.e2e
def test_rows_that_cannot_be_measured_do_not_cost_the_others(tmp_path):
    words = ["--size", "64x64", "--repeat", "2", "--backend", "torch,opencv", "--batch", "2", "--device", "cpu"]
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), TINY, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    if hasattr(cv2.dnn, "readNetFromDarknet"):
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    assert re.search(r"(?m)^yolov3_tiny +torch ", done.stdout), done.stdout
    (error,) = [line for line in done.stderr.splitlines() if "expected --batch 1" in line]
    assert error.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_classifiers_of_torchvision_are_found_by_name():
    network, facts = torchvision_classifier("torchvision:squeezenet1_1", (64, 96))
    assert (facts.name, facts.task, facts.size_hw) == ("squeezenet1_1", "classification", (64, 96))
    assert network(torch.rand(1, 3, 64, 96)).shape == (1, 1000)
    with pytest.raises(ConfigError, match=r"torchvision has no classifier 'alexnet9' \(did you mean 'alexnet'\?\)"):
        torchvision_classifier("torchvision:alexnet9", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "onnx"], "--backend: unknown 'onnx'"),
        (["--backend", ","], "--backend: expected one or more of"),
        (["--precision", "fp8"], "--precision: unknown 'fp8' (did you mean 'fp32'?)"),
        (["--batch", "0"], "--batch: expected a number of images"),
        (["--repeat", "0"], "--repeat: expected 1 or more, found 0"),
        (["--threads", "0"], "--threads: expected 1 or more, found 0"),
        (["--size", "64,96"], "--size: expected a side"),
        (["--min-score", "1"], "--min-score: expected a number from 0"),
        (["--plot", "x.gif"], "--plot: expected a file ending in .png or .svg"),
        (["--opencv-python", "nowhere/python"], "--opencv-python nowhere/python: no such file"),
        (["other.pt", "--weights", "x.pt"], "--weights: expected a single MODEL, found 2"),
    ],
)
def test_errors_are_reported_before_anything_is_loaded(words, message, capsys):
    assert main(["benchmark", TINY, "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err
