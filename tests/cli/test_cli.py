"""The command line itself: verbs, overrides, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cspdet.cli.main import COMMAND_HELP, main

ROOT = Path(__file__).parents[2]
CONFIGS = [str(ROOT / "configs" / name) for name in ("csppelee_efm.yaml", "csppelee_efm_sam.yaml")]


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in COMMAND_HELP)
    assert main([]) == 2


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
