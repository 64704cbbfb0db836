"""Words of the command line that several commands take."""

from __future__ import annotations

import re

from cspdet.errors import ConfigError

MAX_INPUT_SIDE = 8192  # of an input, pixels


def parse_image_size(text: str) -> tuple[int, int]:
    """`--size` as height and width: `416` is square, `416x608` has both.

    Raises:
        ConfigError: anything else, or a side that no network takes.
    """
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    size_hw = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= side <= MAX_INPUT_SIDE for side in size_hw):
        expected = f"a side such as 416, or HEIGHTxWIDTH such as 416x608, up to {MAX_INPUT_SIDE}"
        raise ConfigError(f"--size: expected {expected}, found {text!r}")
    return size_hw
