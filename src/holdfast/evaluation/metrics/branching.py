"""A context and the choices after it in one pass: the context is read once, not once for each choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from holdfast.data.formats import Completion
from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, completion, length_sorted_batches, start
from holdfast.evaluation.loss import CHUNK, bounded, logits_of, sequence_losses
from holdfast.evaluation.scored import Floats

PACKED = 256
"""Tokens that a row may hold in any case; beyond it, choices get a row of their own once they outgrow the context."""

ALIKE = 1e-3
"""Nats by which both ways of scoring may differ: half precision rounds, a wrong mask is off by far more."""


@dataclass(frozen=True)
class Tree:
    """Token ids that all choices share, then those of each; the first `prompts[j]` of branch j are prompt still."""

    context: list[int]
    branches: list[list[int]]
    prompts: list[int]


def tree(task: Completion, tokenizer: PreTrainedTokenizerBase, length: int) -> Tree:
    """The choices of a task as branches; a prompt that leaves no room for the longest loses its beginning."""
    pairs = [completion(replace(task, completion=choice), tokenizer) for choice in task.choices]
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*(p for p, _ in pairs), strict=False)))
    longest = max(len(prompt) - shared + len(answer) for prompt, answer in pairs)
    begin, kept = start(tokenizer), pairs[0][0][:shared]
    return Tree(
        begin + kept[max(len(kept) - max(length - len(begin) - longest, 0), 0) :],
        [(prompt[shared:] + answer)[-(length - len(begin)) :] for prompt, answer in pairs],
        [max(len(prompt) - shared, 0) for prompt, _ in pairs],
    )


def branch_losses(
    model: nn.Module, trees: Sequence[Tree], *, pad_id: int = 0, batch_tokens: int = 16384
) -> list[Floats]:
    """The summed nats of the choices of each tree, float64 [choices].

    All branches of a tree stand in one row behind their context; each attends to that and to itself, at the places it
    would have alone. A model that such a mask does not reach (attention windows, recurrence, places told by distance,
    virtual tokens) is found out on the first tree and reads each branch with its context, which costs
    choices x context more tokens.
    """
    if not trees:
        return []
    if not _packs(model, trees[0], pad_id, batch_tokens):
        return _apart(model, trees, pad_id, batch_tokens)
    return _together(model, trees, pad_id, batch_tokens)


def _packs(model: nn.Module, first: Tree, pad_id: int, batch_tokens: int) -> bool:
    """Whether this model gives a tree in one row the figures of its branches apart."""
    config = getattr(model, "config", None)
    config = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "_attn_implementation", None) not in ("eager", "sdpa") or kinds - {"full_attention"}:
        return False
    try:
        packed = _together(model, [first], pad_id, batch_tokens)[0]
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError):
        return False
    return bool(np.allclose(packed, _apart(model, [first], pad_id, batch_tokens)[0], rtol=ALIKE, atol=ALIKE))


def _apart(model: nn.Module, trees: Sequence[Tree], pad_id: int, batch_tokens: int) -> list[Floats]:
    rows = [
        {
            "input_ids": tree.context + branch,
            "labels": [IGNORED] * (len(tree.context) + prompt) + branch[prompt:],
        }
        for tree in trees
        for branch, prompt in zip(tree.branches, tree.prompts, strict=True)
    ]
    total = sequence_losses(model, rows, pad_id=pad_id, batch_tokens=batch_tokens).total.numpy()
    return np.split(total, np.cumsum([len(tree.branches) for tree in trees])[:-1])


@dataclass(frozen=True)
class _Row:
    """A context and some branches: for each token its place, its branch (0: context), who foretells it, whose loss."""

    ids: list[int]
    places: list[int]
    branches: list[int]
    parents: list[int]
    owners: list[int]


def _together(model: nn.Module, trees: Sequence[Tree], pad_id: int, batch_tokens: int) -> list[Floats]:
    firsts = np.cumsum([0, *(len(tree.branches) for tree in trees)])
    rows = [row for tree, first in zip(trees, firsts, strict=False) for row in _rows(tree, int(first))]
    total = torch.zeros(int(firsts[-1]), dtype=torch.float64)
    with quiet(model) as device:
        dtype = next(model.parameters()).dtype
        bound = bounded(getattr(model, "config", None), batch_tokens)
        for chosen in length_sorted_batches([len(row.ids) for row in rows], bound):
            batch = [rows[i] for i in chosen]
            inputs = {name: tensor.to(device) for name, tensor in _inputs(batch, pad_id, dtype).items()}
            logits = logits_of(model, inputs)
            for at, parents, targets, owners in _scored(batch, logits.shape[-1]):
                heads = logits[at.to(device), parents.to(device)].float()
                nats = cross_entropy(heads, targets.to(device), reduction="none")
                total.index_add_(0, owners, nats.cpu().double())
    return np.split(total.numpy(), firsts[1:-1])


def _rows(tree: Tree, first: int) -> Iterator[_Row]:
    """The tree in as few rows as keep a row from growing far beyond what its context costs."""
    most = max(PACKED, 2 * len(tree.context))
    group: list[int] = []
    size = len(tree.context)
    for j, branch in enumerate(tree.branches):
        if group and size + len(branch) > most:
            yield _row(tree, group, first)
            group, size = [], len(tree.context)
        group.append(j)
        size += len(branch)
    yield _row(tree, group, first)


def _row(tree: Tree, group: Sequence[int], first: int) -> _Row:
    shared = len(tree.context)
    made = _Row([*tree.context], [*range(shared)], [0] * shared, [-1] * shared, [-1] * shared)
    for number, j in enumerate(group, start=1):
        branch, at = tree.branches[j], len(made.ids)
        made.ids.extend(branch)
        made.places.extend(range(shared, shared + len(branch)))
        made.branches.extend([number] * len(branch))
        made.parents.extend([shared - 1, *range(at, at + len(branch) - 1)])
        unscored = max(tree.prompts[j], 0 if shared else 1)  # nothing foretells the first token of all
        made.owners.extend([-1] * unscored + [first + j] * (len(branch) - unscored))
    return made


def _inputs(batch: Sequence[_Row], pad_id: int, dtype: torch.dtype) -> dict[str, Tensor]:
    longest = max(len(row.ids) for row in batch)

    def padded(lists: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([values + [fill] * (longest - len(values)) for values in lists])

    branches = padded([row.branches for row in batch], -1)
    own = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = own & causal | torch.eye(longest, dtype=torch.bool)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return {
        "input_ids": padded([row.ids for row in batch], pad_id),
        "position_ids": padded([row.places for row in batch], 0),
        "attention_mask": mask[:, None],
    }


def _scored(batch: Sequence[_Row], vocabulary: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Row, parent, token and owner of each token that is scored, a bounded number at a time."""
    found = torch.tensor(
        [
            (i, parent, token, owner)
            for i, row in enumerate(batch)
            for parent, token, owner in zip(row.parents, row.ids, row.owners, strict=True)
            if owner >= 0
        ]
    ).reshape(-1, 4)
    for part in found.split(max(1, CHUNK // vocabulary)):  # type: ignore[no-untyped-call]
        at, parents, targets, owners = part.unbind(-1)
        yield at, parents, targets, owners
