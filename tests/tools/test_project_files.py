"""Files that other programs read: workflows, issue forms, the container, the citation, the matrix of versions."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import cspdet
from cspdet.cli.main import COMMAND_HELP

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REPOSITORY = re.search(r'^Repository = "(.+)"$', PYPROJECT, re.M)[1]
COMMAND_LINE = re.compile(r"(?:^|\s)cspdet ([a-z][a-z-]+)")


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def steps(workflow: dict) -> Iterator[dict]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def known_commands(text: str) -> list[str]:
    found = COMMAND_LINE.findall(text)
    assert set(found) <= {*COMMAND_HELP, "--version"}, text
    return found


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMS, ROOT / "compose.yaml", ROOT / "CITATION.cff"], ids=str)
def test_every_yaml_file_is_a_mapping(path):
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_limited_and_name_what_exists(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["on"]
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90
        assert set(job.get("permissions", {})) <= {"id-token"}
        assert job.get("needs", "build") in workflow["jobs"] or "needs" not in job
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])
        known_commands(step.get("run", "").replace("docker run --rm cspdet info", "cspdet info"))
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        for file in re.findall(r"\btools/[\w/.]+", step.get("run", "")):
            assert (ROOT / file).is_file()


def test_the_workflow_runs_on_every_python_and_system_that_the_package_names():
    matrix = read(ROOT / ".github/workflows/test.yml")["jobs"]["platforms"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert all(isinstance(version, str) for version in matrix["python"])  # 3.10 as a number is 3.1
    assert [name.split("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]


def test_a_release_needs_no_password():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    publish = read(ROOT / ".github/workflows/release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert (publish["needs"], publish["environment"]["name"]) == ("build", "pypi")
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")


@pytest.mark.parametrize("path", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.name)
def test_an_issue_form_has_what_github_requires(path):
    form = read(path)
    assert form["name"]
    assert form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert part["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert part["attributes"]["label"]
        known_commands(part["attributes"].get("description", ""))


def test_the_citation_is_of_this_version():
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (cspdet.__version__, "MIT")
    assert citation["repository-code"] == REPOSITORY


def test_one_address_stands_for_the_repository_everywhere():
    names = ("setup.py", "pyproject.toml", "CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml")
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    own = re.findall(r"https://github\.com/[\w-]+/cspdet", text)
    assert len(own) > len(names)
    assert set(own) == {REPOSITORY}


def test_the_container_installs_the_cpu_build_as_the_readme_does():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    index = "https://download.pytorch.org/whl/cpu"
    assert index in dockerfile
    assert f"pip install torch torchvision --index-url {index}" in (ROOT / "README.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r"\.whl\)\[([a-z,]+)\]", dockerfile)
    assert set(extras.split(",")) <= set(re.findall(r"^(\w+) = \[", PYPROJECT, re.M))
    assert re.findall(r"docker run .* cspdet (\w+)", dockerfile) == ["detect"]
    services = read(ROOT / "compose.yaml")["services"]
    assert {service["command"].split()[0] for service in services.values()} == {"prepare-data", "train", "eval"}
    assert all(service["image"] == "cspdet" for service in services.values())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_matrix_of_versions_knows_its_rows_and_refuses_others(tmp_path):
    script = ROOT / "tools/matrix.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    rows = read(ROOT / ".github/workflows/test.yml")["jobs"]["versions"]["strategy"]["matrix"]["row"]
    (default,) = re.findall(r"rows=\(([\d.a-z -]+)\)", script.read_text(encoding="utf-8"))
    assert set(rows) <= set(default.split())
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "uv").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MATRIX_DIR": str(tmp_path / "matrix")}
    done = subprocess.run(
        ["bash", str(script), "3.13-newest"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert "FAILED  expected lowest, highest, pinned, core or spawn, found 'newest'" in done.stdout
