"""Words of other toolkits on the command line: read where their meaning is clear, else refused with the right word."""

from __future__ import annotations

import importlib
from argparse import Namespace
from pathlib import Path

import pytest

from cspdet.cli.main import COMMAND_HELP, main
from cspdet.cli.parser import Parser, build_parser, parse
from cspdet.cli.synonyms import SWITCHES, SYNONYMS
from cspdet.errors import ConfigError
from cspdet.recipe import load_recipe, recipe_to_dict

ROOT = Path(__file__).parents[2]


def parser(command: str) -> Parser:
    return build_parser(command, importlib.import_module(f"cspdet.cli.{command.replace('-', '_')}"))


def read(command: str, *words: str) -> Namespace:
    return parse(parser(command), list(words))


TRAIN = ["train.epochs=3", "input.size=160", "train.batch_size=8"]


@pytest.mark.parametrize(
    "words",
    [
        ["x.yaml", *TRAIN],
        ["x.yaml", "epochs=3", "imgsz=160", "batch=8"],
        ["model=x.yaml", "epochs=3", "imgsz=160", "batch=8"],
        ["--epochs", "3", "--img-size=160", "--batch_size", "8", "x.yaml"],
        ["--cfg", "x.yaml", "max_epochs=3", "size=160", "--batch", "8"],
    ],
)
def test_training_words(words):
    args = read("train", *words)
    assert (args.config, args.overrides) == (Path("x.yaml"), TRAIN)


def test_detection_words():
    args = read("detect", "x.pt", "a.jpg", "b.jpg", "conf=0.3", "--iou-thres", "0.5", "imgsz=640,480", "half=True")
    assert (args.model, args.source, args.overrides) == ("x.pt", ["a.jpg", "b.jpg"], ["input.size=[640, 480]"])
    assert (args.min_score, args.nms_iou, args.precision) == (0.3, 0.5, "fp16")
    args = read("detect", "model=x.pt", "source=a.jpg", "device=0", "json=True", "hide_labels=False", "--save-txt")
    assert (args.model, args.source, args.device, args.save_as) == ("x.pt", ["a.jpg"], "cuda:0", ["yolo"])
    assert (args.json, args.hide_labels) == (True, False)
    args = read("detect", "--weights", "x.pt", "--source", "a.jpg", "--img", "320", "--conf-thres", "0.4")
    assert (args.model, args.source, args.weights, args.min_score) == ("x.pt", ["a.jpg"], None, 0.4)
    args = read("detect", "x.yaml", "a.jpg", "--weights", "x.pt")
    assert (args.model, args.source, args.weights) == ("x.yaml", ["a.jpg"], Path("x.pt"))


@pytest.mark.parametrize("command", COMMAND_HELP)
@pytest.mark.parametrize("word", ["--conf", "--iou", "--imgsz", "--nms"])
def test_words_of_other_toolkits_suggest_nothing_else(command, word):
    chosen = parser(command)
    flags = {flag for action in chosen._actions for flag in action.option_strings}
    meant = {word, *SYNONYMS[word[2:]]}
    assert not {other for other in flags - meant if repr(other) in chosen._suggest(word)}


def test_words_of_other_commands():
    assert read("benchmark", "x.yaml", "batch=4", "imgsz=[320, 512]").batch == "4"
    assert read("benchmark", "x.yaml", "imgsz=[320, 512]").size == (320, 512)
    assert read("export", "x.pt", "format=onnx", "dynamic=False", "nms=True").dynamic is False
    assert read("eval", "x.pt", "workers=2", "data=d.yaml").overrides == ["data=d.yaml"]
    assert read("train", "x.yaml", "batch=-1").overrides == ["train.batch_size=auto"]


def test_data_of_training_and_evaluation():
    assert read("train", "x.yaml", "--data", "d.yaml").overrides == ["data=d.yaml"]
    assert read("eval", "x.pt", "--data", "d.yaml").data == Path("d.yaml")
    assert read("eval", "--detections", "r.json", "--data", "d.yaml", "--weights", "w.pt").model is None


def test_a_section_of_the_config_is_still_an_override():
    words = ["model=y.yaml", "model.neck.sam=true", "data=d.yaml"]
    assert read("train", "x.yaml", *words).overrides == words
    assert read("prepare-data", "convert", "a.csv", "--output", "o", "format=1").overrides == ["format=1"]


