"""`analyze`: what it takes, writes, prints and refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from analysis_data import box, found, truth, write_annotations

from cspdet.cli.main import main, run_command

ROOT = Path(__file__).parents[2]
GT_BOXES = [truth("disc", box(0)), truth("disc", box(100)), truth("bar", box(200))]
RESULTS = [found("disc", box(0), 0.9), found("bar", box(100), 0.8), found("bar", box(200), 0.7)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset, and two runs on it."""
    monkeypatch.chdir(tmp_path)
    write_annotations(Path("val.json"), GT_BOXES)
    Path("data.yaml").write_text("val: {images: nowhere, annotations: val.json}\n")
    for name, results in (("good", RESULTS), ("bad", RESULTS[:1])):
        write_run(name, results)


def write_run(name: str, results: object, data: str | None = "data.yaml") -> None:
    Path(name).mkdir()
    Path(name, "detections.json").write_text(json.dumps(results))
    if data is not None:
        Path(name, "config.yaml").write_text(f"data: {data}\n")


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_analyzed_on_its_own_data(capsys):
    assert main(["analyze", "good", "--no-report"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("good: AP ")
    assert "disc detected as bar: 1 (50% of its boxes)" in printed
    assert "best threshold: " in printed
    files = {path.name for path in Path("runs/analyze").iterdir()}
    assert files == {
        "analysis.json",
        "calibration.csv",
        "classes.csv",
        "confusion.csv",
        "curves.csv",
        "errors.csv",
        "groups.csv",
        "label_issues.csv",
        "thresholds.csv",
        "worst.csv",
    }
    assert all(name in printed for name in files)
    assert main(["analyze", "good", "--no-report"]) == 0
    assert Path("runs/analyze-2/analysis.json").is_file()


def test_the_tables_hold_what_the_document_holds():
    assert main(["analyze", "good", "--no-report", "--output", "out"]) == 0
    (run,) = json.loads(Path("out/analysis.json").read_text())["runs"]
    classes = rows("out/classes.csv")
    assert [(row["class"], row["boxes"]) for row in classes] == [("disc", "2"), ("bar", "1"), ("cone", "0")]
    assert [row["AP"] for row in classes] == ["" if one["AP"] is None else repr(one["AP"]) for one in run["classes"]]
    errors = {row["type"]: row for row in rows("out/errors.csv")}
    assert int(errors["classification"]["count"]) == 1
    assert int(errors["correct"]["count"]) == run["errors"]["correct"] == 2
    counts = [(row["ground_truth"], row["detection"], int(row["count"])) for row in rows("out/confusion.csv")]
    assert counts == [("disc", "disc", 1), ("disc", "bar", 1), ("bar", "bar", 1)]
    ap50 = [float(row["precision"]) for row in rows("out/curves.csv") if (row["iou"], row["class"]) == ("0.5", "(all)")]
    assert sum(ap50) / 101 == pytest.approx(run["stats"]["AP50"])
    assert len(rows("out/thresholds.csv")) == 4 * 101
    assert len(rows("out/calibration.csv")) == 10


def test_a_results_file_needs_data_and_takes_limits(capsys):
    words = ["good/detections.json", "--data", "data.yaml", "--min-iou", "0.6", "--min-score", "0.75", "--json"]
    assert main(["analyze", *words, "--no-report"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["iou"], run["threshold"], run["threshold_is_best"]) == (0.6, 0.75, False)
    assert run["at_threshold"]["kept"] == 2


def test_runs_are_compared(capsys):
    assert main(["analyze", "good", "bad", "good", "--resamples", "20", "--no-report", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert "bad against good (1), 20 bootstrap resamples of the images:" in printed
    assert "good (2) against good (1), 20 bootstrap resamples of the images:" in printed
    assert "no significant difference" in printed
    document = json.loads(Path("out/analysis.json").read_text())
    assert [run["name"] for run in document["runs"]] == ["good (1)", "bad", "good (2)"]
    bad, same = document["comparison"]["against_first"]
    assert bad["AP"]["difference"] < 0
    assert (same["AP"]["difference"], same["AP"]["p_value"]) == (0.0, 1.0)
    assert [row["other"] for row in rows("out/comparison.csv")] == ["bad"] * 5 + ["good (2)"] * 5


def test_the_page_is_written_and_named(capsys):
    pytest.importorskip("jinja2")
    assert main(["analyze", "good", "bad", "--resamples", "5", "--output", "out"]) == 0
    assert "open out/index.html" in capsys.readouterr().out
    assert "<html" in Path("out/index.html").read_text()


def test_an_empty_results_file_is_all_missed(capsys):
    write_run("nothing", [])
    assert main(["analyze", "nothing", "--no-report"]) == 0
    printed = capsys.readouterr().out
    assert "3 boxes (0 detected at IoU 0.5), 0 detections (0 correct)" in printed
    assert "no detections: there is no best threshold" in printed


def test_data_without_boxes_is_said(capsys):
    write_annotations(Path("val.json"), [])
    assert main(["analyze", "good", "bad", "--resamples", "2", "--no-report"]) == 0
    printed = capsys.readouterr().out
    assert "no ground-truth boxes: every detection is a false positive" in printed
    assert "no ground truth to compare on" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "nowhere: no such run folder or results file"),
        (["goodd"], "did you mean 'good'?"),
        (["runless"], "runless: no detections.json in this folder, which is empty"),
        (["weights"], "`cspdet eval weights/best.pt --output weights` creates one"),
        (["weights/best.pt"], "a model, not detections"),
        (["alone"], "--data DESCRIPTOR is missing"),
        (["good", "elsewhere"], "good uses data.yaml; elsewhere uses other.yaml"),
        (["good", "--split", "train"], "no split 'train'"),
        (["good", "--min-iou", "0.1"], "--min-iou: expected more than 0.1 and at most 1, found 0.1"),
        (["good", "--min-score", "nan"], "--min-score: expected a number, found nan"),
        (["good", "--resamples", "0"], "--resamples: expected 1 or more, found 0"),
        (["good", "--gallery", "-1"], "--gallery: expected 0 or more, found -1"),
        (["good", "--seed", "-1"], "--seed: expected 0 or more, found -1"),
        (["good", "train.lr=1"], "there is no config that 'train.lr=1' could override"),
        (["strange"], "image_id"),
        (["good", "strange"], "image_id"),
    ],
)
def test_errors_are_reported_and_leave_nothing(words, expected, capsys):
    Path("runless").mkdir()
    Path("weights").mkdir()
    Path("weights/best.pt").touch()
    write_run("alone", RESULTS, data=None)
    write_run("elsewhere", RESULTS, data="other.yaml")
    write_run("strange", [found("disc", box(0), 0.5, image_id=99)])
    assert run_command("analyze", words) == 2
    cells = capsys.readouterr().err
    assert expected in cells
    assert all(line.startswith("error: ") for line in cells.splitlines())
    assert not Path("runs").exists()


@pytest.mark.e2e
def test_the_script_and_the_console_command_do_it():
    console = "import sys; from cspdet.cli.main import main; sys.exit(main())"
    for command in ([str(ROOT / "tools/analyze.py")], ["-c", console, "analyze"]):
        done = subprocess.run(
            [sys.executable, *command, "good", "--no-report"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("good: AP ")
