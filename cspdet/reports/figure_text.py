"""Text in figures: escape special characters, and find installed fonts that have all characters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cspdet.io.terminal import escape_text

log = logging.getLogger("cspdet")

BOXES_FONT = "Last Resort"  # has a box for every character


def plain_text(text: str) -> str:
    """Return text for matplotlib: `$` and control characters are escaped, and a leading `_` is prefixed with `./`.

    matplotlib would read `$` as the start of a formula, and leaves labels with a leading underscore out of legends; SVG
    files cannot contain control characters.
    """
    text = escape_text(text).replace("$", r"\$")
    return f"./{text}" if text.startswith("_") else text


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Context manager in which figures use installed fonts that have the characters of `texts`.

    For example, matplotlib's default font has no Chinese, Japanese or Korean characters. Characters that no installed
    font has are logged as a warning.
    """
    import matplotlib  # slow import

    families, missing = _find_families({character for text in texts for character in text if character.isprintable()})
    if missing:
        log.warning("no installed font has the characters %s; the figure shows boxes instead", "".join(sorted(missing)))
    with warnings.catch_warnings(), matplotlib.rc_context({"font.family": families}):
        warnings.filterwarnings("ignore", r"(Matplotlib currently does not|Glyph \d+)", UserWarning)
        yield


def _find_families(characters: set[str]) -> tuple[list[str], set[str]]:
    """Return the font families that have the characters, default family first; and the characters that no font has."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    families = list(rcParams["font.family"])
    missing = characters - set(map(chr, get_font(findfont(FontProperties())).get_charmap()))
    fonts = [font for font in fontManager.ttflist if not font.name.startswith(BOXES_FONT)]
    for font in fonts if missing else ():
        found = missing & set(map(chr, get_font(font.fname).get_charmap()))
        if found:
            families.append(font.name)
            missing -= found
        if not missing:
            break
    return families, missing
