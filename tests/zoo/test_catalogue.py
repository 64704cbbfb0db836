"""The catalogue of trained weights."""

from __future__ import annotations

import pytest
import torch

from cspdet.checkpoints.building import build_network
from cspdet.config.released import get_released
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import SkipInit
from cspdet.errors import ConfigError
from cspdet.recipe import load_recipe
from cspdet.zoo.catalogue import get_entry, read_catalogue

CATALOGUE = read_catalogue()
HEADER_BYTES = 20
OF_CONFIGS = sorted(name for name, entry in CATALOGUE.items() if entry.config is not None and entry.weights.bytes)


@pytest.mark.parametrize("name", OF_CONFIGS)
def test_the_planned_size_is_that_of_the_published_file(name):
    entry = CATALOGUE[name]
    recipe = load_recipe(get_released(entry.config or "").path)
    with SkipInit(), torch.device("meta"):
        network = build_network(recipe, 80, name, pretrained=False)
    num_values = sum(layer.num_elements for layer in layers_in_file_order(network))
    assert 4 * num_values + HEADER_BYTES == entry.weights.bytes


def test_the_backbone_of_yolov3_has_the_size_of_its_weights():
    with SkipInit(), torch.device("meta"):
        recipe = load_recipe(get_released("yolov3").path)
        layers = layers_in_file_order(build_network(recipe, 80, "yolov3", pretrained=False))
    num_values = sum(layer.num_elements for layer in layers if layer.name.startswith("backbone"))
    assert 4 * num_values + HEADER_BYTES == CATALOGUE["darknet53.conv.74"].weights.bytes


def test_every_model_says_where_it_comes_from_and_what_it_is():
    assert len(OF_CONFIGS) == 4
    assert len(CATALOGUE) == 25
    for name, entry in CATALOGUE.items():
        assert entry.source.startswith("https://")
        assert entry.license in ("public domain", "Apache-2.0")
        assert all(url.startswith("https://") for file in entry.files for url in file.urls), name
        assert len({file.name for file in entry.files}) == len(entry.files)
        assert entry.kind != "darknet" or entry.classes is not None, name
        assert (entry.fair_on_val2017 is not None) == (entry.kind == "darknet" and entry.classes == "coco"), name
    without_hash = {name for name, entry in CATALOGUE.items() if not entry.weights.hashes}
    assert {"yolov4", "yolov4-tiny", "yolov3", "yolo-fastest-1.1"}.isdisjoint(without_hash)


def test_a_catalogue_of_the_user_adds_and_replaces_models(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    model = "summary: mine\nkind: darknet\nsource: https://x\nlicense: MIT\nconfig: yolov3\nclasses: coco\n"
    model += "weights: {name: m.weights, urls: ['https://x/m.weights']}\n"
    body = "".join(f"  {line}\n" for line in model.splitlines())
    own.write_text(f"mine:\n{body}yolov3:\n{body}")
    monkeypatch.setenv("CSPDET_ZOO", str(own))
    assert get_entry("mine").summary == get_entry("yolov3").summary == "mine"
    assert get_entry("yolov4").license == "public domain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected a mapping of model names to models, found list"),
        ("a: {summary: x}\n", r"own.yaml:1: a.kind: Field required"),
        ("a: {kind: darknet, wieghts: 1}\n", "a.wieghts: Extra inputs are not permitted"),
        (
            "a: {summary: x, kind: timm, source: x, license: MIT, weights: {name: ../up, urls: []}}\n",
            "a.weights.name: String should match pattern",
        ),
        (
            "a: {summary: x, kind: timm, source: x, license: MIT, weights: {name: x, urls: ['file:///etc/passwd']}}\n",
            "expected an address with https:// or http://, found 'file:///etc/passwd'",
        ),
        (
            "a: {summary: x, kind: darknet, source: x, license: MIT, weights: {name: x, urls: []}}\n",
            "expected one of cfg and config",
        ),
    ],
)
def test_an_invalid_catalogue_is_refused_with_its_line(tmp_path, monkeypatch, text, message):
    own = tmp_path / "own.yaml"
    own.write_text(text)
    monkeypatch.setenv("CSPDET_ZOO", str(own))
    with pytest.raises(ConfigError, match=message):
        read_catalogue()


@pytest.mark.parametrize("name", ["/abs", "../evil", "..", ".", "''", '"a\\nb"', "a" * 101, "x.pt", "a/b", "hf:a"])
def test_a_name_that_cannot_be_a_folder_or_a_model_is_refused(tmp_path, monkeypatch, name):
    own = tmp_path / "own.yaml"
    own.write_text(f"{name}: {{summary: x}}\n")
    monkeypatch.setenv("CSPDET_ZOO", str(own))
    with pytest.raises(ConfigError, match=r"own.yaml:1: expected a model name of letters, digits and") as error:
        read_catalogue()
    assert len(error.value.problems) == 1


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"yolov4_tiny: no model of this name \(did you mean 'yolov4-tiny'\?\)"):
        get_entry("yolov4_tiny")
