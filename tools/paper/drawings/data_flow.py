"""Which block of a network reads the output of which: found by running it on the meta device.

Blocks are the modules that the caller calls so, whatever is inside them, and the functions of `FUNCTIONS` between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cspdet.models.profile import ModelCost

FUNCTIONS: dict[Any, str] = {torch.cat: "concat", F.interpolate: "upsample"}


@dataclass(frozen=True)
class Block:
    """One map of the network: an input, or what a module or function gives."""

    name: str  # dotted path of the module; of an input, its own name; of a function, which and the how-many-th
    block_type: str  # the module's class, `input`, or a value of FUNCTIONS
    chw: tuple[int, int, int]
    sources: tuple[int, ...]  # places in the list of blocks, in the order in which they are read
    module: nn.Module | None = None
    output_index: int | None = None  # which output, of a module that has several

    def bflops(self, cost: ModelCost) -> float:
        """What `cost` counts for the block and all inside it; of a module that runs several times, for this run."""
        matching = [layer for layer in cost.layers if layer.name == self.name and layer.output_chw == self.chw]
        inside = [layer for layer in cost.layers if layer.name.startswith(f"{self.name}.")]
        return sum(layer.operations for layer in (*matching, *inside)) / 1e9


def data_flow(
    run: Callable[..., object],
    inputs: Mapping[str, Tensor],
    modules: Iterable[tuple[str, nn.Module]],
    is_block: Callable[[str, nn.Module], bool],
) -> list[Block]:
    """The blocks of `run(*inputs)` in the order of computation, the inputs first.

    `modules` are `named_modules()` of what runs; `is_block` says which of them are drawn as one block.

    Raises:
        ValueError: a tensor of unknown origin: a function between the blocks that has no name here.
    """
    recorder = _GraphRecorder()
    for name, tensor in inputs.items():
        recorder.add(name, "input", (), tensor)
    handles = []
    for name, module in modules:
        if is_block(name, module):
            handles.append(module.register_forward_pre_hook(recorder.pre_hook))
            handles.append(module.register_forward_hook(recorder.make_post_hook(name)))
    try:
        with torch.no_grad(), recorder:
            run(*inputs.values())
    finally:
        for handle in handles:
            handle.remove()
    return recorder.blocks


class _GraphRecorder(TorchFunctionMode):
    """Remembers who made each tensor, by its identity; tensors are kept, so that no two have the same."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._block_index: dict[int, int] = {}
        self._kept_tensors: list[Tensor] = []
        self._depth = 0  # blocks that we are inside of

    def __enter__(self) -> _GraphRecorder:
        super().__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc_value, traceback)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._depth == 0 and func in FUNCTIONS:
            block_type = FUNCTIONS[func]
            name = f"{block_type} {sum(block.block_type == block_type for block in self.blocks) + 1}"
            self.add(name, block_type, args[0] if isinstance(args[0], (tuple, list)) else args[:1], result)
        return result

    def add(
        self,
        name: str,
        block_type: str,
        inputs: Iterable[Tensor],
        output: Tensor,
        module: nn.Module | None = None,
        output_index: int | None = None,
    ) -> None:
        """Append a block that reads and gives these tensors."""
        unknown = [tuple(tensor.shape) for tensor in inputs if id(tensor) not in self._block_index]
        if unknown:
            raise ValueError(f"{name}: reads a tensor of shape {unknown[0]} that no block made")
        sources = tuple(self._block_index[id(tensor)] for tensor in inputs)
        channels, height, width = output.shape[1:]
        self._block_index[id(output)] = len(self.blocks)
        self._kept_tensors.append(output)
        self.blocks.append(Block(name, block_type, (channels, height, width), sources, module, output_index))

    def pre_hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._depth += 1

    def make_post_hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor | tuple[Tensor, ...]], None]:
        def leave(module: nn.Module, args: tuple[Tensor, ...], given: Tensor | tuple[Tensor, ...]) -> None:
            self._depth -= 1
            if self._depth:
                return
            if isinstance(given, Tensor):
                self.add(name, type(module).__name__, args, given, module)
                return
            for part, tensor in enumerate(given):
                self.add(name, type(module).__name__, args, tensor, module, part)

        return leave


def ancestors(blocks: list[Block], index: int) -> set[int]:
    """The block at `place` and every block that it depends on."""
    found, todo = set(), [index]
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo += blocks[index].sources
    return found


def conv_text(block: Block) -> str:
    """`1x1 conv`, `3x3 conv`, with the stride where there is one."""
    (conv,) = (module for module in (block.module or nn.Module()).modules() if isinstance(module, nn.Conv2d))
    stride = f" /{conv.stride[0]}" if conv.stride[0] > 1 else ""
    return f"{conv.kernel_size[0]}x{conv.kernel_size[1]} conv{stride}"


def size_text(block: Block) -> str:
    """`64 · 52×52`: channels, height and width."""
    channels, height, width = block.chw
    return f"{channels} · {height}×{width}"
