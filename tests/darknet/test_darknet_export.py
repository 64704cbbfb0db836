"""`export --format darknet`: every config in Darknet's words, the same function read back; and what has no words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from darknet_data import CLASSIFIER, RICH, TINY, write_pair
from torch import Tensor, nn

from cspdet.checkpoints.building import build_classifier, build_detector
from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.recipes import make_checkpoint
from cspdet.cli.main import run_command
from cspdet.config.loader import load_config, parse_config
from cspdet.darknet.cfg import Cfg, parse_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.names import categories_from_count
from cspdet.darknet.weight_order import HEAD_LEVELS, layers_in_file_order
from cspdet.darknet.write import export
from cspdet.darknet.write.hyperparameters import net_options, yolo_options
from cspdet.datasets.formats.coco_format import COCO_CLASSES
from cspdet.errors import ConfigError, UserError
from cspdet.io.checkpoint import save_checkpoint
from cspdet.models.blocks import ConvBN, shortcut, upsample
from cspdet.models.bundle import ModelBundle
from cspdet.models.classifier import BackboneClassifier
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, infer_task, load_recipe
from cspdet.structures import Categories, FeatureSpec

ROOT = Path(__file__).parents[2]
OPENCV = os.environ.get("CSPDET_OPENCV4_PYTHON")
CONFIGS = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name != "train")
IDS = [path.stem for path in CONFIGS]

# Configs that a Darknet cfg cannot express, and why. There is none so far.
REFUSED: dict[str, str] = {}
# Its map of one cell is repeated by an [upsample], which has one factor for both sides.
SQUARE = {"csppelee_cem", "csppelee_cem_sam"}
# Their T2 is registered before the stage behind which it stands.
OTHER_ORDER = {"cspdensebref_prn", "cspdensebref", "csppeleebref"}


def loaded_from(path: Path, *overrides: str) -> ModelBundle:
    """A config as a network of 80 or of its own classes, on the device that is the default."""
    if infer_task(path) == "classification":
        recipe = load_config(path, ClassificationRecipe, overrides)
        classifier = build_classifier(recipe, str(path)).eval()
        return ModelBundle(
            "classification", classifier, recipe, categories_from_count(classifier.num_classes), path.stem
        )
    detector_recipe = load_recipe(path, overrides)
    model = build_detector(detector_recipe, 80, str(path), pretrained=False).eval()
    return ModelBundle("detection", model, detector_recipe, COCO_CLASSES, path.stem)


def trained(model: nn.Module, *, eps: float = 1e-5) -> None:
    """As if trained: no two normalizations alike, and no number that could be left out unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
                for tensor, low, high in (
                    (module.weight, 0.6, 1.2), (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 2.0),
                ):  # fmt: skip
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=generator)


def size_of(path: Path) -> tuple[int, int]:
    return (128, 128) if path.stem in SQUARE else (64, 128)


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_every_config_has_words_of_the_right_shapes_in_the_released_order(path, monkeypatch):
    """Nothing is allocated, so that the largest networks take part as well."""
    with torch.device("meta"):
        loaded = loaded_from(path)
    head = getattr(loaded.network, "anchors", None)
    if head is not None and isinstance(
        loaded.config, DetectionRecipe
    ):  # its buffers' values are needed, not those of weights
        loaded.network.head.anchors = loaded.config.model.head.build(loaded.network.neck.out_specs, 1).anchors
    files = export.build_darknet_files(loaded, size_of(path), str(path))
    cfg = parse_cfg(files.cfg, "x.cfg")
    layers = build_graph(cfg).layers
    assert cfg.size_hw == size_of(path)
    assert len(cfg.heads) == (0 if loaded.task == "classification" else len(loaded.network.strides))
    assert sum(layer.num_elements for layer in files.layers) == sum(layer.num_weights for layer in layers)
    official = isinstance(loaded.network, BackboneClassifier) or len(
        HEAD_LEVELS.get(type(loaded.network.neck), ())
    ) == len(loaded.network.strides)
    if official and path.stem not in OTHER_ORDER:
        assert [layer.name for layer in files.layers] == [layer.name for layer in layers_in_file_order(loaded.network)]


@pytest.mark.e2e
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in REFUSED], ids=lambda path: path.stem)
def test_every_config_is_the_same_function_read_back(path, tmp_path):
    loaded = loaded_from(path)
    trained(loaded.network)
    files = export.build_darknet_files(loaded, size_of(path), str(path))
    written = export.write_darknet(files, loaded.network, tmp_path / "x.cfg")
    assert written.relative_error <= 1e-5
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["x.cfg", "x.names", "x.weights"]
    assert (tmp_path / "x.weights").stat().st_size == 20 + 4 * written.num_weights


