"""Config section `input`: size of the network input, and how images are resized to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from cspdet.config.base import ConfigModel

MIN_SIDE, MAX_SIDE = 32, 8192  # pixels

Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


def _as_height_width(size: Any) -> Any:
    """Convert one number to a square size. Convert a list to a tuple, because strict validation requires a tuple."""
    if isinstance(size, int) and not isinstance(size, bool):
        return (size, size)
    return tuple(size) if isinstance(size, list) else size


InputSize = Annotated[tuple[int, int], BeforeValidator(_as_height_width)]


class InputConfig(ConfigModel):
    """Size of the network input, and how images are resized to it."""

    size: InputSize = Field(
        (416, 416), description="Input size as [height, width], from 32 to 8192 pixels; one value for a square input."
    )
    resize: Literal["letterbox", "stretch"] = Field(
        "letterbox",
        description="letterbox: keep the aspect ratio and pad; stretch: fill the input, as Darknet does.",
    )

    @field_validator("size")
    @classmethod
    def _check_sides(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < MIN_SIDE or max(size) > MAX_SIDE:
            raise ValueError(f"expected sides from {MIN_SIDE} to {MAX_SIDE} pixels, found {size[0]}x{size[1]}")
        return size
