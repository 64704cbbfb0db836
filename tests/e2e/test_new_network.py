"""The page on new networks, followed to the letter: its files are written, its classes join the unions, it all runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from golden import Golden

from cspdet.config.loader import load_config
from cspdet.errors import ConfigError
from cspdet.models.backbones import BACKBONES
from cspdet.models.necks import NECKS
from cspdet.models.profile import profile
from cspdet.recipe import DetectionRecipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/new_network.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


BACKBONE, NECK = blocks("python")
REGISTRY_LINE, GOLDEN_ROW = blocks("diff")
(YAML,) = blocks("yaml")
YAML_NAME = "tinycsp_topdown"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModuleType]]:
    """The two files of the page, imported under names of their own."""
    folder, loaded = tmp_path_factory.mktemp("networks"), {}
    for name, source in (("tinycsp", BACKBONE), ("topdown", NECK)):
        path = folder / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"page_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where pydantic looks the annotations up
        spec.loader.exec_module(module)
        loaded[name] = module
    yield loaded
    for module in loaded.values():
        del sys.modules[module.__name__]


@pytest.fixture
def schema(modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> type[DetectionRecipe]:
    """A recipe whose registries have one entry more each."""
    monkeypatch.setitem(BACKBONES._entries, "tinycsp", "page_tinycsp:TinyCSPConfig")
    monkeypatch.setitem(NECKS._entries, "topdown", "page_topdown:TopDownConfig")
    return DetectionRecipe


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The page's YAML where it belongs, beside the recipe that it names."""
    for name in ("train/recommended.yaml", f"{YAML_NAME}.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / f"{YAML_NAME}.yaml").write_text(YAML, encoding="utf-8")
    recipe = (ROOT / "configs/train/recommended.yaml").read_text(encoding="utf-8")
    (tmp_path / "train/recommended.yaml").write_text(recipe, encoding="utf-8")
    return tmp_path / f"{YAML_NAME}.yaml"


def test_the_network_of_the_page_runs(schema, config):
    torch.manual_seed(0)
    model = load_config(config, schema).model.build(3)
    images = torch.rand(2, 3, 64, 96)
    features = model.backbone(images)
    fused = model.neck(features)
    raw = model(images)
    for maps, specs in ((features, model.backbone.out_specs), (fused, model.neck.out_specs)):
        assert [tuple(x.shape) for x in maps] == [(2, c, 64 // stride, 96 // stride) for c, stride in specs]
    assert [tuple(x.shape) for x in raw] == [(2, 3, 64 // s, 96 // s, 8) for s in (8, 16, 32)]
    sum(level.square().sum() for level in raw).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_network_of_the_page_costs_what_the_page_says(schema, config):
    row = ast.parse(f"{{{GOLDEN_ROW.removeprefix('+')}}}", mode="eval").body
    assert isinstance(row, ast.Dict)
    (key,), (call,) = row.keys, row.values
    name, golden = ast.literal_eval(key), Golden(*(ast.literal_eval(part) for part in call.args))
    with torch.device("meta"):
        cost = profile(load_config(config, schema).model.build(80), (golden.side, golden.side))
    assert name == config.stem
    assert (cost.conv_weights, round(cost.bflops, 4)) == (golden.conv_weights, golden.bflops)
    assert f"{cost.bflops:.2f} BFLOPs at {golden.side}x{golden.side}" in YAML


def test_the_depth_of_the_page_is_a_setting(schema, config):
    deeper = load_config(config, schema, ["model.backbone.depth=2", "model.neck.scales=2"])
    assert deeper.model.backbone.depth == 2
    with pytest.raises(ConfigError, match=r"model.backbone.dept: unknown key \(did you mean 'depth'\?\)"):
        load_config(config, schema, ["model.backbone.dept=2"])


def test_the_page_shows_the_registry_as_it_stands():
    """Lines without a + are of the real file."""
    source = (ROOT / "cspdet/models/backbones/__init__.py").read_text(encoding="utf-8")
    lines = REGISTRY_LINE.splitlines()
    assert "".join(f"{line[1:]}\n" for line in lines if line.startswith(" ")) in source
    added = [line for line in lines if line.startswith("+")]
    assert added == ['+        "tinycsp": "cspdet.models.backbones.tinycsp:TinyCSPConfig",']


def test_the_command_of_the_page_names_real_tests():
    (command,) = blocks("sh")
    for name in re.findall(r"tests/\w+\.py", command):
        assert (ROOT / name).exists()
