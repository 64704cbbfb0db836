"""The registry of export formats: entries, options, and formats of the user's own with their verification."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest
from engine_data import small_detector
from torch import Tensor

from cspdet.cli.main import run_command
from cspdet.config.user_modules import allow_user_modules
from cspdet.errors import ConfigError, UserError
from cspdet.exporters.base import EXPORT_FORMATS, ExportConfig, load_format
from cspdet.exporters.graph import GraphFormat
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata
from cspdet.models.bundle import ModelBundle


class ScaledEngine(Engine):
    """The outputs of the network times a factor."""

    name = "scaled"

    def __init__(self, bundle: ModelBundle, metadata: ModelMetadata, factor: float):
        super().__init__(metadata, EngineOptions())
        self.network, self.factor = bundle.torch_network, factor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.factor * values for values in self.network(images))


class TextFormat(GraphFormat):
    """A file with the name of the model."""

    suffixes = (".txt", ".text")
    options = frozenset({"dynamic"})
    factor = 1.0

    def files(self, target: Path) -> tuple[Path, ...]:
        return target, target.with_suffix(".more")

    def write(self, bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata, path: Path) -> None:
        self.bundle = bundle
        path.write_text(metadata.name)
        path.with_suffix(".more").write_text("more")

    def load(self, path: Path, metadata: ModelMetadata) -> Engine:
        assert path.read_text() == self.bundle.name
        return ScaledEngine(self.bundle, metadata, self.factor)


def test_every_format_has_an_entry_and_options_of_the_config():
    assert EXPORT_FORMATS.names() == ("onnx", "openvino", "torchscript", "darknet", "safetensors")
    names = {field.name for field in fields(ExportConfig)} - {"size_hw"}
    for name in EXPORT_FORMATS.names():
        export_format = load_format(name)
        assert export_format.name == name
        assert all(suffix.startswith(".") for suffix in export_format.suffixes)
        assert export_format.options <= names


def test_a_format_is_checked_against_its_suffixes_and_options():
    text = TextFormat("text")
    text.check_target(Path("a.text"))
    with pytest.raises(ConfigError, match=r"ends in \.txt or \.text, found 'a\.onnx'"):
        text.check_target(Path("a.onnx"))
    text.check_options(ExportConfig((64, 64), dynamic=False))
    with pytest.raises(ConfigError, match="--outputs: --format text does not have this option") as caught:
        text.check_options(ExportConfig(outputs="decoded", precision="fp16"))
    assert len(caught.value.problems) == 2


def test_an_export_is_verified_before_its_files_get_their_names(tmp_path):
    bundle, text = small_detector(), TextFormat("text")
    result = text.export(bundle, ExportConfig(), tmp_path / "a.txt")
    assert result.paths == (tmp_path / "a.txt", tmp_path / "a.more")
    assert [path.read_text() for path in result.paths] == [bundle.name, "more"]
    assert (result.difference, result.size_hw) == (0, bundle.config.input.size)
    assert result.details == {"outputs": "raw", "precision": "fp32", "dynamic": True}
    text.factor = 1.001  # the largest value of an output differs by a thousandth of itself; allowed is 1e-4
    with pytest.raises(UserError, match=r"not written: its outputs differ by 1\.0e-03 of the largest"):
        text.export(bundle, ExportConfig(), tmp_path / "b.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.more", "a.txt"]


def test_a_format_of_a_users_module_is_named_and_checked(tmp_path, monkeypatch, capsys):
    name = f"formats_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("class NoFormat:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with allow_user_modules(), pytest.raises(ConfigError, match="expected a subclass of ExportFormat"):
        load_format(f"{name}:NoFormat")
    assert run_command("export", ["x.pt", "--format", f"{name}:NoFromat"]) == 2
    assert "has no 'NoFromat' (did you mean 'NoFormat'?)" in capsys.readouterr().err
    assert run_command("export", ["x.pt", "--format", "nowhere:Format"]) == 2
    assert "no module 'nowhere'" in capsys.readouterr().err
