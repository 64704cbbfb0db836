"""Data-flow graph of a network: the blocks and their connections, recorded in a run on the meta device.

Blocks are the modules that the caller selects, including their submodules, and calls of `FUNCTIONS` between them.
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
    """A feature map of the network: an input, or an output of a module or function.

    Attributes:
        name: Dotted path of the module; name of the input; or name of the function with its number, "concat 2".
        block_type: Class name of the module, `input`, or a value of FUNCTIONS.
        chw: Channels, height and width of the map.
        sources: Indices of the blocks that are read, in the order of the arguments.
        module: The module; None for an input or a function.
        output_index: Index of the output, for a module with several outputs.
    """

    name: str
    block_type: str
    chw: tuple[int, int, int]
    sources: tuple[int, ...]
    module: nn.Module | None = None
    output_index: int | None = None

    def bflops(self, cost: ModelCost) -> float:
        """Return the BFLOPs of the block and its submodules; for a repeatedly called module, those of this call."""
        matching = [layer for layer in cost.layers if layer.name == self.name and layer.output_chw == self.chw]
        inside = [layer for layer in cost.layers if layer.name.startswith(f"{self.name}.")]
        return sum(layer.operations for layer in (*matching, *inside)) / 1e9


def data_flow(
    run: Callable[..., object],
    inputs: Mapping[str, Tensor],
    modules: Iterable[tuple[str, nn.Module]],
    is_block: Callable[[str, nn.Module], bool],
) -> list[Block]:
    """Return the blocks of `run(*inputs)`: the inputs, then modules and functions in the order of execution.

    Args:
        run: The function to trace.
        inputs: Input tensors by name.
        modules: `named_modules()` of the network.
        is_block: Whether a module, given its name and itself, is one block.

    Raises:
        ValueError: A block reads a tensor that is the output of a function outside `FUNCTIONS`.
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
    """Records the block that produced each tensor, by `id`; tensors are kept alive, so that ids stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._block_index: dict[int, int] = {}
        self._kept_tensors: list[Tensor] = []
        self._depth = 0  # nesting level of blocks

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
        """Append a block with these inputs and this output."""
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
    """Return the indices of a block and all blocks that it depends on."""
    found, todo = set(), [index]
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo += blocks[index].sources
    return found


def conv_text(block: Block) -> str:
    """Describe the convolution of a block, such as `1x1 conv` or, with stride 2, `3x3 conv /2`."""
    (conv,) = (module for module in (block.module or nn.Module()).modules() if isinstance(module, nn.Conv2d))
    stride = f" /{conv.stride[0]}" if conv.stride[0] > 1 else ""
    return f"{conv.kernel_size[0]}x{conv.kernel_size[1]} conv{stride}"


def size_text(block: Block) -> str:
    """Format channels, height and width of a block, such as `64 · 52×52`."""
    channels, height, width = block.chw
    return f"{channels} · {height}×{width}"
