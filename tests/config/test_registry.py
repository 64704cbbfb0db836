"""Registries: components by name, of the package or of a module of the user's own, as fields of a config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from cspdet.config.base import ComponentConfig, ConfigModel
from cspdet.config.loader import dump_config, load_config, parse_config
from cspdet.config.registry import Registry, component
from cspdet.config.user_modules import allow_user_modules, import_user_module
from cspdet.errors import ConfigError


class RoundConfig(ComponentConfig):
    sides: tuple[int, ...] = ()
    radius: float = Field(1.0, gt=0)

    def build(self) -> float:
        return 3 * self.radius


class SquareConfig(ComponentConfig):
    file: Path | None = None


SHAPES = Registry("shape", {"round": f"{__name__}:RoundConfig", "square": f"{__name__}:SquareConfig"})


class DrawingConfig(ConfigModel):
    shape: Annotated[ComponentConfig, component(SHAPES)]
    optional: Annotated[ComponentConfig, component(SHAPES, default="round")] | None = None
    more: tuple[Annotated[ComponentConfig, component(SHAPES)], ...] = ()


USER_MODULE = """\
from cspdet.config.base import ComponentConfig

class Star:
    class Config(ComponentConfig):
        points: int = 5

    def __init__(self, config, size):
        self.points, self.size = config.points, size

class TriangleConfig(ComponentConfig):
    side: float = 1.0

    def build(self, size):
        return 3 * self.side * size

helper = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """The name of a module beside the config, which is not imported yet."""
    name = f"shapes_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def load(tmp_path: Path, text: str, *overrides: str) -> DrawingConfig:
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", DrawingConfig, overrides)


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_the_name_chooses_the_config_class(tmp_path):
    config = load(
        tmp_path, "shape: {name: round, radius: 2, sides: [1, 2]}\noptional: {}\nmore: [square, {name: round}]\n"
    )
    assert config.shape == RoundConfig(name="round", radius=2.0, sides=(1, 2))
    assert config.optional == RoundConfig(name="round")
    assert config.more == (SquareConfig(name="square"), RoundConfig(name="round"))
    assert config.shape.build() == 6


def test_all_keys_survive_a_round_trip(tmp_path):
    config = load(tmp_path, "shape: {name: round, radius: 2}\nmore: [{name: square, file: x/y.png}]\n")
    assert config.more == (SquareConfig(name="square", file=tmp_path / "x/y.png"),)
    assert load(tmp_path, dump_config(config)) == config
    assert parse_config(config.model_dump(mode="json"), DrawingConfig, "a checkpoint") == config


def test_a_component_may_be_a_file_and_keys_may_be_overridden(tmp_path):
    (tmp_path / "round.yaml").write_text("name: round\nradius: 2\n")
    config = load(tmp_path, "shape: round.yaml\n", "shape.radius=3", "optional.radius=4")
    assert (config.shape, config.optional) == (RoundConfig(name="round", radius=3), RoundConfig(name="round", radius=4))


def test_an_override_reaches_into_a_component_that_is_given_by_its_name_alone(tmp_path):
    assert load(tmp_path, "shape: round\n", "shape.radius=3").shape == RoundConfig(name="round", radius=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "shape: {name: rond}",
            "c.yaml:1: shape.name: unknown shape 'rond' (did you mean 'round'?); valid: round, square",
        ),
        ("shape: rond", "c.yaml:1: shape.name: unknown shape 'rond' (did you mean 'round'?)"),
        ("shape: {radius: 1}", "c.yaml:1: shape: missing key 'name', the name of a shape; valid: round, square"),
        ("shape: {name: 3}", "c.yaml:1: shape: expected text for the key 'name', the name of a shape"),
        ("shape: 3", "c.yaml:1: shape: expected a mapping of keys to values, found 3"),
        (
            "shape: {name: round, radios: 1}",
            "c.yaml:1: shape.radios: unknown key (did you mean 'radius'?); valid keys: ",
        ),
        ("shape: {name: round,\n radius: -1}", "c.yaml:2: shape.radius: expected greater than 0, found -1"),
        (
            "shape: {name: round}\nmore:\n- round\n- {name: round, x: 1}",
            "c.yaml:4: more[1].x: unknown key; valid keys: ",
        ),
        (
            "shape: {name: round}\noptional: {x: 1}",
            "c.yaml:2: optional.x: unknown key; valid keys: name, sides, radius",
        ),
        (
            "shape: {name: round, sides: [1, a]}",
            "c.yaml:1: shape.sides[1]: expected a whole number, found the text 'a'",
        ),
        ("shape: {name: no_such_module:X}", "c.yaml:1: shape.name: no module 'no_such_module'; expected one that is "),
        ("shape: {name: json:Nothing}", "c.yaml:1: shape.name: module 'json' has no 'Nothing'"),
        (
            "shape: {name: json:loads}",
            "c.yaml:1: shape.name: 'json:loads' is no shape: expected a subclass of ",
        ),
    ],
)
def test_errors_say_where_and_what_was_expected(tmp_path, text, expected):
    (line,) = problems(tmp_path, text)
    assert line.startswith(expected), line


