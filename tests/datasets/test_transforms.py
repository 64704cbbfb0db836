"""Augmentations by name: the built-in ones, and classes of a module of the user's own, named in YAML."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cspdet.config.loader import dump_config, load_config, parse_config
from cspdet.datasets.config import AlbumentationsConfig, AugmentConfig
from cspdet.datasets.detection.augment import Augment
from cspdet.errors import ConfigError
from cspdet.structures import Sample

USER_MODULE = '''
from dataclasses import replace

import numpy as np

from cspdet.config.base import ComponentConfig


class Mirror:
    """Flips image and boxes with a probability, and draws a dot."""

    class Config(ComponentConfig):
        probability: float = 1.0

    def __init__(self, config, size_hw):
        self.config, self.width = config, size_hw[1]

    def __call__(self, sample, rng):
        if rng.random() >= self.config.probability:
            return sample
        x1, y1, x2, y2 = sample.box_xyxy.T
        boxes = np.stack((self.width - x2, y1, self.width - x1, y2), axis=1)
        image = sample.image[:, ::-1].copy()
        image[0, 0] = rng.integers(256, size=3)
        return replace(sample, image=image, box_xyxy=boxes)


class Half(Mirror):
    def __call__(self, sample, rng):
        return replace(sample, image=sample.image[::2])


class Drop(Mirror):
    def __call__(self, sample, rng):
        return replace(sample, box_xyxy=sample.box_xyxy[:0])
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The name of a module beside the config, which is not imported yet."""
    name = f"augs_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def load(tmp_path: Path, text: str) -> AugmentConfig:
    (tmp_path / "augment.yaml").write_text(text)
    return load_config(tmp_path / "augment.yaml", AugmentConfig)


def sample(width: int = 64) -> Sample:
    image = np.zeros((64, width, 3), np.uint8)
    image[10:20, 4:24] = 255
    return Sample(image, np.array([[4, 10, 24, 20]], np.float32), np.array([3]), np.array([False]), 9, (640, 480))


def test_a_class_of_the_user_moves_image_and_boxes(tmp_path, module):
    config = load(tmp_path, f"transforms: [{{name: '{module}:Mirror', probability: 0.5}}]\n")
    augment = Augment(config, (64, 64))
    results = [augment([sample()], 0, np.random.default_rng(seed)) for seed in range(20)]
    flipped = [result for result in results if result.box_xyxy[0, 0] == 40]
    assert 4 < len(flipped) < 16
    for result in flipped:
        assert result.box_xyxy.tolist() == [[40, 10, 60, 20]]
        assert (result.image[10:20, 40:60] == 255).all()
        assert (result.class_id.tolist(), result.is_crowd.tolist()) == ([3], [False])
        assert (result.image_id, result.image_hw) == (9, (640, 480))
    assert len({tuple(result.image[0, 0]) for result in flipped}) == len(flipped)  # drawn per sample
    again = augment([sample()], 0, np.random.default_rng(3))
    assert np.array_equal(again.image, results[3].image)


def test_its_config_survives_a_round_trip(tmp_path, module):
    config = load(tmp_path, f"transforms: [{{name: '{module}:Mirror', probability: 0.25}}]\n")
    assert load(tmp_path, dump_config(config)) == config
    assert parse_config(config.model_dump(mode="json"), AugmentConfig, "a checkpoint").transforms[0].probability == 0.25


def test_a_checkpoint_alone_imports_nothing(tmp_path, module):
    with pytest.raises(ConfigError, match=f"which is not imported; add --import {module}"):
        parse_config({"transforms": [{"name": f"{module}:Mirror"}]}, AugmentConfig, "a checkpoint")
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Half", r"transforms\[0\]: .*:Half: expected an image of 64x64x3 uint8 as given, found 32x64x3 uint8"),
        ("Drop", r"transforms\[0\]: .*:Drop: expected boxes \(N, 4\) with N classes .* found 0x4 float32, 1 int64"),
    ],
)
def test_a_sample_that_cannot_be_collated_is_an_error(tmp_path, module, name, expected):
    augment = Augment(load(tmp_path, f"transforms: ['{module}:{name}']\n"), (64, 64))
    with pytest.raises(ConfigError, match=expected):
        augment([sample()], 0, np.random.default_rng(0))


def test_albumentations_is_an_entry(tmp_path):
    config = load(
        tmp_path,
        "transforms:\n- name: albumentations\n  transforms: [{name: HorizontalFlip, args: {p: 1.0}}]\n",
    )
    assert isinstance(config.transforms[0], AlbumentationsConfig)
    flipped = Augment(config, (64, 64))([sample()], 0, np.random.default_rng(0))
    assert flipped.box_xyxy.tolist() == [[40, 10, 60, 20]]
    assert (flipped.image[10:20, 40:60] == 255).all()


def test_an_unknown_name_is_an_error_with_its_line(tmp_path):
    with pytest.raises(
        ConfigError, match=r"augment\.yaml:2: transforms\[0\]\.name: unknown augmentation 'albumentation'"
    ):
        load(tmp_path, "transforms:\n- {name: albumentation, transforms: []}\n")
