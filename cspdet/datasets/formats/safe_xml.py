"""Read xml files, but refuse a document type declaration, because expanding its entities can exhaust the memory."""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

from cspdet.io.text import open_file

MAX_XML_BYTES = 16 * 2**20
ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]{0,100}?(\sencoding\s*=\s*["']([A-Za-z][\w.-]{0,40})["'])""")


def safe_xml(file: Path) -> ElementTree.Element:
    """Parse an xml file in any encoding that it declares.

    Raises:
        OSError: The file cannot be read.
        LookupError: The encoding of the file is not known.
        ValueError: The file is too large, not text in its encoding, not valid xml, or declares a document type.
    """
    with open_file(file) as opened:
        data = opened.read(MAX_XML_BYTES + 1)
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"more than {MAX_XML_BYTES} bytes, the maximum size of an annotation file")
    data = _to_utf8(data)

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type (DOCTYPE), which is not allowed, because it can be an attack")

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from None
    return ElementTree.fromstring(data)


def _to_utf8(data: bytes) -> bytes:
    """Convert xml to UTF-8 if its first line declares another encoding, because expat supports only few encodings.

    Raises:
        LookupError: The encoding is not known.
        ValueError: The data are not in this encoding.
    """
    declared = ENCODING.match(data)
    if declared is None or declared[2].lower() in (b"utf-8", b"utf-16"):  # of UTF-16, expat reads the byte order mark
        return data
    encoding = declared[2].decode()
    if data.startswith(codecs.BOM_UTF8):
        return data.removeprefix(codecs.BOM_UTF8).replace(declared[1], b"", 1)
    return data.replace(declared[1], b"", 1).decode(encoding).encode("utf-8")
