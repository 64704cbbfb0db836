"""The shape of the code, read from its syntax: which part may import which, and what no module may do."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cspdet.cli.main import COMMAND_HELP

ROOT = Path(__file__).parents[2]
COMMANDS = {path.stem for path in (ROOT / "cspdet/cli").glob("[a-z]*.py")} - {
    "main", "arguments", "detect_arguments", "eval_table", "metadata_table", "parser", "synonyms",
}  # fmt: skip
TOOLS = {path.stem for path in (ROOT / "tools").glob("*.py")}

# --- which part may import which -----------------------------------------------------------------

# A part is a module or a package directly below cspdet. It may import the parts in the lines above its own.
LAYERS = (
    "errors structures boxes",
    "io device letterbox",
    "config",
    "models datasets zoo",
    "darknet inference evaluation",
    "training analysis exporters",
    "recipe reports",
    "checkpoints",
    "workflows benchmark",
    "api cli",
)
# Entry points of the package and of `python -m cspdet`; nothing imports them, so they are on no floor.
ENTRY_POINTS = ("__init__", "__main__")
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer.split()} | dict.fromkeys(
    ENTRY_POINTS, len(LAYERS)
)

# Modules directly in cspdet; everything else is in a package.
ROOT_MODULES = {"__init__", "__main__", "api", "boxes", "device", "errors", "letterbox", "recipe", "structures"}

# The core serves training, evaluation and prediction; it never imports the packages around it.
CORE = {"models", "datasets", "training", "inference", "evaluation", "checkpoints"}
AROUND_CORE = ("cspdet.analysis", "cspdet.reports", "cspdet.benchmark", "cspdet.exporters", "cspdet.darknet.write")
# Still to be removed: (module, imported module).
CORE_EXCEPTIONS: set[tuple[str, str]] = set()


class Module(NamedTuple):
    """One source file."""

    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        """Dotted, as imported: `cspdet.models.head`."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)

    @property
    def part(self) -> str:
        return self.name.split(".")[1]


def read(path: Path) -> Module:
    return Module(path, ast.parse(path.read_text(encoding="utf-8"), str(path)))


PACKAGE = [read(path) for path in sorted((ROOT / "cspdet").rglob("*.py"))]
SCRIPTS = [read(path) for path in sorted((ROOT / "tools").glob("*.py"))]


