"""Training curves: what is read of metrics.jsonl, what is drawn, and how the command tells mistakes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cspdet.cli.main import main
from cspdet.errors import ConfigError, DataError
from cspdet.reports.plot_style import line_colors
from cspdet.reports.run_metrics import read_runs, select_keys
from cspdet.reports.training_curves import draw_curves, draw_run_curves, panel_name, smooth

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]


def line(epoch: int, **more: Any) -> dict[str, Any]:
    """A line as training writes it."""
    values = {"epoch": epoch, "step": 10 * epoch, "images_seen": 80 * epoch, "lr": 0.01 / epoch, "loss": 9.0 / epoch}
    return {**values, "loss_box": 3.0 / epoch, "images_per_second": 20.0 + epoch, **more}


def write(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines) + tail)
    return folder


def evaluated(count: int, every: int, best: int) -> list[dict[str, Any]]:
    """`count` lines, an AP every so many; the best at epoch `best`."""
    return [
        line(i, **({"AP": 0.5 - abs(i - best) / 100, "AP50": 0.8} if i % every == 0 else {}))
        for i in range(1, count + 1)
    ]


# --- reading -------------------------------------------------------------------------------------


def test_a_run_is_a_folder_or_its_file_and_read_once(tmp_path):
    folder = write(tmp_path / "first", evaluated(6, 2, 4))
    (run,) = read_runs([folder, folder / "metrics.jsonl"])
    assert (run.name, len(run.lines), run.is_truncated) == ("first", 6, False)
    at, values = run.curve("AP", "images_seen")
    assert at.tolist() == [160, 320, 480]  # only where it was evaluated
    assert values.tolist() == pytest.approx([0.48, 0.5, 0.48])
    best = run.best("AP")
    assert best is not None
    assert best["epoch"] == 4
    assert run.best("no such key") is None


def test_names_are_as_long_as_they_need_to_be(tmp_path):
    folders = [write(tmp_path / name, [line(1)]) for name in ("a/run", "b/run", "b/other")]
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run", "b/other"]
    (tmp_path / "b" / "old.jsonl").write_text(json.dumps(line(1)))
    assert [run.name for run in read_runs([tmp_path / "b" / "old.jsonl", folders[2]])] == ["old", "other"]


def test_null_and_nan_are_gaps_and_words_are_left_out(tmp_path):
    lines = [line(1), line(2, loss=math.nan), line(3, loss=None), line(4, loss=math.inf, note="words", done=True)]
    (run,) = read_runs([write(tmp_path / "run", lines)])
    _, values = run.curve("loss", "epoch")
    assert np.isfinite(values).tolist() == [True, False, False, False]
    assert "note" not in run.keys
    assert "done" not in run.keys


def test_numbers_too_large_to_draw_are_gaps(tmp_path):
    (run,) = read_runs([write(tmp_path / "run", [line(1), line(2, loss=10**400), line(3, loss=1e308)])])
    assert np.isfinite(run.curve("loss", "epoch")[1]).tolist() == [True, False, False]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    (run,) = read_runs([write(tmp_path / "run", [line(1), line(2)], tail='{"epoch": 3, "lo')])
    assert (len(run.lines), run.is_truncated) == (2, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epoch": 1}\nbroken\n{"epoch": 3}\n', r"metrics\.jsonl:2: expected a JSON object, found 'broken'"),
        ("[1, 2]\n", r"metrics\.jsonl:1: expected a JSON object"),
        ("", "expected one line per epoch, found none"),
        ('{"epoch"', "found only an incomplete one"),
        (b"\xff\xfe\x00", "found only an incomplete one"),
        (b'{"epoch": 1}\n\xff\xfe\n{"epoch": 3}\n', r"metrics\.jsonl:2: expected a JSON object"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    folder = write(tmp_path / "run", [])
    (folder / "metrics.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_runs([folder])


def test_missing_runs_are_reported(tmp_path):
    write(tmp_path / "first", [line(1)])
    with pytest.raises(DataError, match="did you mean 'first'"):
        read_runs([tmp_path / "firts"])
    with pytest.raises(DataError, match=r"found no metrics\.jsonl in it"):
        read_runs([tmp_path])


# --- keys ----------------------------------------------------------------------------------------


def test_the_usual_keys_are_those_that_some_run_has(tmp_path):
    one = read_runs([write(tmp_path / "a", evaluated(4, 2, 2))])
    assert select_keys(one, None, "epoch") == ["loss", "AP", "AP50", "lr", "images_per_second", "loss_box"]
    two = one + read_runs([write(tmp_path / "b", [line(1, top1=0.3)])])
    assert select_keys(two, None, "epoch") == ["loss", "AP", "AP50", "top1", "lr", "images_per_second"]
    assert select_keys(two, ["top1", "loss", "top1"], "step") == ["top1", "loss"]
    odd = read_runs([write(tmp_path / "c", [{"epoch": 1, "mood": 3}])])
    assert select_keys(odd, None, "epoch") == ["mood"]
    with pytest.raises(ConfigError, match=r"found 'AP5' \(did you mean 'AP50'\?\); available: lr, loss"):
        select_keys(two, ["AP5"], "epoch")
    with pytest.raises(ConfigError, match="found none"):
        select_keys(two, [], "epoch")
    with pytest.raises(DataError, match=r"line 1 .* no number 'step'"):
        select_keys(odd, None, "step")


def test_keys_of_a_kind_share_a_panel():
    assert {panel_name(key) for key in ("loss", "loss_box")} == {"loss"}
    assert {panel_name(key) for key in ("AP", "AP50", "APs")} == {"AP"}
    assert panel_name("AR100") == "AR"
    assert panel_name("top5") == "accuracy"
    assert panel_name("lr") == "learning rate"
    assert panel_name("data_wait_fraction") == "data_wait_fraction"


# --- smoothing -----------------------------------------------------------------------------------


def test_means_are_over_what_is_there():
    # ends have fewer neighbors; the gap counts for none, and stays
    assert smooth(np.array([1.0, 2.0, 6.0, np.nan, 8.0]), 3).tolist() == pytest.approx(
        [1.5, 3, 4, np.nan, 8], nan_ok=True
    )
    assert smooth(np.array([1.0, 3.0, 5.0]), 2).tolist() == [2, 4, 5]  # itself and the next


@given(st.lists(st.one_of(st.floats(-9, 9), st.just(math.nan)), min_size=1, max_size=30), st.integers(1, 40))
def test_means_lie_between_the_values_and_keep_the_gaps(values, width):
    before = np.array(values)
    after = smooth(before, width)
    assert len(after) == len(before)
    assert (np.isnan(after) == np.isnan(before)).all()
    known = before[np.isfinite(before)]
    if len(known):
        assert np.nanmin(after) >= known.min() - 1e-9
        assert np.nanmax(after) <= known.max() + 1e-9
    assert width > 1 or np.allclose(after, before, equal_nan=True)


# --- drawing -------------------------------------------------------------------------------------


def drawn_lines(monkeypatch: pytest.MonkeyPatch, runs: Any, keys: list[str], path: Path, **options: Any) -> list[Any]:
    """The panels of a drawing, as matplotlib has them."""
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **more: Any) -> None:
        kept.append(self)
        save(self, *args, **more)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_curves(runs, keys, path, **options)
    return kept[0].axes


def test_curves_have_the_numbers_and_the_best_is_marked(tmp_path, monkeypatch):
    runs = read_runs([write(tmp_path / "a", evaluated(8, 2, 4)), write(tmp_path / "b", evaluated(4, 1, 3))])
    loss, accuracy = drawn_lines(monkeypatch, runs, ["loss", "AP"], tmp_path / "out.png", x="step")
    first, second = loss.get_lines()
    assert first.get_xdata().tolist() == [10.0 * i for i in range(1, 9)]
    assert first.get_ydata().tolist() == pytest.approx([9 / i for i in range(1, 9)])
    assert first.get_color() != second.get_color()
    stars = [curve for curve in accuracy.get_lines() if curve.get_marker() == "*"]
    assert [(list(star.get_xdata()), list(star.get_ydata())) for star in stars] == [([40], [0.5]), ([30], [0.5])]
    dotted = [curve for curve in accuracy.get_lines() if curve.get_marker() == "o"]
    assert [len(curve.get_xdata()) for curve in dotted] == [4, 4]
    (legend,) = accuracy.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "a: best AP 0.5000 at step 40",
        "b: best AP 0.5000 at step 30",
    ]


def test_the_losses_of_a_single_run_have_different_colors(tmp_path, monkeypatch):
    (run,) = read_runs([write(tmp_path / "a", evaluated(4, 2, 2))])
    loss, accuracy = drawn_lines(monkeypatch, [run], ["loss", "loss_box", "AP", "AP50"], tmp_path / "out.png")
    for panel in (loss, accuracy):
        curves = [curve for curve in panel.get_lines() if curve.get_marker() != "*"]
        assert len({curve.get_color() for curve in curves}) == len({curve.get_linestyle() for curve in curves}) == 2
        legend = panel.get_legend()
        assert [handle.get_color() for handle in legend.get_lines()][:2] == [curve.get_color() for curve in curves]
        box = legend.get_window_extent()
        assert box.y0 >= panel.get_window_extent().y1 - 1, "the legend is above the panel"


def test_tick_labels_are_plain_numbers(tmp_path, monkeypatch):
    lines = [line(i, lr=1e-5 * i, loss=2e5 / i) for i in range(1, 4)]
    (run,) = read_runs([write(tmp_path / "a", lines)])
    loss, rate = drawn_lines(monkeypatch, [run], ["loss", "lr"], tmp_path / "out.png")
    assert [text for text in rate.get_xticklabels() if "." in text.get_text()] == []
    labels = [text.get_text() for panel in (loss, rate) for text in panel.get_yticklabels()]
    assert {"100k", "0.00002"} <= set(labels)
    assert not rate.yaxis.get_offset_text().get_text()


def test_the_curves_of_a_run_are_drawn_into_its_folder(tmp_path):
    folder = write(tmp_path / "run", [])
    assert draw_run_curves(folder) is None, "no epoch yet"
    assert draw_run_curves(tmp_path) is None, "no such file"
    write(folder, evaluated(4, 2, 2))
    assert draw_run_curves(folder) == folder / "curves.png"
    assert cv2.imread(str(folder / "curves.png")) is not None


def test_a_smoothed_curve_leaves_the_numbers_behind_it(tmp_path, monkeypatch):
    runs = read_runs([write(tmp_path / "a", evaluated(9, 3, 3))])
    loss, accuracy = drawn_lines(monkeypatch, runs, ["loss", "AP"], tmp_path / "out.png", smoothing=3)
    pale, smoothed = loss.get_lines()
    assert pale.get_ydata().tolist() == pytest.approx([9 / i for i in range(1, 10)])
    assert smoothed.get_ydata()[1] == pytest.approx((9 + 4.5 + 3) / 3)
    assert len([curve for curve in accuracy.get_lines() if curve.get_marker() == "o"]) == 1  # AP is never smoothed


def test_the_same_numbers_make_the_same_file(tmp_path):
    runs = read_runs([write(tmp_path / "a", evaluated(6, 2, 2)), write(tmp_path / "b", evaluated(3, 1, 3))])
    for name in ("one.svg", "two.svg"):
        draw_curves(runs, ["AP"], tmp_path / name, title="a title")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()


@pytest.mark.parametrize("count", [1, 2])
def test_heading_and_legend_are_not_drawn_over_each_other(tmp_path, monkeypatch, count):
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **keys: (figures.append(self), save(self, *args, **keys))
    )
    runs = read_runs([write(tmp_path / str(run), evaluated(4, 2, 2)) for run in range(count)])
    draw_curves(runs, ["AP"], tmp_path / "out.png", title="heading")
    (figure,) = figures
    words = [figure.get_suptitle(), *(legend.get_title().get_text() for legend in figure.legends)]
    assert words == (["heading"] if count == 1 else ["", "heading"])


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    def settings() -> dict[str, Any]:  # to ask for the backend is to choose one
        return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

    before = settings()
    draw_curves(read_runs([write(tmp_path / "a", [line(1)])]), ["loss"], tmp_path / "out.svg")
    assert settings() == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("name", ["_hidden", "costs $5 and $6", "x" * 120, "50% & <b>"])
def test_any_name_of_a_folder_can_be_drawn(tmp_path, name):
    runs = read_runs([write(tmp_path / name, evaluated(4, 2, 2)), write(tmp_path / "b", [line(1)])])
    draw_curves(runs, ["loss", "AP", "AP50"], tmp_path / "out.png", title=name)
    assert cv2.imread(str(tmp_path / "out.png")).shape[1] == 800


def test_many_runs_have_colors_of_their_own():
    for count in (1, 8, 9, 30):
        assert len(set(line_colors(count))) == count


# --- the command ---------------------------------------------------------------------------------


def test_one_run_is_drawn_into_its_folder(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "run", evaluated(6, 2, 4), tail='{"epoch": 7')
    assert main(["plot", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "run  6 lines, epoch 6, loss 1.5000, best AP 0.5000 at epoch 4",
        f"written: {Path('run', 'curves.png')}",
    ]
    assert "the last line is incomplete and is ignored" in captured.err + caplog.text
    assert cv2.imread(str(folder / "curves.png")) is not None


def test_several_runs_are_drawn_below_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write(tmp_path / name, evaluated(count, 2, 4)) for name, count in (("a", 6), ("b", 4))]
    folders.append(write(tmp_path / "classifier", [{"epoch": 1, "loss": 2.0, "top1": 0.25}]))
    assert main(["plot", *map(str, folders)]) == 0
    assert "best top1 0.2500 at epoch 1" in capsys.readouterr().out
    assert (tmp_path / "runs/plot.png").is_file()
    words = ["--output", "new/x.svg", "--keys", "loss, AP", "--smooth", "2", "--title", ""]
    assert main(["plot", *map(str, folders), *words]) == 0
    assert (tmp_path / "new/x.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.jpeg"], "--output: expected a file ending in .png or .svg, found 'x.jpeg'"),
        (["--keys", "looss"], "found 'looss' (did you mean 'loss'?)"),
        (["--smooth", "0"], "--smooth: expected a number of lines from 1 to 10000, found 0"),
        (["--x", "time"], "--x"),
        (["train.epochs=3"], "plot: takes no overrides, found 'train.epochs=3'"),
        (["nowhere"], "nowhere: no such run"),
    ],
)
def test_errors_are_reported_and_nothing_is_written(tmp_path, capsys, caplog, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "run", [line(1)])
    assert main(["plot", str(folder), *words]) == 2
    assert message in capsys.readouterr().err + caplog.text
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["metrics.jsonl"]


@pytest.mark.e2e
def test_the_script_runs_without_a_display(tmp_path):
    folder = write(tmp_path / "run", evaluated(4, 2, 2))
    words = [sys.executable, str(ROOT / "tools/plot.py"), str(folder), "--output", str(tmp_path / "x.svg")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.svg").is_file()


def test_a_run_without_numbers_to_plot_is_refused(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert main(["plot", str(tmp_path)]) == 2
    assert "expected numbers to plot over 'epoch', found only epoch" in capsys.readouterr().err
    assert not (tmp_path / "curves.png").exists()
