"""The package as pip and Python see it: what importing it does, what it needs, and under which licenses."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import cspdet

ROOT = Path(__file__).parents[2]

# --- importing -----------------------------------------------------------------------------------

# Slow to import, reaching for the network when imported, or optional: loaded where they are used, not before.
LAZY = ("albumentations", "tensorboard", "torch.utils.tensorboard", "matplotlib", "hotcoco")

PROBE = f"""
import json, logging, os, random, signal, socket, sys, multiprocessing

reached = []
def refuse(self, address):
    reached.append(repr(address))
    raise OSError("the test allows no network")
socket.socket.connect = socket.socket.connect_ex = refuse

import cv2, numpy, torch, torchvision  # what they do by themselves is not under test

def state():
    return {{
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "random": repr(random.getstate()),
        "numpy.random": repr([part if isinstance(part, (int, float, str)) else part.tolist()
                              for part in numpy.random.get_state()]),
        "torch random": torch.get_rng_state().tolist(),
        "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "opencv threads": cv2.getNumThreads(),
        "opencv log level": cv2.getLogLevel() if hasattr(cv2, "getLogLevel") else None,
        "numpy print options": repr(numpy.get_printoptions()),
        "torch print options": repr(vars(torch._tensor_str.PRINT_OPTS)),
        "torch defaults": [str(torch.get_default_dtype()), torch.is_grad_enabled(),
                           torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
                           torch.get_float32_matmul_precision()],
        "root logger": [repr(logging.root.handlers), logging.root.level],
        "interrupt handler": repr(signal.getsignal(signal.SIGINT)),
        "start method": multiprocessing.get_start_method(allow_none=True),
    }}

before = state()
import cspdet
changed = {{"import cspdet": [key for key, value in state().items() if value != before[key]]}}

import importlib, pkgutil
modules = [module.name for module in pkgutil.walk_packages(cspdet.__path__, "cspdet.")]
for name in modules:
    importlib.import_module(name)
changed["importing every module"] = [key for key, value in state().items() if value != before[key]]
print(json.dumps({{
    "changed": changed, "reached": reached, "modules": modules,
    "loaded": [name for name in {LAZY!r} if name in sys.modules],
}}))
"""


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def probe() -> dict:
    return json.loads(run_python(PROBE))


@pytest.mark.e2e
def test_importing_changes_nothing_outside_the_package(probe):
    assert len(probe["modules"]) > 20
    assert probe["changed"] == {"import cspdet": [], "importing every module": []}


@pytest.mark.e2e
def test_importing_opens_no_connection(probe):
    assert probe["reached"] == []


@pytest.mark.e2e
def test_importing_leaves_slow_and_optional_libraries_alone(probe):
    assert probe["loaded"] == []


def test_importing_the_package_alone_loads_no_other_library():
    # So that `cspdet --help` and completion answer at once.
    loaded = run_python("import sys; old = set(sys.modules); import cspdet; print(*(set(sys.modules) - old))")
    assert {name.split(".")[0] for name in loaded.split()} - sys.stdlib_module_names == {"cspdet"}


# --- what pip installs ---------------------------------------------------------------------------


def requirements_of(name: str) -> list[Requirement]:
    """The requirements without those on the distribution itself, by which an extra includes other extras."""
    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [requirement for requirement in found if canonicalize_name(requirement.name) != canonicalize_name(name)]


def test_metadata_comes_from_one_place():
    assert metadata.version("cspdet") == cspdet.__version__, "run `make install` after a new version"
    (script,) = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "cspdet"]
    assert script.value == "cspdet.cli.main:main"
    assert callable(script.load())


def test_every_folder_with_code_is_a_package():
    # find_packages takes no others: without __init__.py a folder works in the checkout, but is not installed.
    folders = {module.parent for module in (ROOT / "cspdet").rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()


def third_party_imports() -> dict[str, str]:
    """Top-level modules that cspdet/ imports from elsewhere, each with one file that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "cspdet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], str(path.relative_to(ROOT)))
    return {name: where for name, where in found.items() if name not in {*sys.stdlib_module_names, "cspdet"}}


# trackers asks for a build of OpenCV that overwrites the headless one, so that users install it without its
# dependencies. pandas is only for users who have it: `to_pandas` returns its tables.
UNDECLARED = {"trackers", "pandas"}


def test_every_library_imported_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in requirements_of("cspdet")}
    owners = metadata.packages_distributions()
    missing = {
        name: where
        for name, where in third_party_imports().items()
        if name not in UNDECLARED and not declared & {canonicalize_name(owner) for owner in owners.get(name, [name])}
    }
    assert missing == {}, "add them to the dependencies in pyproject.toml"


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned_version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


