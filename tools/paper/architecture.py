"""Generate the parts of docs/explanation/architecture.md that are derived from the code.

  python tools/paper/architecture.py

It writes docs/packages.svg, the dependency graph of the packages, and the section "Files" of
docs/explanation/architecture.md, with the first sentence of the docstring of each file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRAWING = ROOT / "docs/packages.svg"
PAGE = ROOT / "docs/explanation/architecture.md"
FILES_HEADING = "## Files\n"
CORE = {"models", "datasets", "training", "inference", "evaluation", "checkpoints"}
ENTRY_POINTS = {"__init__", "__main__"}
# Colors, and their colors for readers with a dark color scheme.
DARK_COLORS = {
    "#ffffff": "#14181d",
    "#f6f8fa": "#1e242a",
    "#ddf4ff": "#12365c",
    "#57606a": "#9aa5b0",
    "#24292f": "#e6e9ec",
}
DARK_RULES = "".join(
    f'[{name}="{light}"]{{{name}:{dark}}}' for light, dark in DARK_COLORS.items() for name in ("fill", "stroke")
)
BOX_WIDTH, BOX_HEIGHT, GAP, ROW_HEIGHT, MARGIN = 104, 30, 22, 78, 16

Graph = dict[str, set[str]]


def package_graph() -> Graph:
    """Return the import graph of the packages and root modules of cspdet, including imports in functions."""
    graph: Graph = {}
    for path in sorted((ROOT / "cspdet").rglob("*.py")):
        part = path.relative_to(ROOT / "cspdet").parts[0].removesuffix(".py")
        if part not in ENTRY_POINTS:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            graph.setdefault(part, set()).update(set(_imported_parts(tree)) - {part} - ENTRY_POINTS)
    return graph


def _imported_parts(node: ast.AST) -> Iterator[str]:
    """Yield the packages and root modules that the code below a node imports, except under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = [child.module] if child.module != "cspdet" else [f"cspdet.{alias.name}" for alias in child.names]
        yield from (name.split(".")[1] for name in names if name.startswith("cspdet.") and not name.endswith("__"))
        yield from _imported_parts(child)


def levels(graph: Graph) -> dict[str, int]:
    """Return the level of each node: one above the highest node that it imports, 0 without imports.

    Raises:
        ValueError: The graph has an import cycle.
    """
    result: dict[str, int] = {}
    while len(result) < len(graph):
        ready = [part for part in graph if part not in result and all(name in result for name in graph[part])]
        if not ready:
            raise ValueError(f"import circle among {', '.join(sorted(graph.keys() - result.keys()))}")
        result |= {part: 1 + max((result[name] for name in graph[part]), default=-1) for part in ready}
    return result


def direct_edges(graph: Graph) -> list[tuple[str, str]]:
    """Return the edges of the transitive reduction of the graph, sorted."""
    reachable: Graph = {}
    for part in sorted(graph, key=levels(graph).__getitem__):
        reachable[part] = graph[part].union(*(reachable[name] for name in graph[part]))
    return [
        (part, name)
        for part in sorted(graph)
        for name in sorted(graph[part])
        if not any(name in reachable[other] for other in graph[part] if other != name)
    ]


def draw(graph: Graph) -> str:
    """Return the graph as SVG: one row per level, the highest first, with an arrow per edge of `direct_edges`."""
    level = levels(graph)
    rows = [sorted(part for part in graph if level[part] == i) for i in reversed(range(max(level.values()) + 1))]
    width = 2 * MARGIN + max(map(len, rows)) * (BOX_WIDTH + GAP) - GAP
    height = 2 * MARGIN + len(rows) * ROW_HEIGHT - (ROW_HEIGHT - BOX_HEIGHT)
    position: dict[str, tuple[float, float]] = {}
    for i, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP) + GAP) / 2
        position |= {part: (left + k * (BOX_WIDTH + GAP), MARGIN + i * ROW_HEIGHT) for k, part in enumerate(row)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="13" text-anchor="middle">',
        "<title>Dependencies between the packages of cspdet</title>",
        f"<style>@media (prefers-color-scheme: dark){{{DARK_RULES}}}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    lines += [_arrow(position[source], position[target]) for source, target in direct_edges(graph)]
    for part, (x, y) in sorted(position.items()):
        color = "#ddf4ff" if part in CORE else "#f6f8fa"
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="{color}"'
            ' stroke="#57606a"/>'
            f'<text x="{x + BOX_WIDTH / 2:g}" y="{y + 19.5:g}" fill="#24292f">{part}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> str:
    """Return the SVG path of a curved arrow from the bottom of one box to the top of another."""
    x1, y1, x2, y2 = source[0] + BOX_WIDTH / 2, source[1] + BOX_HEIGHT, target[0] + BOX_WIDTH / 2, target[1]
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2 - 1:g}" fill="none"'
        ' stroke="#57606a" stroke-opacity="0.75" marker-end="url(#arrow)"/>'
    )


def file_list() -> str:
    """Return the Markdown list of the packages of cspdet and their files, with the `summary` of each."""
    lines = []
    for folder in sorted(path.parent for path in (ROOT / "cspdet").rglob("__init__.py")):
        lines += ["", f"### `{folder.relative_to(ROOT).as_posix()}`", "", summary(folder / "__init__.py"), ""]
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"- `{path.name}`: {summary(path)}" for path in files]
    return "\n".join(lines) + "\n"


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.?])(?<! al\.)\s(?=[A-Z`])", first)[0].replace("`", "")


def with_file_list(page: str) -> str:
    """Return the page with its last section, "Files", replaced."""
    return page[: page.index(FILES_HEADING)] + FILES_HEADING + file_list()


def main() -> None:
    """Write the drawing and the list of files."""
    DRAWING.write_text(draw(package_graph()), encoding="utf-8")
    PAGE.write_text(with_file_list(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
