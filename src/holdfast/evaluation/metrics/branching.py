"""A context and the choices after it in one pass: the context is read once, not once for each choice."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from holdfast.data.formats import Completion
from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, length_sorted_batches, start
from holdfast.evaluation.loss import CHUNK, bounded, logits_of, sequence_losses
from holdfast.evaluation.scored import Floats

PACKED = 256
"""Tokens that a row may hold in any case; beyond it, choices get a row of their own once they outgrow the context."""

ALIKE = 1e-4
"""Share by which both ways of scoring may differ in float32; see `_rounding`. A wrong mask is off by far more."""


@dataclass(frozen=True)
class Tree:
    """Token ids that all choices share, then those of each; the first `prompts[j]` of branch j are prompt still.

    The last `told` tokens of the context belong to every answer already: they are scored once and count for each.
    """

    context: list[int]
    branches: list[list[int]]
    prompts: list[int]
    told: int = 0


def trees(tasks: Sequence[Completion], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Tree]:
    """The choices of each task as branches; a prompt that leaves no room for the longest loses its beginning."""
    texts = [text for task in tasks for text in (task.prompt, *(task.prompt + choice for choice in task.choices))]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    ends = list(accumulate((1 + len(task.choices) for task in tasks), initial=0))
    begin = start(tokenizer)
    return [_tree(ids[at], ids[at + 1 : end], begin, length - len(begin)) for at, end in pairwise(ends)]


def _tree(prompt: list[int], wholes: list[list[int]], begin: list[int], length: int) -> Tree:
    """As in `completion`, a token across the border between prompt and answer counts as answer."""
    borders = [_alike(prompt, whole) for whole in wholes]
    shared = _alike(*wholes)
    if len(set(borders)) > 1:
        shared = min(shared, *borders)
    kept = wholes[0][:shared]
    room = max(length - max(len(whole) - shared for whole in wholes), 0)
    cut = [max(len(whole) - shared - length, 0) for whole in wholes]
    return Tree(
        begin + kept[max(shared - room, 0) :],
        [whole[shared + less :] for whole, less in zip(wholes, cut, strict=True)],
        [max(border - shared - less, 0) for border, less in zip(borders, cut, strict=True)],
        min(max(shared - borders[0], 0), room),
    )


def _alike(*lists: list[int]) -> int:
    """How many tokens they all begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False)))


def branch_losses(
    model: nn.Module, trees: Sequence[Tree], *, pad_id: int = 0, batch_tokens: int = 16384
) -> list[Floats]:
    """The summed nats of the choices of each tree, float64 [choices].

    All branches of a tree stand in one row behind their context; each attends to that and to itself, at the places it
    would have alone. A model that such a mask does not reach (attention windows, recurrence, places told by distance,
    virtual tokens) is found out on a tree or two and reads each branch with its context, which costs
    choices x context more tokens.
    """
    if not trees:
        return []
    if not _packs(model, _telling(trees), pad_id, batch_tokens):
        return _apart(model, trees, pad_id, batch_tokens)
    return _together(model, trees, pad_id, batch_tokens)


def _telling(trees: Sequence[Tree]) -> list[Tree]:
    """Two branches of the longest tree, which a window would cut, and of one that tells of masks and places.

    A wrong mask or place moves the tokens behind another branch whose logits are read; branches of one token have none.
    """

    def moved(tree: Tree) -> int:
        return sum(parent >= 0 < row.branches[parent] != 1 for row in _rows(tree, 0, 0) for _, parent, _ in row.scored)

    def size(tree: Tree) -> int:
        return len(tree.context) + max(map(len, tree.branches))

    pairs = [_pair(tree) for tree in trees]
    told = [moved(pair) for pair in pairs]
    most = max((pair for pair, count in zip(pairs, told, strict=True) if 2 * count >= max(told)), key=size)
    longest = max(pairs, key=size)
    return [most] if size(most) == size(longest) else [most, longest]


def _pair(tree: Tree) -> Tree:
    """The first branch and the longest of the others."""
    order = [0, *sorted(range(1, len(tree.branches)), key=lambda j: -len(tree.branches[j]))[:1]]
    return replace(tree, branches=[tree.branches[j] for j in order], prompts=[tree.prompts[j] for j in order])


def _packs(model: nn.Module, probed: list[Tree], pad_id: int, batch_tokens: int) -> bool:
    """Whether this model gives trees in one row each the figures of their branches apart."""
    config = getattr(model, "config", None)
    config = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "_attn_implementation", None) not in ("eager", "sdpa") or kinds - {"full_attention"}:
        return False
    try:
        packed = np.concatenate(_together(model, probed, pad_id, batch_tokens))
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError):
        return False
    rounding = _rounding(next(model.parameters()).dtype)
    return bool(np.allclose(packed, np.concatenate(_apart(model, probed, pad_id, batch_tokens)), rounding, rounding))


def _rounding(dtype: torch.dtype) -> float:
    """What rounding may do to a figure: a row of another length is computed in another order."""
    return max(ALIKE, 4 * torch.finfo(dtype).eps)


