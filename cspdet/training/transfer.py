"""Starting from the weights of another network: what fits is taken, and what does not is told."""

from __future__ import annotations

import logging

from torch import Tensor, nn

from cspdet.errors import CheckpointError

log = logging.getLogger("cspdet")


def transfer(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Take every entry whose name and shape fit, and log what was left as it was.

    Raises:
        CheckpointError: nothing fits.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"{where}: none of its {len(weights)} entries fits the network by name and shape")
    model.load_state_dict(fitting, strict=False)
    log.info("%s: took %d of the network's %d entries", where, len(fitting), len(own))
    for name in own:
        if name not in fitting:
            found = f"found {tuple(weights[name].shape)}" if name in weights else "not in the file"
            log.info("  fresh: %s, expected %s, %s", name, tuple(own[name].shape), found)
