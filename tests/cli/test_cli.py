"""The command line itself: verbs, overrides, exit codes."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

import cspdet
from cspdet.cli.main import COMMAND_HELP, OPENMP_SETTINGS, OPENMP_WAIT_VARIABLES, limit_openmp_spinning, main
from cspdet.cli.parser import THREADED_COMMANDS, build_parser, limit_threads

ROOT = Path(__file__).parents[2]
CONFIGS = [str(ROOT / "configs" / name) for name in ("csppelee_efm.yaml", "csppelee_efm_sam.yaml")]


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in COMMAND_HELP)
    assert main([]) == 2


def test_the_overview_fits_80_columns_and_is_aligned(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    named = [line for line in lines if line.startswith("  ")]
    assert {line.split()[0] for line in named} == set(COMMAND_HELP)
    assert {len(line) - len(line.lstrip(" ").partition(" ")[2].lstrip(" ")) for line in named} == {20}


def test_an_unknown_verb_offers_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'trian' (did you mean 'train'?)")


@pytest.mark.parametrize("verb", COMMAND_HELP)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert f"usage: cspdet {verb}" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cspdet 0.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info", "nothing.pt"], "nothing.pt: no such file"),
        (["info", CONFIGS[0], "--size", "416x"], "--size: expected a side such as 416, or HEIGHTxWIDTH"),
        (["info", CONFIGS[0], "--size", "100x100"], "expected multiples of 32, found 100x100"),
        (["info", CONFIGS[0], "model.nek.sam=true"], "model.nek: unknown key (did you mean 'neck'?)"),
        (["info"], "the following arguments are required: MODEL"),
    ],
)
def test_mistakes_exit_2_with_error_lines(words, expected, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert all(line.startswith("error: ") for line in said.splitlines())
    assert expected in said


def test_the_value_of_a_flag_is_no_override(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["info", CONFIGS[0], "--plot", "input.size=64/x.png"]) == 2
    assert capsys.readouterr().err == "error: --plot input.size=64/x.png: there is no folder 'input.size=64'\n"
    assert main(["info", CONFIGS[0], "--json", "input.size=64"]) == 0
    assert '"size": [64, 64]' in capsys.readouterr().out
    assert main(["prepare-data", "convert", "a=b", "--output", "c=d", "--format", "coco"]) == 2
    assert "the following arguments are required: SRC" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "detect x.yaml NAME",
        "check-data NAME",
        "plot NAME",
        "analyze NAME",
        "info NAME.pt",
        "plot . --output NAME",
        "info x.yaml a=NAME",
    ],
)
def test_a_path_that_is_too_long_is_one_line(words, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}')
    assert main(words.replace("NAME", "n" * 300).replace(" . ", f" {tmp_path} ").split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "n" * 300 in line]) <= 1
    assert lines
    assert all(line.startswith("error: ") for line in lines)


# --- OpenMP: threads that wait ---------------------------------------------------------------------


def test_openmp_threads_sleep_early_by_default():
    environ = {"OMP_NUM_THREADS": "2"}
    limit_openmp_spinning(environ)
    assert environ == {"OMP_NUM_THREADS": "2", **OPENMP_SETTINGS}


@pytest.mark.parametrize("name", OPENMP_WAIT_VARIABLES)
def test_openmp_settings_of_the_user_stay(name):
    environ = {name: "anything"}
    limit_openmp_spinning(environ)
    assert environ == {name: "anything"}


@pytest.mark.parametrize("module", ["cspdet", "cspdet.cli", "cspdet.cli.main"])
def test_python_runs_the_package_as_the_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"cspdet {cspdet.__version__}\n")


@pytest.mark.parametrize("command", COMMAND_HELP)
def test_a_module_of_a_command_runs_the_command(command):
    path = ROOT / f"cspdet/cli/{command.replace('-', '_')}.py"
    assert f'raise SystemExit(run_command("{command}"))' in path.read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to write to")
@pytest.mark.parametrize("words", [["help"], ["--version"], ["info", "--help"]])
def test_a_full_disk_is_one_line(words, monkeypatch, capsys):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == 2
        full.reconfigure(write_through=False)
    assert capsys.readouterr().err == "error: standard output: cannot be written: No space left on device\n"


def test_commands_set_openmp_and_importing_the_package_does_not():
    code = """
import os, sys
for name in %r: os.environ.pop(name, None)
import cspdet, cspdet.cli.main
assert "GOMP_SPINCOUNT" not in os.environ
cspdet.cli.main.main(["info"])
print(os.environ["GOMP_SPINCOUNT"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code % (OPENMP_WAIT_VARIABLES,)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == OPENMP_SETTINGS["GOMP_SPINCOUNT"] + "\n", done.stderr


def test_threads_limit_torch_opencv_and_later_libraries():
    environ: dict[str, str] = {}
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        limit_threads(None, environ)
        assert (torch.get_num_threads(), cv2.getNumThreads(), environ) == (*before, {})
        limit_threads(1, environ)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        assert environ == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize("command", COMMAND_HELP)
def test_every_command_has_log_levels_and_those_that_compute_have_threads(command):
    parser = build_parser(command, importlib.import_module(f"cspdet.cli.{command.replace('-', '_')}"))
    flags = {flag for action in parser._actions for flag in action.option_strings}
    if command != "prepare-data":  # its subcommands have them
        assert {"--quiet", "--verbose", "--log-level"} <= flags
    assert ("--threads" in flags) is (command in THREADED_COMMANDS | {"benchmark"})