def test_the_value_of_a_flag_is_never_an_override(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    assert read("plot", "lr=0.1", "--title", "a=b", "--output=c=d.png").title == "a=b"
    args = read("train", "x.yaml", "--output", "lr=0.2", "train.epochs=1")
    assert (args.output, args.overrides) == (Path("lr=0.2"), ["train.epochs=1"])
    assert read("prepare-data", "voc", "x", "--output", "a=b").output == Path("a=b")


@pytest.mark.parametrize(
    ("command", "word", "message"),
    [
        ("detect", "--conff", "unexpected '--conff' (did you mean '--min-score'?); see cspdet detect --help"),
        ("info", "--conf", "unexpected '--conf' (--min-score in other commands; this command has no such option); see"),
        ("train", "--iou", "unexpected '--iou' (--nms-iou in other commands; this command has no such option); see"),
        ("info", "--layer", "unexpected '--layer' (did you mean '--layers'?); see"),
        ("plot", "--outt", "unexpected '--outt' (did you mean '--output'?); see"),
        ("detect", "--ouput", "(did you mean '--output'?)"),
        ("detect", "--no-drw", "(did you mean '--no-draw'?)"),
        ("detect", "--agnostic", "unexpected '--agnostic'; see"),
        ("train", "--optimiser", "unexpected '--optimiser'; see"),
        ("train", "project=runs", "unexpected 'project=runs'; --output sets the output folder"),
        ("detect", "json=perhaps", "json=perhaps: expected true or false, found 'perhaps'"),
        ("detect", "--device=0,1", "torchrun --nproc-per-node 2"),
        ("detect", "--save-as=coc", "unknown format 'coc' (did you mean 'coco'?)"),
    ],
)
def test_unclear_words(command, word, message):
    with pytest.raises(ConfigError) as refused:
        read(command, "x.yaml", "image.jpg", word) if command == "detect" else read(command, "x.yaml", word)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "name"), [("0", "cuda:0"), ("cuda:1", "cuda:1"), ("GPU", "cuda"), ("CPU", "cpu"), ("auto", "auto")]
)
def test_devices(text, name):
    assert read("eval", "x.pt", "--device", text).device == name


def test_every_synonym_stands_for_a_flag_or_a_key():
    flags = {
        flag
        for command in COMMAND_HELP
        for action in parser(command)._actions
        for flag in action.option_strings
    }  # fmt: skip
    recipe = recipe_to_dict(load_recipe(ROOT / "configs/csppelee_efm.yaml"))
    targets = {target for targets in SYNONYMS.values() for target in targets}
    assert {target for target in targets if target.startswith("--")} <= flags
    assert {flag.split("=")[0] for flag in SWITCHES.values()} <= flags
    for key in (target for target in targets if not target.startswith("--")):
        value = recipe
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_commands_have_other_names(capsys):
    for words, usage in ((["val", "--help"], "eval"), (["help", "train"], "train"), (["help", "val"], "eval")):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert (left.value.code, f"usage: cspdet {usage} " in capsys.readouterr().out) == (0, True)
    assert main(["help"]) == 0
    assert main(["help", "trian"]) == 2


def test_a_run_folder_is_a_model(tmp_path):
    (tmp_path / "last.pt").touch()
    assert read("eval", str(tmp_path)).model == str(tmp_path / "last.pt")
    (tmp_path / "best.pt").touch()
    assert read("export", str(tmp_path)).model == tmp_path / "best.pt"
    assert read("info", str(tmp_path), "x.yaml").models == [tmp_path / "best.pt", Path("x.yaml")]


def test_a_note_names_the_translation(capsys):
    assert main(["train", "nothing.yaml", "epochs=3"]) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note.endswith("epochs=3 is read as train.epochs=3")
    assert error.startswith("error: nothing.yaml: no such file")
    assert main(["train", "nothing.yaml", "epochs=3", "--quiet"]) == 2
    assert capsys.readouterr().err.splitlines() == [error]


def test_threads_and_format_are_checked_before_the_model(capsys):
    assert main(["detect", "nothing.pt", "image.jpg", "--threads", "0"]) == 2
    assert "--threads: expected 1 or more" in capsys.readouterr().err
    assert main(["export", "nothing.pt"]) == 2
    assert "--format: expected one of" in capsys.readouterr().err
    assert main(["export", "nothing.pt", "--output", "x.onnx"]) == 2
    assert "nothing.pt: no such file" in capsys.readouterr().err
