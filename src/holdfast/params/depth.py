"""How deep a tensor lies: the embedding below block 0, the head and the final norm above the last block."""

from __future__ import annotations

from holdfast.params.inventory import Param


def depth(param: Param) -> int:
    """0 for the input embedding and what belongs to it, i + 1 for block i, `n_layers + 1` for what stands above.

    A head that is tied to the embedding counts as embedding. In encoder-decoder models each stack counts for itself.
    """
    if param.layer is not None:
        return param.layer + 1
    below = "embedding" in param.components or ("embed" in param.path and param.component != "head")
    return 0 if below else param.n_layers + 1


def below_top(param: Param) -> int:
    """How many stages a tensor lies below the head: 0 above the blocks, 1 for the last block."""
    return param.n_layers + 1 - depth(param)
