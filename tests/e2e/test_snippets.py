"""The code blocks of README and docs: commands are parsed, overrides and keys are checked, Python blocks run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_origin

import cv2
import numpy as np
import pytest
from doc_pages import FENCE, GENERATORS, INDENTED, PAGES, ROOT, SCRIPT, SPAN, WORDS_BEFORE
from engine_data import small_detector, write_checkpoint
from pydantic import BaseModel
from ruamel.yaml import YAML

import cspdet
from cspdet.cli.main import COMMAND_HELP, COMMAND_SYNONYMS
from cspdet.cli.parser import build_parser, parse
from cspdet.config.base import ConfigModel
from cspdet.config.registry import Component
from cspdet.config.schema import union_members
from cspdet.datasets.descriptor import DescriptorConfig
from cspdet.errors import ConfigError
from cspdet.recipe import RECIPE_BY_TASK, load_recipe

COMMAND = re.compile(WORDS_BEFORE + r"(?:torchrun .*-m |python -m )?cspdet ([a-z][a-z-]*)(.*)")
KEY_SPAN = re.compile(r"((?:model|input|train|eval)(?:\.[a-z_]+)+)(?:=.*)?")
CONFIG_COMMANDS = {"train", "train-classifier"}  # their first argument is a config
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
TEXTS = dict(zip(NAMES, (path.read_text(encoding="utf-8") for path in PAGES), strict=True))

# --- commands ------------------------------------------------------------------------------------


def command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """(command, arguments) of every command line in the shell blocks of a page; `text` blocks show output and usage."""
    shell = [body for language, body in FENCE.findall(text) if language in ("sh", "bash", "console")]
    shell += INDENTED.findall(FENCE.sub("", text).replace("\\\n", " "))
    for line in "\n".join(shell).replace("\\\n", " ").splitlines():
        script = SCRIPT.match(line)
        if script and script[1] in GENERATORS:
            continue
        if found := script or COMMAND.match(line):
            command = found[1].replace("_", "-")
            words = shlex.split(re.split(r"\s[|&>]", found[2])[0], comments=True)
            yield COMMAND_SYNONYMS.get(command, command), words


def problem_of(command: str, words: list[str]) -> str | None:
    """What a command line of a page is refused for, or None. Files that the reader has need not exist."""
    if command not in COMMAND_HELP:
        return None if command in ("help", "version") else "unknown command"
    try:
        args = parse(build_parser(command, importlib.import_module(f"cspdet.cli.{command.replace('-', '_')}")), words)
        if command in CONFIG_COMMANDS and args.config is not None:
            check_overrides(args.config, args.overrides)
    except (ConfigError, SystemExit) as error:
        return str(error)
    keys = [text.split("=")[0] for text in args.overrides if "." in text.split("=")[0]]
    return next((f"unknown key {key}" for key in keys if key not in KEYS), None)


def check_overrides(config: Path, overrides: list[str]) -> None:
    """Load a released config with the overrides; a config of the reader has a stand-in."""
    try:
        load_recipe(config, overrides)
    except ConfigError as error:
        if "no such" not in str(error) and "no config" not in str(error):
            raise
        load_recipe("csppelee_efm_sam", overrides)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_line_is_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    if " hf:" in TEXTS[name]:
        pytest.importorskip("huggingface_hub")
    found = [(" ".join([command, *words]), problem_of(command, words)) for command, words in command_lines(TEXTS[name])]
    assert [(line, problem) for line, problem in found if problem is not None] == []


def test_wrong_command_lines_are_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = """
```sh
cspdet train csppelee_efm_sam train.epochs=5 \\
    train.augment.mosaik=0.5
cspdet train csppelee_efm_sam train.epochs=many   # a comment
cspdet detect best.pt
cspdet eval best.pt --min-score high | tail
cspdet evil best.pt
cspdet train mine.yaml train.ema.decoy=0.9
cspdet train csppelee_efm_sam data=mine.yaml train=configs/train/paper.yaml && echo done
```
    python tools/prepare_data.py shapes --output data/shapes --seeds 3
"""
    problems = [problem_of(*line) for line in command_lines(page)]
    expected = ("mosaik", "whole number", "SOURCE", "--min-score", "unknown command", "decoy", None, "--seeds")
    assert len(problems) == len(expected)
    for problem, word in zip(problems, expected, strict=True):
        assert (problem is None) == (word is None), problem
        assert word is None or word in str(problem)


# --- config keys ---------------------------------------------------------------------------------


def key_paths(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key path of a config: through unions, lists, and all components of the registries."""
    for key, field in model.model_fields.items():
        yield f"{before}{key}"
        members = [*field.metadata, *union_members(field.annotation)]
        members += [
            part for member in members for each in getattr(member, "__args__", ()) for part in union_members(each)
        ]
        for member in members:
            if isinstance(member, Component):
                for name in member.registry.names():
                    yield from key_paths(member.registry.get(name), f"{before}{key}.")
            elif isinstance(member, type) and get_origin(member) is None and issubclass(member, ConfigModel):
                yield from key_paths(member, f"{before}{key}.")


