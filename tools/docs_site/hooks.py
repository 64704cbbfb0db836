"""Hooks of MkDocs: links from a page to files of the repository outside docs/ become links to the repository."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<=\]\()(\.\./[^)\s]+)(?=[\s)])")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Return the text of a page with its links to files outside docs/ rewritten.

    Args:
        markdown: Text of the page.
        page: Page of MkDocs.
        config: Settings of MkDocs, of which `repo_url` is read.
        files: Files of the site; not used.

    Returns:
        The text, in which `../../cspdet/api.py` is `<repo_url>/blob/main/cspdet/api.py`. Links between pages stay.
    """
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return match[1] if target.startswith("docs/") else f"{config.repo_url}/blob/main/{target}"

    return LINK.sub(link, markdown)