def test_errors_of_several_components_come_together(tmp_path):
    assert len(problems(tmp_path, "shape: {name: rund}\noptional: {radius: x}\nmore: [{name: square, y: 1}]\n")) == 3


def test_a_class_of_the_users_own_is_named_by_its_module(tmp_path, user_module):
    config = load(
        tmp_path, f"shape: {{name: '{user_module}:Star', points: 7}}\nmore: ['{user_module}:TriangleConfig']\n"
    )
    star = config.shape.build(2)
    assert (type(star).__name__, star.points, star.size) == ("Star", 7, 2)
    assert config.more[0].build(2) == 6.0
    assert parse_config(config.model_dump(mode="json"), DrawingConfig, "a checkpoint") == config  # it is imported now


def test_a_component_of_another_type_is_an_error(tmp_path):
    class Polygon(ComponentConfig):
        corners: int = 3

    class Drawing(ConfigModel):
        shape: Annotated[Polygon, component(SHAPES)]

    (tmp_path / "c.yaml").write_text("shape: round\n")
    with pytest.raises(
        ConfigError, match=r"shape.name: 'round' is no shape: expected a subclass of Polygon, or a class"
    ):
        load_config(tmp_path / "c.yaml", Drawing)


def test_a_key_that_the_users_class_does_not_have_is_an_error(tmp_path, user_module):
    (line,) = problems(tmp_path, f"shape: {{name: '{user_module}:Star', pionts: 7}}\n")
    assert line == "c.yaml:1: shape.pionts: unknown key (did you mean 'points'?); valid keys: name, points"


def test_a_checkpoint_alone_imports_nothing(user_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"shape": {"name": f"{user_module}:Star"}}
    with pytest.raises(ConfigError, match=f"a checkpoint: shape.name: .*not imported; add --import {user_module}"):
        parse_config(values, DrawingConfig, "a checkpoint")
    assert user_module not in sys.modules
    import_user_module(user_module)
    assert parse_config(values, DrawingConfig, "a checkpoint").shape.name == f"{user_module}:Star"


def test_an_override_of_a_checkpoint_imports_only_what_it_names(user_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"shape": {"name": f"{user_module}:Star"}, "optional": {"name": "other_module:X"}}
    with pytest.raises(ConfigError) as caught:
        parse_config(values, DrawingConfig, "a checkpoint", [f"shape.name={user_module}:TriangleConfig"])
    assert [problem.partition(";")[2] for problem in caught.value.problems] == [" add --import other_module"]
    assert user_module in sys.modules


def test_a_module_that_raises_is_one_error_with_its_reason(tmp_path, user_module):
    (tmp_path / f"{user_module}.py").write_text("raise RuntimeError('out of paint')\n")
    (line,) = problems(tmp_path, f"shape: '{user_module}:Star'\n")
    assert line == f"c.yaml:1: shape.name: module '{user_module}' cannot be imported: RuntimeError: out of paint"


def test_a_module_that_misses_another_one_says_which(tmp_path, user_module):
    (tmp_path / f"{user_module}.py").write_text("import no_such_thing\n")
    (line,) = problems(tmp_path, f"shape: '{user_module}:Star'\n")
    assert line.endswith("cannot be imported: No module named 'no_such_thing'")


def test_user_modules_are_found_in_the_working_directory_without_python_m(tmp_path):
    """A console script does not have the working directory on its module search path."""
    (tmp_path / "mine.py").write_text(USER_MODULE)
    code = (
        "import sys; sys.path = [p for p in sys.path if p not in ('', '.')]\n"
        "from cspdet.config.registry import Registry\n"
        "from cspdet.config.user_modules import allow_user_modules\n"
        "with allow_user_modules(): print(Registry('shape', {}).get('mine:helper'))\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": root},
        check=False,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_names_outside_of_a_config(user_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SHAPES.names() == ("round", "square")
    assert "round" in SHAPES
    assert "rond" not in SHAPES
    assert SHAPES.get("round") is RoundConfig
    assert (
        Registry("shape", {"round": f"{__name__}:RoundConfig"}, prefixes=("round",)).get("round:large") is RoundConfig
    )
    with pytest.raises(ConfigError, match=r"unknown shape 'rond' \(did you mean 'round'\?\); valid: round, square"):
        SHAPES.get("rond")
    with pytest.raises(ConfigError, match="not imported"):
        SHAPES.get(f"{user_module}:helper")
    with allow_user_modules():
        assert SHAPES.get(f"{user_module}:helper") == 3
