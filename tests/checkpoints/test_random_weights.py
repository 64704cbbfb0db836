"""A config without weights is run with random ones, and the log says so."""

from __future__ import annotations

from pathlib import Path

from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.recipes import make_checkpoint
from cspdet.io.checkpoint import save_checkpoint

CONFIG = Path(__file__).parents[2] / "configs/classification/darknetref.yaml"


def test_random_weights_are_one_warning(caplog, tmp_path):
    bundle = load_model(CONFIG)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().startswith(f"{CONFIG}: no weights are given")
    caplog.clear()
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(
        run / "last.pt", make_checkpoint(bundle.config, bundle.categories, bundle.torch_network.state_dict())
    )
    for loaded in (load_model(run), load_model(CONFIG, weights=run)):
        assert len(loaded.categories) == len(bundle.categories)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