def _apart(model: nn.Module, trees: Sequence[Tree], pad_id: int, batch_tokens: int) -> list[Floats]:
    rows = [
        {
            "input_ids": tree.context + branch,
            "labels": [IGNORED] * (len(tree.context) + prompt - tree.told)
            + (tree.context + branch)[len(tree.context) + prompt - tree.told :],
        }
        for tree in trees
        for branch, prompt in zip(tree.branches, tree.prompts, strict=True)
    ]
    total = sequence_losses(model, rows, pad_id=pad_id, batch_tokens=batch_tokens).total.numpy()
    return np.split(total, np.cumsum([len(tree.branches) for tree in trees])[:-1])


@dataclass(frozen=True)
class _Row:
    """A context and some branches: for each token its place and its branch (0: context), and what is scored.

    Of each scored token there is its place in the row, that of the token which foretells it, and whose loss it is.
    """

    ids: list[int]
    places: list[int]
    branches: list[int]
    scored: list[tuple[int, int, int]]


def _together(model: nn.Module, trees: Sequence[Tree], pad_id: int, batch_tokens: int) -> list[Floats]:
    counts = [len(tree.branches) for tree in trees]
    firsts = list(accumulate(counts, initial=0))
    rows = [row for i, tree in enumerate(trees) for row in _rows(tree, firsts[i], firsts[-1] + i)]
    total = torch.zeros(firsts[-1] + len(trees), dtype=torch.float64)  # of each branch, then what is told of each tree
    partial = takes(model, "logits_to_keep")
    with quiet(model) as device:
        dtype = next(model.parameters()).dtype
        bound = bounded(getattr(model, "config", None), batch_tokens, device)
        for chosen in length_sorted_batches([len(row.ids) for row in rows], bound):
            batch = [rows[i] for i in chosen]
            longest = max(len(row.ids) for row in batch)
            last = max(len(row.ids) - min((parent for _, parent, _ in row.scored), default=0) for row in batch)
            inputs = {name: tensor.to(device) for name, tensor in _inputs(batch, pad_id, dtype).items()}
            logits = logits_of(model, inputs, last if partial else None)
            for at, parents, targets, owners in _scored(batch, longest - logits.shape[1], logits.shape[-1]):
                heads = logits[at.to(device), parents.to(device)].float()
                nats = cross_entropy(heads, targets.to(device), reduction="none")
                total.index_add_(0, owners, nats.cpu().double())
    branches, told = total.numpy()[: firsts[-1]], total.numpy()[firsts[-1] :]
    return np.split(branches + np.repeat(told, counts), firsts[1:-1])


def takes(model: nn.Module, option: str) -> bool:
    """Whether the model's forward knows an option by name, under an adapter too."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return option in inspect.signature(inner.forward).parameters


def _rows(tree: Tree, first: int, told: int) -> Iterator[_Row]:
    """The tree in as few rows as keep a row from growing far beyond what its context costs."""
    most = max(PACKED, 2 * len(tree.context))
    group: list[int] = []
    size = len(tree.context)
    for j, branch in enumerate(tree.branches):
        if group and size + len(branch) > most:
            yield _row(tree, group, first, told)
            group, size = [], len(tree.context)
        group.append(j)
        size += len(branch)
    yield _row(tree, group, first, told)


def _row(tree: Tree, group: Sequence[int], first: int, told: int) -> _Row:
    shared = len(tree.context)
    made = _Row([*tree.context], [*range(shared)], [0] * shared, [])
    if group[0] == 0:  # what is told counts once, and nothing foretells the first token of all
        made.scored.extend((at, at - 1, told) for at in range(max(shared - tree.told, 1), shared))
    for number, j in enumerate(group, start=1):
        branch, at = tree.branches[j], len(made.ids)
        made.ids.extend(branch)
        made.places.extend(range(shared, shared + len(branch)))
        made.branches.extend([number] * len(branch))
        parents = [shared - 1, *range(at, at + len(branch) - 1)]
        unscored = max(tree.prompts[j], 0 if shared else 1)
        made.scored.extend((at + i, parents[i], first + j) for i in range(unscored, len(branch)))
    return made


def _inputs(batch: Sequence[_Row], pad_id: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows that end together: what is scored stands at their ends, and only there logits are needed."""
    longest = max(len(row.ids) for row in batch)

    def padded(lists: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([[fill] * (longest - len(values)) + values for values in lists])

    branches = padded([row.branches for row in batch], -1)
    own = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = own & causal
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return {
        "input_ids": padded([row.ids for row in batch], pad_id),
        "position_ids": padded([row.places for row in batch], 0),
        "attention_mask": mask[:, None],
    }


def _scored(batch: Sequence[_Row], left: int, vocabulary: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Row, parent, token and owner of each token that is scored, a bounded number at a time.

    `left` is how many of the first places of the padded rows have no logits.
    """
    longest = max(len(row.ids) for row in batch)
    found = torch.tensor(
        [
            (i, longest - len(row.ids) + parent - left, row.ids[at], owner)
            for i, row in enumerate(batch)
            for at, parent, owner in row.scored
        ]
    ).reshape(-1, 4)
    for part in found.split(max(1, CHUNK // vocabulary)):  # type: ignore[no-untyped-call]
        at, parents, targets, owners = part.unbind(-1)
        yield at, parents, targets, owners
