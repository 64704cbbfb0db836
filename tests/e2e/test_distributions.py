"""The wheel and the source distribution: their files, and what a package index shows of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest

import cspdet

ROOT = Path(__file__).parents[2]
NOT_COPIED = (
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".git",
    ".venv",
    "build",
    "dist",
    "runs",
    "shared",
)
BUILD = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"

pytestmark = pytest.mark.e2e


class Built(NamedTuple):
    """Names of the files, and the metadata of the wheel."""

    sources: set[str]
    wheel: set[str]
    sdist: set[str]
    metadata: Message


def _not_copied(folder: str, names: list[str]) -> set[str]:
    datasets = [name for name in names if Path(folder, name).is_dir()] if Path(folder) == ROOT / "data" else []
    return shutil.ignore_patterns(*NOT_COPIED)(folder, names) | set(datasets)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "source", ignore=_not_copied, symlinks=True)
    sources = {path.relative_to(folder / "source").as_posix() for path in (folder / "source").rglob("*")}
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata, names = message_from_bytes(archive.read(name)), set(archive.namelist())
    with tarfile.open(sdist) as archive:
        files = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    return Built(sources, names, files, metadata)


def test_a_wheel_has_the_package_with_its_configs_and_templates_and_nothing_else(built):
    code = {name for name in built.sources if name.startswith("cspdet/") and (ROOT / name).is_file()}
    configs = {f"cspdet/{name}" for name in built.sources if name.startswith("configs/") and name.endswith(".yaml")}
    assert {"cspdet/py.typed", "cspdet/configs/csppelee_efm_sam.yaml"} <= code | configs
    assert any(name.startswith("cspdet/reports/templates/") for name in code)
    assert {name for name in built.wheel if ".dist-info/" not in name} == code | configs
    assert any(name.endswith("licenses/LICENSE") for name in built.wheel)


def test_a_source_distribution_has_what_the_tests_need(built):
    folders = (".ci/", ".github/", "benchmarks/", "configs/", "cspdet/", "docs/", "tests/", "tools/")
    needed = {name for name in built.sources if name.startswith(folders) and (ROOT / name).is_file()}
    top = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml",
           "setup.py", "data/coco.yaml", "data/shapes.yaml", "data/README.md"}  # fmt: skip
    assert (needed | top) - built.sdist == set()
    assert not [name for name in built.sdist if name.endswith((".pyc", ".pt"))]


def test_the_metadata_is_complete(built):
    metadata = built.metadata
    assert (metadata["Name"], metadata["Version"]) == ("cspdet", cspdet.__version__)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("MIT", ">=3.10")
    assert {"COCO", "object detection"} <= set(metadata["Keywords"].split(","))
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} <= set(urls)
    assert all(url.startswith("https://") for url in urls.values())
    extras = metadata.get_all("Provides-Extra")
    assert {"analysis", "dev", "export", "openvino", "supervision", "timm", "video"} <= set(extras)
    versions = [entry for entry in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", entry)]
    assert [entry.rsplit(".")[-1] for entry in versions] == ["10", "11", "12", "13"]


def test_the_long_description_has_no_link_that_works_only_in_the_repository(built):
    assert built.metadata["Description-Content-Type"] == "text/markdown"
    text = built.metadata.get_payload()
    assert text.startswith("# cspdet")
    assert len(text) > 2000
    targets = re.findall(r'\]\(([^)\s]+)|(?:src|href)="([^"]+)"', text)
    assert len(targets) > 10
    assert [target for pair in targets for target in pair if target and not re.match(r"https?://|#", target)] == []
