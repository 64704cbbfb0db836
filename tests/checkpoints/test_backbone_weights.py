"""A backbone's first weights, by `--weights` and `model.backbone.weights`: from checkpoints, Darknet's files, timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cspdet.checkpoints.building import build_classifier, build_detector
from cspdet.checkpoints.initial_weights import load_initial_weights
from cspdet.checkpoints.load_report import TransferReport
from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.pretrained import load_backbone_weights
from cspdet.checkpoints.recipes import make_checkpoint
from cspdet.cli.main import main
from cspdet.config.loader import dump_config, load_config
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import write_weights
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import save_checkpoint
from cspdet.models import Classifier, Detector, build_backbone
from cspdet.models.backbones.timm_backbone import TimmBackbone
from cspdet.models.config import DetectorConfig
from cspdet.recipe import ClassificationRecipe, load_recipe
from cspdet.structures import Categories

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "configs/yolov3_tiny.yaml"  # its trunk is `darknetref` as far as stride 32
TRUNK = "{name: darknetref, last_stride: 32, channels: 1024}"


def classifier_recipe(folder: Path, backbone: str = TRUNK, classes: int = 7) -> ClassificationRecipe:
    (folder / "classifier.yaml").write_text(f"model: {{backbone: {backbone}, num_classes: {classes}}}\n")
    return load_config(folder / "classifier.yaml", ClassificationRecipe)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights and statistics that no fresh one has."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=noise) * 0.1 + 0.05)
    return model


def classifier(folder: Path, backbone: str = TRUNK, classes: int = 7) -> tuple[ClassificationRecipe, Classifier]:
    recipe = classifier_recipe(folder, backbone, classes)
    model = build_classifier(recipe, "test")
    shaken(model)
    return recipe, model


def save(path: Path, recipe: ClassificationRecipe, model: nn.Module, classes: int = 7) -> Path:
    names = Categories(tuple(f"c{i}" for i in range(classes)), tuple(range(1, classes + 1)))
    save_checkpoint(path, make_checkpoint(recipe, names, model.state_dict()))
    return path


def detector(*overrides: str, pretrained: bool = True) -> Detector:
    torch.manual_seed(1)
    return build_detector(load_recipe(DETECTOR, overrides), 3, "test", pretrained=pretrained)


def part(model: nn.Module, name: str) -> dict[str, Tensor]:
    return {key: value for key, value in model.get_submodule(name).state_dict().items() if "tracked" not in key}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- what is taken, and what is left ---------------------------------------------------------------


def test_a_classifier_checkpoint_fills_the_backbone_and_nothing_else(tmp_path, log_capture):
    recipe, model = classifier(tmp_path)
    path = save(tmp_path / "x.pt", recipe, model)
    fresh, filled = detector(), detector()
    load_initial_weights(filled, path)
    assert same(part(filled, "backbone"), part(model, "backbone"))
    assert same(part(filled, "neck"), part(fresh, "neck"))
    assert same(part(filled, "head"), part(fresh, "head"))
    # 7 normalized convolutions of 5 tensors each in the trunk
    assert "backbone 35 of 35, neck 0 of" in log_capture.text
    assert "head 0 of 4" in log_capture.text
    assert "not loaded: neck" not in log_capture.text  # a whole part that the file has nothing of needs no list


def test_the_key_in_the_config_does_the_same_and_changes_no_other_draw(tmp_path):
    recipe, model = classifier(tmp_path)
    path = save(tmp_path / "x.pt", recipe, model)
    fresh, filled = detector(), detector(f"model.backbone.weights={path}")
    assert same(part(filled, "backbone"), part(model, "backbone"))
    assert same(part(filled, "head"), part(fresh, "head"))
    assert same(part(filled, "neck"), part(fresh, "neck"))
    other = build_classifier(classifier_recipe(tmp_path, TRUNK[:-1] + f", weights: {path}}}", 5), "test")
    assert same(part(other, "backbone"), part(model, "backbone"))


def test_another_number_of_classes_is_reported_with_both_shapes(tmp_path, log_capture):
    recipe, model = classifier(tmp_path)
    other = build_classifier(classifier_recipe(tmp_path, classes=5), "test")
    load_initial_weights(other, save(tmp_path / "x.pt", recipe, model))
    assert same(part(other, "backbone"), part(model, "backbone"))
    assert "loaded 35 of the 37 network entries: backbone 35 of 35, fc 0 of 2" in log_capture.text
    assert "not loaded: fc.weight, expected (5, 1024), found (7, 1024)" in log_capture.text


def test_every_entry_of_either_side_is_in_the_report(log_capture):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
            self.head = nn.Linear(8, 4)
            self.slope = nn.Parameter(torch.zeros(()))

    given = Network().state_dict() | {"head.weight": torch.zeros(2, 8), "old.bias": torch.zeros(5)}
    del given["head.bias"]
    report = TransferReport.compare(Network(), given, "x.pt")
    assert report.to_csv().splitlines() == [
        "entry,shape,found,taken",
        "slope,1,1,yes",
        "stem.0.weight,8x3x3x3,8x3x3x3,yes",
        "stem.1.weight,8,8,yes",
        "stem.1.bias,8,8,yes",
        "stem.1.running_mean,8,8,yes",
        "stem.1.running_var,8,8,yes",
        "head.weight,4x8,2x8,no",
        "head.bias,4,,no",
        "old.bias,,5,no",
    ]
    report.log_summary()
    assert "x.pt: loaded 6 of the 8 network entries: slope 1 of 1, stem 5 of 5, head 0 of 2" in log_capture.text
    assert "not loaded: head.weight, expected (4, 8), found (2, 8)" in log_capture.text
    assert "head.bias" not in log_capture.text  # of a part that got nothing, only what the file has in another shape
    assert "in the file, not in the network: old.bias" in log_capture.text


def test_a_checkpoint_that_was_started_so_needs_the_file_no_more(tmp_path):
    recipe, model = classifier(tmp_path)
    path = save(tmp_path / "x.pt", recipe, model)
    trained = load_recipe(DETECTOR, [f"model.backbone.weights={path}"])
    names = Categories(("a", "b", "c"), (1, 2, 3))
    save_checkpoint(tmp_path / "d.pt", make_checkpoint(trained, names, build_detector(trained, 3, "test").state_dict()))
    path.unlink()
    assert same(part(load_model(tmp_path / "d.pt").detector, "backbone"), part(model, "backbone"))
    with pytest.raises(CheckpointError, match=r"x\.pt: no such file"):
        build_detector(trained, 3, "test")


def test_paths_are_those_of_the_config_file_or_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for weights, expected in (
        ("x.pt", tmp_path / "sub/x.pt"),
        ("timm:resnet18.a1_in1k", Path("timm:resnet18.a1_in1k")),
    ):
        text = f"model: {{backbone: {{name: 'timm:resnet18', weights: '{weights}'}}, num_classes: 3}}\n"
        (tmp_path / "sub/c.yaml").write_text(text)
        recipe = load_config(tmp_path / "sub/c.yaml", ClassificationRecipe)
        assert recipe.model.backbone.weights == expected
        (tmp_path / "again.yaml").write_text(dump_config(recipe))
        assert load_config(tmp_path / "again.yaml", ClassificationRecipe) == recipe
    assert load_recipe(DETECTOR, ["model.backbone.weights=y.pt"]).model.backbone.weights == tmp_path / "y.pt"


# --- Darknet's files -------------------------------------------------------------------------------


def darknet_file(path: Path, model: nn.Module, layers: int | None = None) -> Path:
    write_weights(path, layers_in_file_order(model)[:layers])
    return path


@pytest.mark.parametrize("classes", [7, 1000])
def test_a_darknet_classifier_fills_the_backbone(tmp_path, log_capture, classes):
    _, model = classifier(tmp_path, classes=classes)
    path = darknet_file(tmp_path / "x.weights", model)
    filled = detector(f"model.backbone.weights={path}")
    assert same(part(filled, "backbone"), part(model, "backbone"))
    assert "backbone 35 of 35, neck 0 of" in log_capture.text


def test_a_darknet_file_of_the_first_layers_fills_those(tmp_path, log_capture):
    _, model = classifier(tmp_path)
    fresh, filled = detector(), detector()
    load_initial_weights(filled, darknet_file(tmp_path / "x.conv.4", model, 4))
    for key, value in part(filled, "backbone").items():
        of_file = int(key.split(".")[1]) < 4 if key.startswith("convs.") else False
        assert torch.equal(value, part(model if of_file else fresh, "backbone")[key])
    assert "backbone 20 of 35" in log_capture.text
    assert "not loaded: backbone.convs.4.conv.weight, expected (256, 128, 3, 3), not in the file" in log_capture.text


def test_a_darknet_file_that_goes_on_into_the_neck_fills_that_too_where_the_whole_network_starts(tmp_path):
    whole = shaken(detector())
    path = darknet_file(tmp_path / "yolov3-tiny.conv.9", whole, 9)  # 7 of the trunk and 2 of the neck
    fresh, filled = detector(), detector()
    load_initial_weights(filled, path)
    assert same(part(filled, "backbone"), part(whole, "backbone"))
    taken = [key for key, value in part(filled, "neck").items() if torch.equal(value, part(whole, "neck")[key])]
    assert len(taken) == 10
    with pytest.raises(CheckpointError, match="which is not a classifier layer with 1024 input channels"):
        load_backbone_weights(fresh, path)


def test_an_imported_cfg_fills_the_same_backbone(tmp_path):
    recipe, model = classifier(tmp_path)
    save(tmp_path / "x.pt", recipe, model)
    assert main(["export", str(tmp_path / "x.pt"), "--format", "darknet", "--output", str(tmp_path / "x.cfg")]) == 0
    words = [str(tmp_path / "x.cfg"), str(tmp_path / "x.weights"), "--output", str(tmp_path / "cfg.pt")]
    assert main(["import-darknet", *words]) == 0
    filled = detector()
    load_initial_weights(filled, tmp_path / "cfg.pt")
    assert same(part(filled, "backbone"), part(model, "backbone"))
    other = build_detector(load_recipe(ROOT / "configs/pelee_prn.yaml"), 3, "test")
    with pytest.raises(CheckpointError, match=r"backbone\.\S+: expected .* found layer \d+ \[convolutional\]"):
        load_initial_weights(other, tmp_path / "cfg.pt")


# --- mistakes --------------------------------------------------------------------------------------


def test_mistakes_name_the_file_and_leave_the_network_alone(tmp_path):
    recipe, model = classifier(tmp_path, "{name: peleenet}")
    (tmp_path / "x.txt").write_text("nothing")
    (tmp_path / "short.weights").write_bytes(b"1234")
    darknet_file(tmp_path / "other.weights", model)
    _, trunk = classifier(tmp_path)
    whole = darknet_file(tmp_path / "cut.weights", trunk).read_bytes()
    (tmp_path / "cut.weights").write_bytes(whole[:-3000])
    (tmp_path / "damaged.weights").write_bytes(whole[:-4] + b"\xff" * 4)  # the very last number is none
    cases = {
        save(tmp_path / "pelee.pt", recipe, model): r"its backbone: the weights are of another architecture",
        tmp_path / "gone.pt": "no such file",
        tmp_path / "gone.weights": "no such file",
        tmp_path / "x.txt": r"expected a checkpoint \(\.pt, \.safetensors\), .*, timm's \.safetensors, or timm:NAME",
        tmp_path / "short.weights": "shorter than the header",
        tmp_path / "other.weights": "has 2,111,911 values",
        tmp_path / "cut.weights": "not a classifier layer",
        tmp_path / "damaged.weights": "its connections are not all finite",
    }
    filled, fresh = detector(), detector()
    for path, message in cases.items():
        with pytest.raises(CheckpointError, match=message) as found:
            load_backbone_weights(filled, path)
        assert path.name in str(found.value)
        assert same(part(filled, "backbone"), part(fresh, "backbone"))
    with pytest.raises(ConfigError, match=r"timm:cspresnet50\.ra_in1k: fits only a timm backbone.*name: timm:csp"):
        load_backbone_weights(filled, "timm:cspresnet50.ra_in1k")
    with pytest.raises(ConfigError, match="networks of a Darknet cfg have no separate backbone"):
        load_backbone_weights(nn.Conv2d(3, 3, 1), "x.weights")


def test_the_command_line_reports_a_missing_file_in_one_line(tmp_path, capsys):
    words = ["info", str(DETECTOR), f"model.backbone.weight={tmp_path}/x.pt"]
    assert main(words) == 2
    assert "model.backbone.weight: unknown key (did you mean 'weights'?)" in capsys.readouterr().err


# --- timm ------------------------------------------------------------------------------------------


@pytest.fixture
def filled_timm(monkeypatch):
    """timm as if its pretrained weights were all 0.01."""
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def create_model(model, *, pretrained, **options):
        network = create(model, pretrained=False, **options)
        if pretrained:
            for weights in network.parameters():
                torch.nn.init.constant_(weights, 0.01)
        return network

    monkeypatch.setattr(timm, "create_model", create_model)


def timm_detector(**options: object) -> Detector:
    backbone = {"name": "timm", "model": "resnet18", **options}
    config = DetectorConfig.model_validate({"backbone": backbone, "neck": {"name": "efm"}}, strict=False)
    return config.build(3)


@pytest.mark.parametrize("weights", ["timm:resnet18", "timm:resnet18.a1_in1k"])
def test_timm_weights_fill_the_backbone_of_that_name(filled_timm, log_capture, weights):
    model = timm_detector()
    load_initial_weights(model, weights)
    assert isinstance(model.backbone, TimmBackbone)
    assert all((value == 0.01).all() for value in model.backbone.parameters())
    assert not any((conv.weight == 0.01).any() for conv in model.head.pred_convs)
    assert f"{weights}: loaded" in log_capture.text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("timm:resnet34", "resnet34: is another architecture; expected resnet18, with or without a tag"),
        ("timm:resnet18.nothing", "has no weights of this tag"),
        ("x.weights", "timm networks have no Darknet cfg"),
    ],
)
def test_weights_that_do_not_fit_a_backbone_of_timm(filled_timm, weights, message):
    with pytest.raises(ConfigError, match=message):
        load_backbone_weights(timm_detector(), weights)


SMALL = ["cs3darknet_focus_s", "cspresnet50", "cspdarknet53"]


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(name, marks=pytest.mark.e2e) for name in SMALL[1:])])
def test_csp_networks_of_timm_give_its_own_features(name):
    timm = pytest.importorskip("timm")
    built = build_backbone(f"timm:{name}")
    torch.manual_seed(5)
    theirs = timm.create_model(name, features_only=True, pretrained=False)
    built.network.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps, expected = built.eval()(images), theirs.eval()(images)
    last = dict(zip(theirs.feature_info.reduction(), expected, strict=True))
    assert [spec.stride for spec in built.out_specs] == [8, 16, 32]
    assert all(torch.equal(x, last[spec.stride]) for x, spec in zip(maps, built.out_specs, strict=True))
    assert all(x.isfinite().all() and x.std() > 0 for x in maps)
