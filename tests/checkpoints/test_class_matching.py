"""Class outputs of initial weights are matched by class name."""

from __future__ import annotations

import pytest
import torch
from darknet_data import RICH, TINY, network
from torch import nn

from cspdet.checkpoints.class_matching import ClassMatch, canonical_name
from cspdet.checkpoints.initial_weights import transfer
from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.network import DarknetDetector
from cspdet.darknet.num_classes import with_num_classes
from cspdet.models.config import ClassifierConfig, DetectorConfig

BOX = 5
DETECTOR = {
    "backbone": {"name": "csppeleenet"}, "neck": {"name": "efm", "width": 8},
}  # fmt: skip


def detector(num_classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = DetectorConfig.model_validate(DETECTOR, strict=False).build(num_classes)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def per_anchor(value: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(A x (5 + C), ...) -> (A, 5 + C, ...)."""
    return value.reshape(-1, BOX + num_classes, *value.shape[1:])


def test_names_are_matched_without_case_and_with_synonyms():
    match = ClassMatch.by_name(["Person", "traffic_light", "sofa", "bird"], ["people", "couch", "traffic light"])
    assert match.source_index == (0, 2, 1, None)
    assert canonical_name("Dining-Table") == canonical_name("diningtable") == "dining table"
    assert ClassMatch.by_name(["a", "b"], ["a", "b"]).is_identity
    assert not ClassMatch.by_name(["a"], ["a", "b"]).is_identity
    assert not ClassMatch.by_name(["a", "b"], ["a"]).is_identity


@pytest.mark.parametrize(
    ("names", "source_names", "index"),
    [
        (["person", "people", "cyclist"], ["person", "people", "cyclist"], (0, 1, 2)),
        (["dog", "Dog", "a b"], ["Dog", "a_b", "dog"], (2, 0, 1)),
        (["-", "_"], ["-", "_"], (0, 1)),
        (["-"], ["_"], (None,)),
        (["DOG"], ["Dog", "dog"], (None,)),  # either could be meant
        (["person", "people"], ["person"], (0, 0)),
    ],
)
def test_the_exact_name_comes_before_a_similar_one(names, source_names, index):
    assert ClassMatch.by_name(names, source_names).source_index == index


def test_boxes_objectness_and_classes_of_the_same_name_are_kept(log_capture):
    source, model = detector(3, 0), detector(4, 1)
    match = ClassMatch.by_name(["dog", "bird", "cat", "zebra"], ["cat", "dog", "horse"])
    report = transfer(model, source.state_dict(), "x.pt", match)
    for level in range(3):
        for kind in ("weight", "bias"):
            name = f"head.pred_convs.{level}.{kind}"
            old, new = per_anchor(source.state_dict()[name], 3), per_anchor(model.state_dict()[name], 4)
            assert torch.equal(new[:, :BOX], old[:, :BOX])
            assert torch.equal(new[:, BOX], old[:, BOX + 1])  # dog
            assert torch.equal(new[:, BOX + 2], old[:, BOX])  # cat
            for i in (1, 3):
                assert torch.allclose(new[:, BOX + i], old[:, BOX:].mean(dim=1))
    assert "x.pt: kept 2 of 4 classes by name: dog, cat; the other 2 start from the mean of the 3 classes" in (
        log_capture.text
    )
    assert sum(line.endswith(",by class") for line in report.to_csv().splitlines()) == 6
    assert all(entry.loaded for entry in report.entries)


def test_equal_counts_with_other_names_are_never_matched_by_position():
    source, model = detector(2, 0), detector(2, 1)
    transfer(model, source.state_dict(), "x.pt", ClassMatch.by_name(["b", "a"], ["a", "b"]))
    old, new = (per_anchor(m.state_dict()["head.pred_convs.0.weight"], 2) for m in (source, model))
    assert torch.equal(new[:, [5, 6]], old[:, [6, 5]])
    same = detector(2, 1)
    transfer(same, source.state_dict(), "x.pt", ClassMatch.by_name(["a", "b"], ["a", "b"]))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in same.state_dict().items())


@pytest.mark.parametrize("cfg", [TINY, RICH])
def test_a_darknet_network_keeps_its_boxes_too(cfg):
    source, model = network(cfg), DarknetDetector(with_num_classes(parse_cfg(cfg, "x.cfg"), 5))
    transfer(model, source.state_dict(), "x.pt", ClassMatch.by_name(list("vwxyz"), ["z", "y"]))
    (layer, *_), (old_layer, *_) = model.class_layers, source.class_layers
    new, old = per_anchor(layer.module.weight, 5), per_anchor(old_layer.module.weight, 2)
    assert torch.equal(new[:, :BOX], old[:, :BOX])
    assert torch.equal(new[:, [BOX + 4, BOX + 3]], old[:, BOX:])


def test_a_classifier_keeps_the_classes_of_the_same_name():
    config = {"backbone": {"name": "csppeleenet"}}
    source, model = (
        ClassifierConfig.model_validate(config | {"num_classes": count}, strict=False).build() for count in (3, 2)
    )
    transfer(model, source.state_dict(), "x.pt", ClassMatch.by_name(["c", "new"], ["a", "b", "c"]))
    assert torch.equal(model.fc.weight[0], source.fc.weight[2])
    assert torch.allclose(model.fc.weight[1], source.fc.weight.mean(dim=0))
    assert torch.allclose(model.fc.bias[1], source.fc.bias.mean())
