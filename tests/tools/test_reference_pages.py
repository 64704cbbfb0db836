"""docs/reference: generated pages are those of the code; every flag, key, column and public name is on a page."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import pytest
from docs_site import annotations, commands, config_pages, generate, markdown
from pydantic import BaseModel, Field

import cspdet
from cspdet.analysis.tables import COMPARISON_HEADER, TABLES
from cspdet.cli.main import COMMAND_HELP
from cspdet.cli.parser import build_parser, parse
from cspdet.config.base import ConfigModel
from cspdet.config.registry import Component
from cspdet.config.schema import union_members
from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.evaluation.coco import METRIC_NAMES
from cspdet.inference.label_files import CSV_HEADER
from cspdet.inference.records import DetectionRecord, FrameRecord
from cspdet.inference.sources import VIDEO_SUFFIXES
from cspdet.recipe import RECIPE_BY_TASK
from cspdet.training.run.run_dir import RUN_FILES

REFERENCE = Path(__file__).parents[2] / "docs/reference"
CODE = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generate.pages()


def read(name: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (REFERENCE / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def table_rows(page: str) -> dict[str, set[str]]:
    """The code spans of each row, by each span in its first cell."""
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    return {name: set(CODE.findall(row)) for row in rows for name in CODE.findall(row.split(" | ")[0])}


def test_the_committed_pages_are_what_the_code_gives(pages):
    marked = {path for path in REFERENCE.rglob("*.md") if path.read_text(encoding="utf-8").startswith("<!-- Gen")}
    assert marked == {generate.DOCS / name for name in pages}, "run python tools/reference_pages.py"
    old = [name for name, content in pages.items() if (generate.DOCS / name).read_text(encoding="utf-8") != content]
    assert old == [], "run python tools/reference_pages.py"


# --- commands ------------------------------------------------------------------------------------


def leaf_parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for command in COMMAND_HELP:
        parser = commands.parser_of(command)
        subs = commands.subcommands(parser)
        yield from [(f"{command} {name}", sub) for name, (_, sub) in subs.items()] or [(command, parser)]


PARSERS = list(leaf_parsers())


@pytest.mark.parametrize(("command", "parser"), PARSERS, ids=[command for command, _ in PARSERS])
def test_every_flag_is_documented(command, parser):
    page = read(f"commands/{command.split()[0]}.md") + read("commands/index.md")
    listed = {flag.split()[0] for flag in CODE.findall(page)}
    actions = commands.visible(parser._actions)
    assert [flag for action in actions for flag in action.option_strings if flag not in listed] == []
    assert [action.dest for action in actions if not commands.meaning(action)] == []


@pytest.mark.parametrize(("command", "parser"), PARSERS, ids=[command for command, _ in PARSERS])
def test_the_example_of_every_flag_is_valid(command, parser):
    name, *subcommand = command.split()
    actions = commands.visible(parser._actions)
    needed = [] if name in ("train", "eval", "train-classifier") else ["given"]
    given = [word for action in actions if not action.option_strings for word in needed]
    required = [action for action in actions if commands.is_required(action)]
    for action in actions:
        if not action.option_strings:
            continue
        flags = [commands.example(command, other) for other in {*required, action}]
        words = [*subcommand, *given, *shlex.split(" ".join(flags))]
        full = build_parser(name, importlib.import_module(f"cspdet.cli.{name.replace('-', '_')}"))
        args = parse(full, words)
        value = getattr(args, action.dest)
        assert value == action.const or value != action.default or action.dest == "precision", (words, value)


def test_a_flag_without_help_is_refused():
    parser = argparse.ArgumentParser()
    action = parser.add_argument("--width", help="(default: 3)")
    with pytest.raises(ValueError, match="--width: expected a help text"):
        commands.meaning(action)
    with pytest.raises(KeyError, match="--width: add an example value"):
        commands.example("detect", action)


def test_long_examples_continue_and_keep_a_flag_with_its_value():
    line = f"cspdet eval {'x' * 55} --data mine.yaml --voc --output runs/eval"
    assert commands._wrapped(line).splitlines() == [
        f"cspdet eval {'x' * 55} \\",
        "    --data mine.yaml --voc --output runs/eval",
    ]
    assert commands._wrapped("cspdet eval best.pt") == "cspdet eval best.pt"


# --- config keys ---------------------------------------------------------------------------------


def sections(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """The section, and all sections and components below it."""
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        members = [*field.metadata, *union_members(field.annotation)]
        members += [inner for member in members for inner in getattr(member, "__args__", ())]
        for member in [part for each in members for part in (each, *union_members(each))]:
            if isinstance(member, Component):
                for name in member.registry.names():
                    yield from sections(member.registry.get(name), seen)
            elif isinstance(member, type) and get_origin(member) is None and issubclass(member, ConfigModel):
                yield from sections(member, seen)


def test_every_config_key_is_documented():
    found: set[type[BaseModel]] = set()
    models = [model for root in RECIPE_BY_TASK.values() for model in sections(root, found)]
    assert len(models) > 40
    text = "".join(read(f"config/{name}.md") for name in ("index", "model", "train"))
    listed = table_rows(text).keys()
    keys = {key for model in models for key in model.model_fields}
    assert sorted(keys - listed) == []
    undocumented = [f"{m.__name__}.{key}" for m in models for key, f in m.model_fields.items() if not f.description]
    assert undocumented == []


def test_types_ranges_and_defaults_in_words():
    class Sample(ConfigModel):
        """A sample."""

        fraction: float | None = Field(None, gt=0, le=1, description="Fraction.")
        size: Annotated[int, Field(ge=2)] | Literal["auto"] = Field("auto", description="Size.")
        pairs: tuple[tuple[float, float], ...] = Field(((1, 2.5),), description="Pairs of [a | b].")
        needed: bool = Field(description="Whether <x> is needed.")

    fields = Sample.model_fields
    assert [annotations.type_of(field) for field in fields.values()] == [
        "number > 0, ≤ 1, or null",
        "integer ≥ 2 or `auto`",
        "list of 2 numbers",
        "true or false",
    ]
    assert [annotations.default_of(field) for field in fields.values()] == [
        "`null`",
        "`auto`",
        "`[[1, 2.5]]`",
        "required",
    ]
    table = config_pages.key_table(dict(fields), {"fraction": 0.5, "size": "auto"})
    assert table.splitlines()[2:] == [
        "| `fraction` | number > 0, ≤ 1, or null<br>default: `null`<br>recommended: `0.5` | Fraction. |",
        "| `size` | integer ≥ 2 or `auto`<br>default: `auto` | Size. |",
        r"| `pairs` | list of 2 numbers<br>default: `[[1, 2.5]]` | Pairs of \[a &#124; b\]. |",
        "| `needed` | true or false<br>required | Whether &lt;x> is needed. |",
    ]


def test_a_key_without_description_is_refused():
    with pytest.raises(ValueError, match="gamma: expected Field"):
        config_pages.meaning("gamma", Field(1.0))


def test_code_spans_are_not_escaped():
    assert markdown.text("a *b* `*c*`\n _d_ e_f") == r"a \*b\* `*c*` \_d\_ e_f"


# --- the other pages -----------------------------------------------------------------------------


def test_every_public_name_is_on_a_page_of_the_api():
    text = "".join(path.read_text(encoding="utf-8") for path in (REFERENCE / "python").glob("*.md"))
    named = {name.removeprefix("cspdet.") for name in CODE.findall(text)} | set(
        re.findall(r"::: cspdet\.(\w+)$", text, re.M)
    )
    assert sorted(set(cspdet.__all__) - named) == []


def test_every_object_of_the_api_pages_exists():
    for path in (REFERENCE / "python").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            found: Any = getattr(importlib.import_module(module), attribute)
            assert found.__doc__, name


def test_the_page_of_outputs_has_every_file_and_column():
    rows = table_rows(read("outputs.md"))
    for name, (header, _) in TABLES.items():
        assert set(header) - rows[name] == set(), name
    assert set(COMPARISON_HEADER) - rows["comparison.csv"] == set()
    assert set(CSV_HEADER) - rows["--save-as csv"] == set()
    assert {*get_type_hints(FrameRecord), *get_type_hints(DetectionRecord)} - rows.keys() == set()
    assert set(RUN_FILES) - rows.keys() == set()


def test_the_pages_of_metrics_and_formats_name_what_the_code_has():
    assert set(METRIC_NAMES) - set(CODE.findall(read("metrics.md"))) == set()
    suffixes = {name for name in CODE.findall(read("data_formats.md")) if re.fullmatch(r"\.\w+", name)}
    assert IMAGE_SUFFIXES | VIDEO_SUFFIXES <= suffixes <= IMAGE_SUFFIXES | VIDEO_SUFFIXES | {".data"}


def test_every_exit_code_is_documented():
    codes = set(re.findall(r"^\| (\d+) \|", read("errors.md"), re.MULTILINE))
    assert codes == {"0", "2", "129", "130", "143"}