def constraints() -> dict[str, str]:
    return {canonicalize_name(pin.name): pinned_version(pin) for pin in pins()}


def pythons() -> list[str]:
    """The versions of Python that the package states: 3.10, 3.11 ..."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def applies(pin: Requirement, python: str) -> bool:
    return pin.marker is None or pin.marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"})


def test_every_pin_can_be_installed_on_each_python_that_its_marker_allows():
    # Else `make install` has no solution there.
    checked, wrong = 0, []
    for pin in pins():
        try:
            distribution = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        if distribution.version != pinned_version(pin):
            continue  # another version says nothing of the pinned one
        allowed = SpecifierSet(distribution.metadata.get("Requires-Python", ""))
        checked += 1
        impossible = [python for python in pythons() if not allowed.contains(f"{python}.20")]
        wrong += [f"{pin} on {python}" for python in impossible if applies(pin, python)]
    assert wrong == [], "add a marker in constraints.txt: python_version >= ..."
    assert checked
    assert pythons()[0] == "3.10"


def test_constraints_pin_every_direct_requirement_within_its_range():
    pinned = constraints()
    for requirement in requirements_of("cspdet"):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), (
            f"constraints.txt: {requirement.name}=={pin} is outside {requirement}"
        )


def test_torch_and_torchvision_have_no_upper_bound():
    # A bound on one of the pair makes pip combine builds that do not fit: `torchvision::nms does not exist`.
    for requirement in requirements_of("cspdet"):
        if requirement.name in ("torch", "torchvision"):
            assert [bound.operator for bound in requirement.specifier] == [">="], requirement


# --- licenses ------------------------------------------------------------------------------------

COPYLEFT = re.compile(r"\b[AL]?GPL|Affero|GNU (Lesser |Library )?General Public", re.IGNORECASE)
# The exception lets anything be linked with the compiler's run-time library, which wheels built by GCC carry.
RUNTIME_LIBRARY = re.compile(r"GPL-3\.0-(with-GCC-exception|or-later WITH GCC-exception-3\.1)", re.IGNORECASE)

ALLOWED_COPYLEFT: dict[str, str] = {}  # distribution -> why it may stay although its license is LGPL
UNSTATED = {
    "cuda-toolkit": "a list of NVIDIA's run-time libraries, without files; torch requires it on Linux",
}


def stated_license(name: str) -> str:
    """What a distribution says of its license: the SPDX expression, a short free text, the classifiers.

    A free text of several lines is the license itself, whose words about other licenses say nothing.
    """
    fields = metadata.metadata(name)
    text = (fields.get("License") or "").strip()
    classifiers = [entry for entry in fields.get_all("Classifier") or [] if entry.startswith("License ::")]
    return "; ".join(filter(None, [fields.get("License-Expression"), text if "\n" not in text else "", *classifiers]))


def is_copyleft(license_text: str) -> bool:
    return COPYLEFT.search(RUNTIME_LIBRARY.sub("", license_text)) is not None


def installed_requirements(name: str, extras: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """The direct requirements of a distribution that apply here and are installed, with their extras."""
    for requirement in requirements_of(name):
        applies = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if not applies:
            continue
        try:
            metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def core_dependencies() -> set[str]:
    """All that `pip install cspdet` brings, directly or not, without cspdet itself."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(installed_requirements("cspdet"))
    while waiting:
        item = waiting.pop()
        if item not in seen:
            seen.add(item)
            waiting.extend(installed_requirements(*item))
    return {name for name, _ in seen}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AGPL-3.0-only", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("GNU Affero General Public License", True),
        ("LGPL-2.1-or-later", True),
        ("BSD-3-Clause AND GPL-3.0-with-GCC-exception", False),
        ("BSD-3-Clause AND GPL-3.0-with-GCC-exception AND GPL-2.0-only", True),
        ("Apache-2.0 OR BSD-2-Clause", False),
        ("MPL-2.0", False),
    ],
)
def test_copyleft_is_recognized(text, expected):
    assert is_copyleft(text) is expected


def test_no_core_dependency_is_copyleft():
    names = core_dependencies()
    assert {"torch", "numpy", "pydantic-core", "albucore", "opencv-python-headless"} <= names
    licenses = {name: stated_license(name) for name in names}
    assert {n: text for n, text in licenses.items() if is_copyleft(text) and n not in ALLOWED_COPYLEFT} == {}
    assert {n for n, text in licenses.items() if not text} <= UNSTATED.keys()


def test_only_one_distribution_owns_opencv():
    assert {name for name in core_dependencies() if name.startswith("opencv")} == {"opencv-python-headless"}
