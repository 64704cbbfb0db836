"""The one loader: every kind of source gives a bundle, and the expected task is checked with one message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from classification_data import color_model
from darknet_data import CLASSIFIER, TINY, network
from engine_data import small_detector, write_checkpoint

from cspdet.checkpoints.loading import load_model
from cspdet.darknet.weights import write_weights
from cspdet.errors import CheckpointError, ConfigError
from cspdet.models.bundle import ModelBundle

ROOT = Path(__file__).parents[2]


def test_a_detector_and_a_classifier_are_distinguished(tmp_path):
    detector = write_checkpoint(tmp_path / "d.pt", small_detector())
    assert load_model(detector).task == "detection"
    assert load_model(detector, task="detection").detector.num_classes == 3
    with pytest.raises(CheckpointError, match=r"d\.pt: expected a classifier, found a detector"):
        load_model(detector, task="classification")
    with pytest.raises(CheckpointError, match="expected a classifier, found a detector"):
        _ = load_model(detector).classifier
    with pytest.raises(ConfigError, match=r"expected a detector, such as .*, found a classifier"):
        load_model(ROOT / "configs/classification/csppeleenet.yaml", task="detection")
    with pytest.raises(CheckpointError, match="colors: expected a detector, found a classifier"):
        _ = color_model().detector


def test_a_darknet_cfg_with_weights_is_a_model(tmp_path):
    (tmp_path / "x.cfg").write_text(TINY)
    trained = network(TINY)
    write_weights(tmp_path / "x.weights", trained.body.layer_weights())
    bundle = load_model(tmp_path / "x.cfg", weights=tmp_path / "x.weights")
    assert (bundle.task, bundle.name, bundle.config.input.size) == ("detection", "x", (64, 64))
    x = torch.rand(1, 3, 64, 64)
    for found, expected in zip(bundle.detector(x), trained.eval()(x), strict=True):
        assert torch.equal(found, expected)
    assert load_model(tmp_path / "x.cfg").detector.num_classes == 2, "random values without weights"
    (tmp_path / "c.cfg").write_text(CLASSIFIER)
    with pytest.raises(CheckpointError, match="expected a detector, found a classifier"):
        load_model(tmp_path / "c.cfg", task="detection")


def test_another_input_size_is_checked():
    bundle: ModelBundle = small_detector()
    assert bundle.with_input_size((96, 64), "--size").config.input.size == (96, 64)
    assert bundle.config.input.size == (64, 96)
    with pytest.raises(ConfigError, match=r"--size: input\.size: expected multiples of 32, found 60x64"):
        bundle.with_input_size((60, 64), "--size")
