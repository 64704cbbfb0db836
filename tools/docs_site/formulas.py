"""Hook of MkDocs: formulas in LaTeX, which GitHub renders, become MathML, which browsers render without a script."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

# Code is matched first, so that a dollar sign in it does not start a formula. A formula does not start with a space.
FORMULA = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)|\$\$(?P<block>[^$]+)\$\$|\$(?P<inline>[^\s$][^$\n]*)\$", re.MULTILINE | re.DOTALL
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the text of a page with every `$...$` and `$$...$$` outside of code replaced by a `<math>` element."""
    return FORMULA.sub(_mathml, markdown)


def _mathml(match: re.Match[str]) -> str:
    if match["code"] is not None:
        return match["code"]
    latex = re.sub("'+", lambda primes: "^{" + r"\prime" * len(primes[0]) + "}", match["block"] or match["inline"])
    if match["block"]:
        return f'<div class="formula">{convert(latex, display="block")}</div>'
    return f"<span>{convert(latex)}</span>"  # a line that starts with <math> would be a block of HTML to Markdown
