"""Reading one Pascal VOC xml file, trusting nothing in it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

MAX_XML_BYTES = 16 * 2**20
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One annotated object."""

    name: str
    corners: tuple[float, float, float, float]  # as written
    difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """One xml file, read."""

    filename: str  # what it calls its picture; may be empty
    size_hw: tuple[int, int] | None  # None where it does not say, or says 0
    objects: tuple[VocObject, ...]


def parse_voc(file: Path, problems: list[str]) -> VocAnnotation | None:
    """Read one xml file; what is wrong with it is added to `problems`, and then there may be no result."""
    try:
        root = _safe_xml(file)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        problems.append(f"{file}: not readable as xml: {error}")
        return None
    if root.tag != "annotation":
        problems.append(f"{file}: expected <annotation> at the top, found <{root.tag}>")
        return None
    objects = []
    for object_number, node in enumerate(root.findall("object"), 1):
        item = _parse_object(node, f"{file}: object {object_number}", problems)
        if item is not None:
            objects.append(item)
    size: list[float | None] = [0.0, 0.0]
    if root.find("size") is not None:
        size = [_parse_float(root, f"size/{side}", str(file), problems) for side in ("height", "width")]
    if size[0] is None or size[1] is None:
        return None
    declared = (int(size[0]), int(size[1])) if all(size) else None
    return VocAnnotation(root.findtext("filename", "").strip(), declared, tuple(objects))


def _parse_object(node: ElementTree.Element, where: str, problems: list[str]) -> VocObject | None:
    name = (node.findtext("name") or "").strip()
    if not name:
        problems.append(f"{where}: <name> is missing or empty")
    if node.find("bndbox") is None:
        problems.append(f"{where}: <bndbox> is missing")
        return None
    x1, y1, x2, y2 = (_parse_float(node, f"bndbox/{corner}", where, problems) for corner in CORNERS)
    if not name or x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    return VocObject(name, (x1, y1, x2, y2), (node.findtext("difficult") or "").strip() in ("1", "true", "True"))


def _parse_float(node: ElementTree.Element, path: str, where: str, problems: list[str]) -> float | None:
    text = node.findtext(path)
    if text is None:
        problems.append(f"{where}: <{path}> is missing")
        return None
    if re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text) and math.isfinite(float(text)):
        return float(text)
    problems.append(f"{where}: <{path}> expected a number, found {text.strip()[:40]!r}")
    return None


def _safe_xml(file: Path) -> ElementTree.Element:
    """Parse a file that declares no document type: without one there are no entities to expand."""
    if file.stat().st_size > MAX_XML_BYTES:
        raise ValueError(f"{file.stat().st_size} bytes are more than the {MAX_XML_BYTES} of any honest annotation")
    data = file.read_bytes()

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type (DOCTYPE), which annotations do not need and attacks do")

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from None
    return ElementTree.fromstring(data)