@pytest.mark.parametrize(
    "options",
    [
        "model.backbone={name: csppeleenet, gamma: 0.25}", "model.backbone={name: csppeleenet, fusion: last}",
        "model.backbone={name: csppeleenet, activation: mish, se: true}",
        "model.head={wh_decoding: square, scale_x_y: [2, 2, 2]}", "model.neck={name: efm, spp: true, sam: true}",
    ],
)  # fmt: skip
@pytest.mark.e2e
def test_options_of_the_configs(options, tmp_path):
    loaded = loaded_from(ROOT / "configs/csppelee_efm.yaml", options)
    trained(loaded.network)
    written = export.write_darknet(
        export.build_darknet_files(loaded, (64, 96), "x"), loaded.network, tmp_path / "x.cfg"
    )
    assert written.relative_error <= 1e-5


# --- small networks ------------------------------------------------------------------------------


class Small(nn.Module):
    """A backbone of a stem and whatever `last` makes of its 12 channels, at stride 2."""

    def __init__(self, last: nn.Module, channels: int):
        super().__init__()
        self.stem, self.last = ConvBN(3, 12, 3, 2), last
        self.out_specs = (FeatureSpec(channels, 2),)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.last(self.stem(x)),)


class Do(nn.Module):
    """A function of the stem's map and of a few convolutions."""

    def __init__(self, function, *convs):
        super().__init__()
        self.function, self.convs = function, nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.convs)


def small(last: nn.Module, channels: int = 12) -> ModelBundle:
    model = BackboneClassifier(Small(last, channels), 3).eval()
    trained(model)
    values = {"model": {"backbone": {"name": "peleenet"}, "num_classes": 3}}
    return ModelBundle(
        "classification", model, parse_config(values, ClassificationRecipe, "x"), categories_from_count(3), "x"
    )


def uneven(x: Tensor, conv: nn.Module) -> Tensor:
    a, b, c = x.split((1, 7, 4), dim=1)
    return torch.cat((conv(b), a, c), dim=1)


def halved_and_raised(x: Tensor, conv: nn.Module, pool: nn.Module) -> Tensor:
    height, width = x.shape[2:]
    return x + upsample(conv(pool(x)))[:, :, :height, :width]


SAYABLE = {
    "strided shortcut": Do(lambda x, a: shortcut(a(x), x), ConvBN(12, 16, 3, 2, act="linear")),
    "shortcut to itself": Do(lambda x, a: shortcut(x, a(x)), ConvBN(12, 8)),
    "uneven split": Do(uneven, ConvBN(7, 7)),
    "odd pools": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1), nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1)),
    "pool over the border": nn.Sequential(nn.MaxPool2d(3, 1), nn.MaxPool2d(2, ceil_mode=True)),
    "pool without the border": nn.Sequential(nn.MaxPool2d(4, 1), nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "plain convolution": nn.Conv2d(12, 12, 3, padding=1, bias=False),
    "wide padding": nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=4),
    "gate of another branch": Do(lambda x, a, b: a(x) * b(x), ConvBN(12, 12), ConvBN(12, 12, act="sigmoid")),
    "cell": Do(lambda x, pool: x + pool(x), nn.AdaptiveAvgPool2d(1)),
    "raised": Do(halved_and_raised, ConvBN(12, 12), nn.MaxPool2d(2, ceil_mode=True)),
    "activation behind a sum": Do(lambda x, a, act: act(x + a(x)), ConvBN(12, 12), nn.SiLU(inplace=True)),
}


@pytest.mark.parametrize("name", SAYABLE)
def test_small_networks_read_back(name, tmp_path):
    last = SAYABLE[name]
    channels = last(torch.zeros(2, 12, 16, 16)).shape[1]
    loaded = small(last, channels)
    written = export.write_darknet(
        export.build_darknet_files(loaded, (32, 32), "x"), loaded.network, tmp_path / "x.cfg"
    )
    assert written.relative_error <= 1e-5


