"""`cspdet push` and `hf:user/name` against a local stand-in for the Hugging Face Hub, and the model card."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_data import TINY, write_pair
from hub_server import HubServer, serve_hub
from PIL import Image

import cspdet
from cspdet.checkpoints.darknet_import import import_darknet
from cspdet.checkpoints.initial_weights import load_initial_weights
from cspdet.cli.main import main
from cspdet.config.loader import dump_config
from cspdet.errors import CheckpointError, ConfigError, UserError
from cspdet.io.checkpoint import save_checkpoint
from cspdet.io.model_info import ModelInfo, SplitFacts
from cspdet.io.safetensors_file import read_metadata
from cspdet.reports.model_card import ModelCard, escape_markdown
from cspdet.zoo.hub import parse_hub_name

pytest.importorskip("huggingface_hub")

CARD = ModelCard("anna/cells", "detection", ("a",), ModelInfo(), (), ())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on this machine, and an empty cache."""
    from huggingface_hub import constants

    with serve_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)  # the package reads HF_ENDPOINT when it is imported
        url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for name, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_test", "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("CSPDET_OFFLINE", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The files of a finished run of a detector for a cat and a <b>dog</b>."""
    folder = tmp_path / "runs/tiny"
    imported = import_darknet(*write_pair(tmp_path, TINY), names=("cat", "<b>dog|"))
    info = ModelInfo(
        name="tiny", dataset="pets.yaml", initial_weights="dark.conv.9",
        data={"train": SplitFacts(images=20, boxes=31), "val": SplitFacts(images=5, boxes=7)},
    ).made_now(3, {"AP": 0.25, "AP50": 0.5})  # fmt: skip
    recipe = imported.recipe.model_copy(update={"data": Path("/home/anna/secret/pets.yaml")})
    checkpoint = dataclasses.replace(imported._replace(recipe=recipe).to_checkpoint(), info=info)
    save_checkpoint(folder / "best.pt", checkpoint)
    (folder / "config.yaml").write_text(f"# written by cspdet train\n{dump_config(recipe)}")
    lines = [{"epoch": i, "step": i, "images_seen": i, "loss": 3 / i, "AP": i / 12} for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "metrics.json").write_text(json.dumps({"AP": 0.25}))
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "val_detections.jpg")
    return folder


def push(run: Path, *words: str) -> int:
    return main(["push", str(run), "anna/cells", *words])


def test_one_person_uploads_and_another_detects(hub, run, tmp_path, capsys):
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("street.png")
    assert push(run, "--license", "MIT", "--precision", "fp16") == 0
    assert f"{hub.url}/anna/cells: uploaded; `cspdet fetch hf:anna/cells` downloads it" in capsys.readouterr().out
    (files,) = hub.repos["anna/cells"]
    assert sorted(files) == ["README.md", "config.yaml", "curves.png", "metrics.json", "model.safetensors"]
    assert not any(b"secret" in content for content in files.values())

    assert main(["detect", "hf:anna/cells", "street.png"]) == 2
    message = "error: hf:anna/cells: this model is not downloaded; `cspdet fetch hf:anna/cells` downloads it"
    assert message in capsys.readouterr().err
    words = ["detect", "hf:anna/cells", "street.png", "--fetch", "--output", "out", "--backend", "torch"]
    assert main(words) == 0
    hub.asked.clear()
    before, after = cspdet.load(run / "best.pt"), cspdet.load("hf:anna/cells")
    assert (after.name, after.categories, after.info.license) == ("cells", before.categories, "MIT")
    assert after.config.data == Path("pets.yaml")
    assert after.config.model_copy(update={"data": before.config.data}) == before.config
    for name, value in before.network.state_dict().items():
        assert torch.equal(after.network.state_dict()[name], value.half().float() if value.ndim > 1 else value)
    report = load_initial_weights(cspdet.load(run / "best.pt").network, "hf:anna/cells")
    assert all(entry.loaded for entry in report.entries)
    assert main(["info", "hf:anna/cells", "--json"]) == 0
    assert hub.asked == []  # only the download reached the network


def test_equal_weights_are_uploaded_as_they_are_and_revisions_are_kept(hub, run, capsys):
    cspdet.push_to_hub(run, "anna/cells", license="mit")
    cspdet.push_to_hub(run / "best.pt", "anna/cells", license="cc-by-4.0")
    first = cspdet.load(cspdet.fetch(f"hf:anna/cells@{0:040d}"))
    assert (first.info.license, cspdet.load(cspdet.fetch("hf:anna/cells")).info.license) == ("mit", "cc-by-4.0")
    assert cspdet.load(f"hf:anna/cells@{0:040d}").info.license == "mit"
    weights = cspdet.load(run / "best.pt").network.state_dict()
    assert all(torch.equal(first.network.state_dict()[name], value) for name, value in weights.items())


def test_cached_models_are_used_offline_and_nothing_else_is_reached(hub, run, monkeypatch, capsys):
    cspdet.push_to_hub(run, "anna/cells", license="mit")
    path = cspdet.fetch("hf:anna/cells")
    hub.asked.clear()
    monkeypatch.setenv("CSPDET_OFFLINE", "1")
    assert cspdet.fetch("hf:anna/cells") == path
    assert main(["fetch", "hf:anna/others"]) == 2
    assert "hf:anna/others: is not in the cache, and CSPDET_OFFLINE forbids downloads" in capsys.readouterr().err
    assert push(run) == 2
    assert "anna/cells: CSPDET_OFFLINE forbids uploads" in capsys.readouterr().err
    assert hub.asked == []


def test_errors_of_the_hub_are_one_line(hub, run, monkeypatch, capsys):
    hub.repos["anna/empty"] = [{"README.md": b"hello"}]
    for name, message in {
        "hf:anna/nothing": "Repository Not Found",
        "hf:anna/empty": "Entry Not Found",
        "hf:anna/empty@v9": "Revision Not Found",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            cspdet.fetch(name)
        (line,) = caught.value.problems
        assert line.startswith(f"{name}: ")
    hub.token = "hf_other"
    assert push(run) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: anna/cells: ")
    assert "401" in error
    assert "hf_test" not in error
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="anna/cells: "):
        cspdet.push_to_hub(run, "anna/cells")


def test_a_public_repository_does_not_get_what_should_be_private(hub, run, capsys):
    cspdet.push_to_hub(run, "anna/hidden", private=True)
    assert hub.private == {"anna/hidden": True}
    cspdet.push_to_hub(run, "anna/hidden", private=True)
    assert len(hub.repos["anna/hidden"]) == 2
    cspdet.push_to_hub(run, "anna/cells")
    assert push(run, "--private") == 2
    assert "anna/cells: exists and is public, found --private; nothing was uploaded" in capsys.readouterr().err
    assert len(hub.repos["anna/cells"]) == 1


def test_another_program_s_weights_are_refused_as_model(hub):
    import safetensors.torch

    hub.repos["timm/net"] = [{"model.safetensors": safetensors.torch.save({"conv.weight": torch.ones(1)})}]
    cspdet.fetch("hf:timm/net")
    with pytest.raises(CheckpointError, match="not a checkpoint of cspdet"):
        cspdet.load("hf:timm/net")


@pytest.mark.parametrize("name", ["hf:", "hf:a", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b c", "hf:a/b@-x"])
def test_names_of_another_form_are_refused(name):
    with pytest.raises(ConfigError, match="expected hf:user/name or hf:user/name@revision"):
        parse_hub_name(name)


def test_other_names_are_not_of_the_hub():
    assert [parse_hub_name(name) for name in ("yolov4", "runs/x/best.pt", Path("/a/hf:b/c"))] == [None] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "a/b"], "nowhere: expected the folder of a run with best.pt, or a checkpoint"),
        (["{run}", "cells"], "cells: expected a repository user/name"),
        (["{run}", "a/b", "--license", "x\ny"], "--license: expected an identifier such as mit"),
        (["{run}", "a/b", "train.epochs=1"], "push: takes no overrides"),
    ],
)
def test_arguments_are_checked_first(run, words, message, capsys, monkeypatch):
    monkeypatch.setenv("CSPDET_OFFLINE", "1")
    assert main(["push", *(word.format(run=run) for word in words)]) == 2
    assert message in capsys.readouterr().err


# --- the model card ------------------------------------------------------------------------------


def test_the_card_has_the_facts_of_the_run_and_images_only_on_request(run, tmp_path, capsys):
    assert push(run, "--license", "mit", "--output", str(tmp_path / "plain")) == 0
    assert push(run, "--output", str(tmp_path / "images"), "--images") == 0
    assert "nothing was uploaded" in capsys.readouterr().out
    plain, images = ((tmp_path / name / "README.md").read_text("utf-8") for name in ("plain", "images"))
    for text in (
        "# cells\n", "An object detector for 2 classes: cat, \\<b\\>dog\\|.", "| license | mit |",
        "| train | 20 | 31 |", "| val | 5 | 7 |", "| AP | 0.2500 |", "| AP50 | 0.5000 |",
        "cspdet train config.yaml --weights dark.conv.9 data=pets.yaml", "![Training curves](curves.png)",
        "cspdet predict hf:anna/cells image.jpg --fetch", ", after epoch 3 |",
    ):  # fmt: skip
        assert text in plain, text
    assert "val_detections.jpg" not in plain
    assert not (tmp_path / "plain/val_detections.jpg").exists()
    assert "![Sample predictions](val_detections.jpg)" in images
    assert (tmp_path / "images/val_detections.jpg").read_bytes() == (run / "val_detections.jpg").read_bytes()
    assert "license | not stated" in images
    assert read_metadata(tmp_path / "plain/model.safetensors")["format"] == "cspdet 2"
    assert main(["push", str(tmp_path / "plain/model.safetensors"), "a/b", "--output", str(tmp_path / "again")]) == 0


def test_results_of_other_weights_and_other_programs_are_not_uploaded(run, tmp_path):
    def pushed(path: Path) -> set[str]:
        assert main(["push", str(path), "a/b", "--images", "--output", str(tmp_path / "out")]) == 0
        files = {file.name for file in (tmp_path / "out").iterdir()}
        shutil.rmtree(tmp_path / "out")
        return files - {"README.md", "config.yaml", "model.safetensors"}

    results = {"curves.png", "metrics.json", "val_detections.jpg"}
    assert pushed(run / "best.pt") == pushed(run) == results
    for name in ("last.pt", "alone.pt"):
        shutil.copyfile(run / "best.pt", run / name)
    assert pushed(run / "last.pt") == {"curves.png"}, "metrics and images are those of best.pt"
    assert pushed(run / "alone.pt") == set()
    (run / "config.yaml").write_text("secret: 1\n")
    assert pushed(run / "best.pt") == set()


def test_the_front_matter_is_what_the_hub_reads():
    from huggingface_hub import ModelCard as HubCard

    info = ModelInfo(license="MIT", dataset="a: b", metrics={"AP": 0.25, "AR": None})
    data = HubCard(dataclasses.replace(CARD, info=info).render()).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "cspdet", "object-detection")
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("AP", 0.25, "a: b")
    other = HubCard(dataclasses.replace(CARD, info=ModelInfo(license="public domain")).render())
    assert other.data.license == "other"
    assert "| license | public domain |" in other.content
    classifier = dataclasses.replace(CARD, task="classification", info=ModelInfo(dataset="it's")).render()
    assert 'pipeline_tag: "image-classification"' in classifier
    assert "--data 'it'\"'\"'s'" in classifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain 5-cell, größe", "plain 5-cell, größe"),
        ("a\n# b\r|c|", r"a # b \|c\|"),
        ("[x](javascript:1) ![y](z)", r"\[x\](javascript:1) !\[y\](z)"),
        ("<img src=x onerror=alert(1)>&lt;", r"\<img src=x onerror=alert(1)\>\&lt;"),
        ("*a* _b_ `c` ~d~ $e$", r"\*a\* \_b\_ \`c\` \~d\~ \$e\$"),
        ("http://evil.org me@evil.org", r"http:\/\/evil.org me\@evil.org"),
    ],
)
def test_texts_of_strangers_have_no_markup(text, expected):
    assert escape_markdown(text) == expected
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    html = markdown.renderInline(escape_markdown(text))
    assert not any(tag in html for tag in ("<img", "<a", "<em", "<code", "<strong"))