KEYS = {path for recipe in RECIPE_BY_TASK.values() for path in key_paths(recipe)}
DESCRIPTOR_KEYS = {*key_paths(DescriptorConfig)}
FILE_SUFFIXES = (".py", ".yaml", ".txt", ".csv", ".json", ".jsonl", ".pt", ".safetensors")  # `train.txt` is a file
FORMER_KEYS = {"CHANGELOG.md", "docs/glossary.md"}  # name keys of cspdet 1


def unknown_keys(text: str) -> list[str]:
    """The key paths in code spans that no config has."""
    spans = [found[1] for span in SPAN.findall(FENCE.sub("", text)) if (found := KEY_SPAN.fullmatch(span))]
    return [key for key in spans if key not in KEYS and not key.endswith(FILE_SUFFIXES)]


def unknown_yaml_keys(text: str) -> list[str]:
    """The keys in the YAML blocks of a page that neither a config nor a data descriptor has."""
    unknown = []
    for language, body in FENCE.findall(text):
        if language == "yaml":
            values = YAML(typ="safe", pure=True).load(body)
            paths = list(paths_of(values))
            unknown += min(([path for path in paths if path not in keys] for keys in (KEYS, DESCRIPTOR_KEYS)), key=len)
    return unknown


def paths_of(values: Any, before: str = "") -> Iterator[str]:
    """The key paths of a YAML block, without those of a component of the reader, `name: module:Class`."""
    if isinstance(values, dict) and ":" not in str(values.get("name", "")):
        for key, value in values.items():
            yield f"{before}{key}"
            yield from paths_of(value, f"{before}{key}.")
    elif isinstance(values, list):
        for value in values:
            yield from paths_of(value, before)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_key_exists(name):
    assert name in FORMER_KEYS or unknown_keys(TEXTS[name]) == []
    assert name == "docs/how-to/new_network.md" or unknown_yaml_keys(TEXTS[name]) == []


def test_unknown_keys_are_found():
    page = (
        "`train.epochs=3`, `train.epoch`, `train.assigner.radius`\n```yaml\nmodel: {neck: {name: efm, smal: 1}}\n```\n"
    )
    assert unknown_keys(page) == ["train.epoch"]
    assert unknown_yaml_keys(page) == ["model.neck.smal"]
    assert unknown_yaml_keys("```yaml\nval: {images: a, annotation: b}\n```\n") == ["val.annotation"]


# --- Python --------------------------------------------------------------------------------------

# Blocks that other tests run (extend, new_network, export, opencv), that need data (ImageNet), or that use the network.
NOT_RUN = {"docs/how-to/extend.md", "docs/how-to/new_network.md", "docs/how-to/export.md",
           "docs/how-to/classification.md", "docs/how-to/publish.md", "docs/how-to/weights.md",
           "docs/how-to/opencv.md"}  # fmt: skip
if importlib.util.find_spec("supervision") is None:
    NOT_RUN.add("docs/how-to/video.md")


def python_blocks(text: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language == "python"]


PYTHON_PAGES = [name for name, text in TEXTS.items() if python_blocks(text)]


@pytest.mark.parametrize("name", PYTHON_PAGES)
def test_every_python_block_compiles_and_names_what_exists(name):
    for block in python_blocks(TEXTS[name]):
        tree = ast.parse(block, feature_version=(3, 10))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cspdet"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                if called in cspdet.__all__ and callable(getattr(cspdet, called)):
                    inspect.signature(getattr(cspdet, called)).bind_partial(
                        **{word.arg: None for word in node.keywords if word.arg}
                    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name: a trained detector and images."""
    folder = tmp_path_factory.mktemp("project")
    for path in ("street.jpg", "data/shapes/val/000001.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    (folder / "runs/csppelee_efm_sam").mkdir(parents=True)
    write_checkpoint(folder / "runs/csppelee_efm_sam/best.pt", small_detector())
    return folder


@pytest.mark.parametrize("name", [name for name in PYTHON_PAGES if name not in NOT_RUN])
def test_the_python_blocks_of_a_page_run(name, project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    on_cpu = partial(cspdet.load_detector, device="cpu")
    monkeypatch.setattr(
        cspdet, "load_detector", lambda *words, **options: on_cpu(*words, **options | {"backend": "torch"})
    )
    namespace: dict[str, Any] = {"__name__": name}
    for block in python_blocks(TEXTS[name]):
        if "cspdet.train(" not in block:  # test_notebook.py trains
            exec(compile(block, name, "exec"), namespace)
    assert len(namespace["detector"].class_names) == 3
    assert "handle" not in namespace or '"detections"' in namespace["handle"](Path("street.jpg").read_bytes())