class Raw(nn.Module):
    """A network that reads the picture twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = ConvBN(3, 4), ConvBN(3, 4)
        self.out_specs = (FeatureSpec(8, 1),)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat((self.a(x), self.b(x)), dim=1),)


UNSAYABLE = {
    "PReLU": (nn.PReLU(), "backbone.last cannot be expressed in a Darknet cfg: there is no section for PReLU"),
    "slope": (nn.Sequential(nn.Conv2d(12, 12, 1), nn.LeakyReLU(0.2)),
        "last.1 cannot be expressed in a Darknet cfg: the slope of `leaky` is 0.1"),
    "two activations": (nn.SiLU(), "an activation has to follow a convolution, sum or product directly"),
    "late norm": (nn.BatchNorm2d(12), "a normalization has to follow a convolution directly"),
    "bias and norm": (nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)), "a normalized convolution has no bias"),
    "1x3": (nn.Conv2d(12, 12, (1, 3)), "have to be equal in both directions"),
    "reflection": (nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect"), "with padding_mode zeros"),
    "flat window": (nn.MaxPool2d((1, 2)), "the window has to be square"),
    "far window": (nn.MaxPool2d(3, 2, ceil_mode=True), "ceil_mode is only supported for size 2"),
    "padded average": (nn.AvgPool2d(3, 1, 1), "without padding, ceil_mode and divisor_override"),
    "average of parts": (nn.AdaptiveAvgPool2d(2), "has to be one cell"),
    "half a split": (Do(lambda x, a: a(x.chunk(2, dim=1)[1]), ConvBN(6, 12)),
        "all parts of a split along the channels have to be used"),
    "piece": (Do(lambda x: x[:, :, 1:]), "it crops a map"),
    "smooth": (nn.Sequential(nn.Upsample(scale_factor=2.0, mode="bilinear")), "no section for Upsample"),
    "half as large again": (
        Do(lambda x: nn.functional.interpolate(x, scale_factor=1.5, mode="nearest")), "only nearest-neighbor",
    ),
    "twice itself": (Do(lambda x: x + x), "only sums of two different maps"),
    "squared": (Do(lambda x: x * x), "only products of two different maps"),
    "along the rows": (Do(lambda x, a: torch.cat((x, a(x)), dim=2), ConvBN(12, 12)), "only channels can be"),
    "arithmetic": (Do(lambda x: x.exp()),
        "`exp` in backbone.last cannot be expressed in a Darknet cfg: there is no section for exp"),
    "a choice": (Do(lambda x: x if x.sum() > 0 else -x), "not a fixed sequence of layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_has_no_words_is_named(name):
    last, message = UNSAYABLE[name]
    with pytest.raises(ConfigError, match=message) as caught:
        export.build_darknet_files(small(last), (32, 32), "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")


def test_the_image_is_read_once():
    loaded = small(nn.Identity())
    loaded.network.backbone, loaded.network.fc = Raw(), nn.Linear(8, 3)
    with pytest.raises(ConfigError, match="only the first layer can read the image"):
        export.build_darknet_files(loaded, (32, 32), "x")


def test_a_map_of_one_cell_needs_a_square_input_and_elastic_one_that_halves(tmp_path):
    with pytest.raises(ConfigError, match=r"it adds 12x1x1 to 12x16x32, which needs an \[upsample\] and a square"):
        export.build_darknet_files(small(SAYABLE["cell"]), (32, 64), "x")
    with pytest.raises(ConfigError, match="it crops a map"):
        export.build_darknet_files(small(SAYABLE["raised"]), (34, 34), "x")


@pytest.mark.e2e
def test_networks_of_timm_and_normalized_images_are_refused():
    path = ROOT / "configs/csppelee_efm.yaml"
    with torch.device("meta"):
        loaded = loaded_from(path, "model.normalize={mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}")
        with pytest.raises(
            ConfigError, match=r"model\.normalize: Darknet takes images in \[0, 1\] without normalization"
        ):
            export.build_darknet_files(loaded, (64, 64), "x")
        pytest.importorskip("timm")
        loaded = loaded_from(path, "model.backbone={name: timm:resnet18}")
        with pytest.raises(
            ConfigError, match=r"backbone cannot be expressed in a Darknet cfg: a network of timm \(resnet18\)"
        ):
            export.build_darknet_files(loaded, (64, 64), "x")


def test_another_epsilon_is_made_up_for(tmp_path):
    loaded = small(ConvBN(12, 12))
    trained(loaded.network, eps=1e-2)
    assert (
        export.write_darknet(
            export.build_darknet_files(loaded, (32, 32), "x"), loaded.network, tmp_path / "x.cfg"
        ).relative_error
        <= 1e-5
    )


# --- the files -----------------------------------------------------------------------------------


def test_files_appear_together_or_not_at_all(tmp_path, monkeypatch):
    loaded = small(nn.Identity())
    files = export.build_darknet_files(loaded, (32, 32), "x")
    (tmp_path / "x.weights").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(export, "MAX_RELATIVE_ERROR", -1.0)
        with pytest.raises(UserError, match=r"not written: the outputs of the network read back differ by 0\.0"):
            export.write_darknet(files, loaded.network, tmp_path / "x.cfg")
    trained(loaded.network, eps=0.5)
    with pytest.raises(UserError, match="not written: the outputs of the network read back"):
        export.write_darknet(files, loaded.network, tmp_path / "x.cfg")
    with torch.no_grad():
        loaded.network.fc.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="its weights are not all finite"):
        export.write_darknet(files, loaded.network, tmp_path / "x.cfg")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.weights", "old")]


def test_names_that_a_line_cannot_hold(tmp_path):
    loaded = small(nn.Identity())
    odd = ModelBundle("classification", loaded.network, loaded.config, Categories(("a", "b\nc", "d"), (1, 2, 3)), "x")
    with pytest.raises(UserError, match="one name per line"):
        export.write_darknet(export.build_darknet_files(odd, (32, 32), "x"), loaded.network, tmp_path / "x.cfg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [TINY, RICH, CLASSIFIER], ids=["tiny", "rich", "classifier"])
def test_an_imported_cfg_goes_back_as_it_came(text, tmp_path):
    text = "# by hand\r\n" + text
    cfg, weights = write_pair(tmp_path, text)
    assert run_command("import-darknet", [str(cfg), str(weights), "--output", str(tmp_path / "a.pt")]) == 0
    assert run_command("export", [str(tmp_path / "a.pt"), "--format", "darknet"]) == 0
    assert (tmp_path / "a.cfg").read_text() == cfg.read_text()
    assert (tmp_path / "a.weights").read_bytes()[20:] == weights.read_bytes()[20:]


def test_an_imported_cfg_follows_size_classes_and_epsilon(tmp_path):
    cfg, weights = write_pair(tmp_path, TINY)
    words = [str(cfg), str(weights), "--output", str(tmp_path / "a.pt"), "--bn-eps", "1e-6"]
    assert run_command("import-darknet", words) == 0
    checkpoint = load_model(tmp_path / "a.pt")
    model = checkpoint.config.model.build(3)
    save_checkpoint(
        tmp_path / "b.pt",
        make_checkpoint(checkpoint.config, Categories(("a", "b", "c"), (1, 2, 3)), model.state_dict()),
    )
    words = [str(tmp_path / "b.pt"), "--format", "darknet", "--size", "32x96", "input.resize=letterbox"]
    assert run_command("export", words) == 0
    text = (tmp_path / "b.cfg").read_text()
    written: Cfg = parse_cfg(text, "b.cfg")
    assert (written.size_hw, written.num_classes, written.net.get_int("letter_box")) == ((32, 96), 3, 1)
    changed = {line for line in text.splitlines() if line not in TINY.splitlines()}
    assert changed == {"width=96", "height=32", "letter_box=1", "classes=3", "filters=8"} - set(TINY.splitlines())


@pytest.mark.e2e
def test_there_and_back_again(tmp_path):
    """A checkpoint of ours, to Darknet, and as a MODEL again: the same outputs, classes and input."""
    loaded = loaded_from(ROOT / "configs/csppelee_efm_sam.yaml")
    trained(loaded.network)
    classes = Categories(COCO_CLASSES.names, COCO_CLASSES.category_ids)
    save_checkpoint(tmp_path / "a.pt", make_checkpoint(loaded.config, classes, loaded.network.state_dict()))
    words = ["tools/export.py", str(tmp_path / "a.pt"), "--format", "darknet", "--output", str(tmp_path / "b.cfg")]
    done = subprocess.run(
        [sys.executable, *words, "--size", "64x96", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["size"] == [64, 96]
    assert answer["difference"] <= 1e-5
    words = [str(tmp_path / "b.cfg"), str(tmp_path / "b.weights"), "--names", str(tmp_path / "b.names")]
    assert run_command("import-darknet", [*words, "--output", str(tmp_path / "c.pt")]) == 0
    back = load_model(tmp_path / "c.pt")
    assert back.categories == COCO_CLASSES
    assert (back.config.input.size, back.config.input.resize) == ((64, 96), "letterbox")
    assert torch.equal(back.network.anchors.wh, loaded.network.anchors.wh)
    assert back.network.anchors.scale_x_y.tolist() == loaded.network.anchors.scale_x_y.tolist()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(back.network(x), loaded.network(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_the_recipe_in_darknets_keys():
    def keys(name: str, *overrides: str, classes: int = 80) -> tuple[dict[str, object], dict[str, object]]:
        path = ROOT / "configs/csppelee_efm_sam.yaml"
        recipe = load_recipe(path, [f"train={ROOT / 'configs/train'}/{name}.yaml", *overrides])
        anchors = recipe.model.head.build((FeatureSpec(1, 8), FeatureSpec(1, 16), FeatureSpec(1, 32)), classes).anchors
        bundle = ModelBundle("detection", None, recipe, categories_from_count(classes), name)
        return net_options(bundle, (320, 416)), yolo_options(recipe.train, anchors, classes, 1)

    net, yolo = keys("optimal")
    assert (net["width"], net["height"], net["batch"], net["subdivisions"]) == (416, 320, 64, 8)
    assert (net["learning_rate"], net["momentum"], net["policy"], net["power"]) == (0.00261, 0.949, "steps", 4.0)
    assert net["max_batches"] == pytest.approx(500_500, rel=1e-2)
    assert (yolo["mask"], yolo["num"], yolo["scale_x_y"], yolo["random"]) == ("3,4,5", 9, "1.1", 1)
    assert (yolo["iou_loss"], yolo["iou_normalizer"], yolo["iou_thresh"]) == ("ciou", 0.07, 0.213)
    assert yolo["jitter"] == "0.3"
    net, yolo = keys("paper", classes=2)
    assert (net["max_batches"], net["steps"], net["scales"]) == (6000, "4800,5400", "0.1,0.1")
    assert (yolo["iou_loss"], yolo["classes"]) == ("mse", 2)
    assert "iou_thresh" not in yolo
    net, yolo = keys("recommended", "input.resize=stretch", "train.loss.label_smoothing=0.1")
    assert (net["policy"], net["learning_rate"], yolo["iou_normalizer"]) == ("sgdr", 0.00261, 0.07)
    assert yolo["label_smooth_eps"] == 0.1
    assert "letter_box" not in net
    assert keys("recommended", "train.schedule.name=constant")[0]["policy"] == "constant"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.pt"], "--format"),
        (["x.pt", "--format", "onxn"], "--format: unknown export format 'onxn' (did you mean 'onnx'?)"),
        (["x.pt", "--format", "darkent"], "(did you mean 'darknet'?)"),
        (["x.pt", "--format", "darknet"], "no such file"),
        (["{yaml}", "--format", "darknet", "--output", "x.pt"], "expected a file name that ends in .cfg"),
        (["{yaml}", "--format", "darknet", "--size", "big"], "or HEIGHTxWIDTH"),
        (["{yaml}", "--format", "darknet", "--size", "0x64"], "or HEIGHTxWIDTH"),
        (["{yaml}", "--format", "darknet", "--size", "50x64"], "expected multiples of"),
        (["{yaml}", "--format", "darknet", "--weights", "x.pt"], "no such file"),
        (["x.pt", "--format", "darknet", "--weights", "y.pt"], "x.pt: no such file"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    yaml = ROOT / "configs/classification/resnet10.yaml"
    assert run_command("export", [word.format(yaml=yaml) for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_classifier_config_with_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    yaml = str(ROOT / "configs/classification/darknetref.yaml")
    words = [yaml, "--format", "darknet", "--size", "64x64", "model.num_classes=3"]
    assert run_command("export", words) == 0
    assert "no weights are given, so the outputs of the model have no meaning" in capsys.readouterr().err
    recipe = load_config(yaml, ClassificationRecipe, ["model.num_classes=3"])
    names = Categories(("a", "b", "c"), (1, 2, 3))
    save_checkpoint("x.pt", make_checkpoint(recipe, names, build_classifier(recipe, "x").state_dict()))
    assert run_command("export", [*words, "--weights", "x.pt", "--output", "there/y.cfg"]) == 0
    assert "verified: the outputs differ from the network's by" in capsys.readouterr().out
    assert (tmp_path / "there/y.names").read_text() == "a\nb\nc\n"


def test_the_tables_name_configs_that_are_there():
    assert set(IDS) >= {*REFUSED, *SQUARE, *OTHER_ORDER}


@pytest.mark.e2e
@pytest.mark.skipif(OPENCV is None, reason="CSPDET_OPENCV4_PYTHON names no interpreter that has OpenCV 4")
def test_opencv_computes_the_same_from_exported_files(tmp_path):
    for config in CONFIGS:
        assert (
            run_command("export", [str(config), "--format", "darknet", "--output", f"{tmp_path}/{config.stem}.cfg"])
            == 0
        )
    words = [sys.executable, str(ROOT / "benchmarks/opencv_parity.py"), "--python", OPENCV or "", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    compared = [line for line in done.stdout.splitlines() if "which OpenCV" not in line]
    assert len(compared) >= 18, done.stdout
