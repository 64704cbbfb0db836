"""Reading and checking configs imports neither torch nor numpy: errors in a config are answered at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "numpy", "cv2", "matplotlib", "albumentations")


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("import cspdet.recipe", ""),
        ("import cspdet.models, cspdet.structures, cspdet.training.config, cspdet.datasets.config", ""),
        (
            "from cspdet.recipe import load_recipe\n"
            "print(load_recipe('csppelee_efm_sam', ['train.loss.box=giou']).train.loss.box)",
            "giou",
        ),
        (
            "from cspdet.recipe import load_recipe\nprint(load_recipe('classification/darknet53').task)",
            "classification",
        ),
        (
            "from cspdet.errors import ConfigError\n"
            "from cspdet.recipe import load_recipe\n"
            "try:\n"
            "    load_recipe('csppelee_efm_sam', ['train.epohcs=3'])\n"
            "except ConfigError as error:\n"
            "    print(str(error)[:68])",
            "override 'train.epohcs=3': train.epohcs: unknown key (did you mean 'epochs'?)"[:68],
        ),
    ],
)
def test_configs_are_read_without_torch(tmp_path, code, output):
    check = f"import sys\nprint([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr.strip()) == (output, "[]")