def runtime_nodes(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    """All nodes below `node`, without those under `if TYPE_CHECKING:` and, unless asked for, in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not into_functions:
            continue
        yield child
        yield from runtime_nodes(child, into_functions=into_functions)


def imports(module: Module, *, into_functions: bool) -> Iterator[tuple[int, str, str | None]]:
    """(line, module, name taken from it) of every import from cspdet that happens when the code runs."""
    for node in runtime_nodes(module.tree, into_functions=into_functions):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names if alias.name.startswith("cspdet"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cspdet":
            names = [alias.name for alias in node.names if alias.name != "__version__"]  # a constant of the package
            yield from ((node.lineno, str(node.module), name) for name in names)


def imported_part(source: str, name: str | None) -> str:
    """`models` for cspdet.models.head; `__init__` for a public name of cspdet itself."""
    parts = source.split(".")
    return parts[1] if len(parts) > 1 else name if name in RANK and name is not None else "__init__"


def against_the_order(module: Module) -> Iterator[str]:
    for line, source, name in imports(module, into_functions=True):
        part = imported_part(source, name)
        if part != module.part and RANK[part] >= RANK[module.part]:
            yield f"{module.path.relative_to(ROOT)}:{line}: {module.part} may not import {part}"


def test_every_part_has_its_layer():
    assert sorted(RANK) == sorted({module.part for module in PACKAGE}), "LAYERS names each part once, and no other"


def test_only_the_named_modules_are_outside_of_packages():
    assert {path.stem for path in (ROOT / "cspdet").glob("*.py")} == ROOT_MODULES


def imports_around_core(module: Module) -> Iterator[str]:
    if module.part in CORE:
        for _, source, name in imports(module, into_functions=True):
            target = f"{source}.{name}"
            if f"{target}.".startswith(tuple(f"{package}." for package in AROUND_CORE)):
                yield f"{module.name} imports {target}"


def test_the_core_does_not_import_what_is_around_it():
    allowed = {f"{importer} imports {imported}" for importer, imported in CORE_EXCEPTIONS}
    assert {problem for module in PACKAGE for problem in imports_around_core(module)} == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import cspdet.reports.html",
        "def f():\n    from cspdet.darknet.write import export",
        "from cspdet import analysis",
    ],
)
def test_imports_of_the_core_are_found(source):
    assert list(imports_around_core(Module(ROOT / "cspdet/training/trainer.py", ast.parse(source))))


def test_imports_follow_the_layers():
    assert [problem for module in PACKAGE for problem in against_the_order(module)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("models/head.py", "from cspdet.training.losses.yolo import yolo_loss"),
        ("datasets/coco.py", "from cspdet.models import Detector"),
        ("inference/predictor.py", "import cspdet.training.trainer"),
        ("boxes.py", "from cspdet import recipe"),
        ("training/loop.py", "def f():\n    from cspdet.cli import train"),
        ("config.py", "from cspdet import load_recipe"),
    ],
)
def test_imports_against_the_layers_are_found(path, source):
    assert list(against_the_order(Module(ROOT / "cspdet" / path, ast.parse(source))))


def test_imports_for_type_checkers_alone_are_free():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cspdet.recipe import Recipe"
    assert not list(against_the_order(Module(ROOT / "cspdet/models/head.py", ast.parse(source))))


def test_recipe_takes_only_config_classes():
    (recipe,) = [module for module in PACKAGE if module.name == "cspdet.recipe"]
    taken = [
        name
        for _, source, name in imports(recipe, into_functions=True)
        if imported_part(source, name) in {"models", "datasets", "training"}
    ]
    assert taken
    assert [name for name in taken if name is None or not name.endswith("Config")] == []


def test_modules_do_not_import_each_other_in_a_circle():
    names = {module.name for module in PACKAGE}
    graph: dict[str, set[str]] = {}
    for module in PACKAGE:
        found = graph.setdefault(module.name, set())
        for _, source, name in imports(module, into_functions=False):
            target = f"{source}.{name}" if f"{source}.{name}" in names else source
            found.add("cspdet.__init__" if target == "cspdet" else target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_no_import_is_relative():
    assert [
        f"{module.name}:{node.lineno}"
        for module in PACKAGE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ] == []


# --- commands and their scripts ------------------------------------------------------------------


def test_every_command_has_its_script_and_its_line_in_the_help_and_the_reverse():
    assert TOOLS - {"paper_page", "draw_networks", "reference_pages"} == COMMANDS
    assert {verb.replace("-", "_") for verb in COMMAND_HELP} == COMMANDS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.path.name)
def test_scripts_only_hand_over_to_the_command(script):
    text = script.path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 50
    assert f'run_command("{script.path.stem.replace("_", "-")}"' in text
    assert {source for _, source, _ in imports(script, into_functions=True)} == {"cspdet.cli.main"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_offer_what_the_command_line_calls(command):
    module = read(ROOT / f"cspdet/cli/{command}.py")
    functions = {node.name for node in module.tree.body if isinstance(node, ast.FunctionDef)}
    assert {"add_arguments", "run"} <= functions
    assert ast.get_docstring(module.tree), "the docstring is the command's help"


# --- what no module may do -----------------------------------------------------------------------

MAX_MODULE_LINES = 260
MAX_FUNCTION_LINES = 70
VAGUE_NAMES = {"utils", "util", "misc", "common", "general", "helpers", "helper", "manager"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Finding = tuple[int, str]  # line, what is wrong


def called(node: ast.AST) -> str:
    """`torch.load` for a call of torch.load, "" for whatever is no call of a dotted name."""
    return (
        ast.unparse(node.func)
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))
        else ""
    )


def is_true(node: ast.AST, argument: str) -> bool:
    return isinstance(node, ast.Call) and any(
        word.arg == argument and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in node.keywords
    )


def star_imports(module: Module) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield node.lineno, f"from {node.module} import *"


def code_from_data(module: Module) -> Iterator[Finding]:
    forbidden = {
        "eval",
        "exec",
        "compile",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "marshal.loads",
    }
    forbidden |= {"os.system", "yaml.unsafe_load", "__import__"}
    for node in ast.walk(module.tree):
        if called(node) in forbidden:
            yield node.lineno, f"{called(node)}(...)"
        elif called(node) == "torch.load" and not is_true(node, "weights_only"):
            yield node.lineno, "torch.load without weights_only=True"
        elif is_true(node, "allow_pickle") or is_true(node, "shell"):
            yield node.lineno, f"{called(node)} with allow_pickle or shell"


def pyyaml(module: Module) -> Iterator[Finding]:
    # PyYAML reads 1e-3 as text, `no` as false, and keeps the last of two equal keys; see cspdet/config/loader.py.
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "yaml" for alias in node.names):
            yield node.lineno, "import yaml; read YAML through cspdet.config.loader"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "yaml":
            yield node.lineno, "from yaml import; read YAML through cspdet.config.loader"
        elif called(node) == "YAML" and "typ='unsafe'" in ast.unparse(node):
            yield node.lineno, "unsafe YAML"


def global_state(module: Module) -> Iterator[Finding]:
    # Where a module of the user's own is imported because they named it, its folder has to be on the search path.
    may_extend_path = module.path == ROOT / "cspdet/config/user_modules.py"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}"
        elif called(node) in {"sys.path.append", "sys.path.insert"} and not may_extend_path:
            yield node.lineno, "sys.path is the user's"


def prints(module: Module) -> Iterator[Finding]:
    # Standard output is for the results of commands; everything else is logged.
    may_print = module.path.is_relative_to(ROOT / "cspdet/cli") or module.path == ROOT / "cspdet/cli/main.py"
    for node in ast.walk(module.tree):
        if called(node) == "print" and not may_print:
            yield node.lineno, "print outside of a command"


def missing_future(module: Module) -> Iterator[Finding]:
    has_code = any(isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.AnnAssign)) for node in ast.walk(module.tree))
    if has_code and not any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in module.tree.body):
        yield 1, "from __future__ import annotations is missing"


def too_long(module: Module) -> Iterator[Finding]:
    lines = max((node.end_lineno or 0 for node in module.tree.body), default=0)
    if lines > MAX_MODULE_LINES:
        yield lines, f"a module of more than {MAX_MODULE_LINES} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, FUNCTIONS) and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES:
            yield node.lineno, f"{node.name} has more than {MAX_FUNCTION_LINES} lines"


def missing_docstrings(module: Module) -> Iterator[Finding]:
    if module.tree.body and ast.get_docstring(module.tree) is None:
        yield 1, "the module has no docstring"
    # `add_arguments` and `run` are the same two in every command; cspdet/cli/main.py says what they are.
    known = {"add_arguments", "run"} if module.path.is_relative_to(ROOT / "cspdet/cli") else set()
    for node in module.tree.body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_") or node.name in known:
            continue
        if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
            continue  # the function itself has it
        if ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} has no docstring"


def vague_names(module: Module) -> Iterator[Finding]:
    for part in module.path.relative_to(ROOT).with_suffix("").parts:
        if part in VAGUE_NAMES:
            yield 1, f"a module called {part}; say what is in it"


Rule = Callable[[Module], Iterator[Finding]]

# Each rule with sources that it must object to.
RULES: list[tuple[Rule, list[str]]] = [
    (star_imports, ["from os import *"]),
    (
        code_from_data,
        [
            "eval('1')",
            "exec('1')",
            "import pickle\npickle.load(file)",
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "numpy.load(path, allow_pickle=True)",
            "subprocess.run(line, shell=True)",
        ],
    ),
    (pyyaml, ["import yaml", "from yaml import safe_load", "YAML(typ='unsafe')"]),
    (global_state, ["def f():\n    global x\n    x = 1", "sys.path.insert(0, '.')"]),
    (prints, ["print(1)"]),
    (missing_future, ["def f(): pass", "x: int = 1"]),
    (too_long, ["\n" * MAX_MODULE_LINES + "x = 1", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES]),
    (missing_docstrings, ["x = 1", '"""A module."""\ndef f(): pass', '"""A module."""\nclass A: pass']),
    (vague_names, []),
]
RULE_NAMES = [rule.__name__ for rule, _ in RULES]


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES], ids=RULE_NAMES)
def test_no_module_breaks_the_rule(rule):
    assert [
        f"{module.path.relative_to(ROOT)}:{line}: {problem}"
        for module in [*PACKAGE, *SCRIPTS]
        for line, problem in rule(module)
    ] == []


@pytest.mark.parametrize(("rule", "source"), [(rule, source) for rule, bad in RULES for source in bad])
def test_the_rule_objects(rule, source):
    assert list(rule(Module(ROOT / "cspdet/example.py", ast.parse(source))))


def test_the_rule_on_names_objects():
    assert list(vague_names(Module(ROOT / "cspdet/models/utils.py", ast.parse(""))))


def test_models_may_be_put_into_evaluation_mode():
    assert not list(code_from_data(Module(ROOT / "cspdet/example.py", ast.parse("model.eval()"))))


# --- numbers of the whole package ----------------------------------------------------------------

P95_FUNCTION_LINES = 24  # with signature and docstring
MAX_PARAMETERS, MAX_FUNCTIONS_ABOVE = 7, 3
MAX_TYPE_SWITCHES = 8
# Classes of models, tasks and recipes; `task` and methods replace an isinstance on them.
TYPES_OF_TASKS = {
    "Classifier", "ClassifierConfig", "ClassificationRecipe", "ClassificationTask", "ComposedDetector",
    "DarknetClassifier", "DarknetClassifierConfig", "DarknetDetector", "DarknetModelConfig", "DetectionRecipe",
    "DetectionTask", "Detector", "DetectorConfig",
}  # fmt: skip


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(place, function) of every function and method of the package."""
    for module in PACKAGE:
        for node in ast.walk(module.tree):
            if isinstance(node, FUNCTIONS):
                yield f"{module.path.relative_to(ROOT)}:{node.lineno}: {node.name}", node


def line_count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of lines of a function, with its signature and docstring."""
    return (node.end_lineno or 0) - node.lineno + 1


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument for argument in arguments if argument.arg not in ("self", "cls")]


def test_functions_are_short():
    lines = sorted(line_count(node) for _, node in functions())
    assert lines[int(0.95 * len(lines))] <= P95_FUNCTION_LINES


def test_few_functions_have_many_parameters():
    above = [place for place, node in functions() if len(parameters(node)) > MAX_PARAMETERS]
    assert len(above) <= MAX_FUNCTIONS_ABOVE, "pass config objects: " + ", ".join(above)


def test_every_signature_is_typed():
    assert [
        place
        for place, node in functions()
        if (node.returns is None and node.name != "__init__")
        or any(argument.annotation is None for argument in parameters(node))
    ] == []


def type_switches(module: Module) -> Iterator[str]:
    """Each isinstance on a class of a model, a task or a recipe."""
    for node in ast.walk(module.tree):
        if called(node) == "isinstance":
            assert isinstance(node, ast.Call)
            names = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            if names & TYPES_OF_TASKS:
                yield f"{module.name}:{node.lineno}: {', '.join(sorted(names & TYPES_OF_TASKS))}"


def test_few_switches_on_types_of_models_and_tasks():
    found = [switch for module in PACKAGE for switch in type_switches(module)]
    assert len(found) <= MAX_TYPE_SWITCHES, "\n".join(found)


def test_type_switches_are_found():
    source = "isinstance(model, (Detector, int))\nisinstance(model, int)"
    assert len(list(type_switches(Module(ROOT / "cspdet/example.py", ast.parse(source))))) == 1
