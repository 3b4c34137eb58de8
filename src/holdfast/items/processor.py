"""A trie's say in transformers' `generate`: only what goes on to an item gets through."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from holdfast._errors import BadInput
from holdfast.evaluation.loss import writes
from holdfast.evaluation.metrics.answers import plain_settings
from holdfast.items.growing import DEAD, ROOT
from holdfast.items.trie import Item, Left, Trie

NOTHING = -1e8
"""Below this a beam's score is that of no path of its own: transformers starts all beams but one at -1e9."""


class PrefixTreeLogitsProcessor(LogitsProcessor):
    """Lets only tokens through that go on to an item, after a prompt of `prompt_length` tokens (padding included).

        model.generate(**prompts, num_beams=50, do_sample=False, max_new_tokens=trie.depth + 1, length_penalty=0.0,
                       logits_processor=[PrefixTreeLogitsProcessor(trie, prompts["input_ids"].shape[1], end=eos)])

    Behind an encoder `prompt_length` is 1. At the end of an ID `end` may follow, and after it `pad` (else `end` again).
    Where the ID could not go on, `end` is certain and costs nothing, so that a beam's score is the log-probability of
    its ID's tokens; without `end` (None), `max_new_tokens` has to be the length of all IDs. `exclude` has for each
    prompt the items that must not come out; rows are as many beams of each prompt in turn, as `generate` has them.

    Every row stays on an item's path whatever the model's generation settings do besides: what another processor
    banned is let through again where nothing else is left. But a repetition penalty set there changes the ranking,
    and with fewer items than beams `generate` fills up with copies and rests (scores below -1e8). `generated` keeps
    both out.

    Raises BadInput for IDs with tokens that the model lacks, for an `end` that is part of an ID or is missing where
    IDs differ in length, and where `exclude` leaves a prompt no item.
    """

    def __init__(
        self,
        trie: Trie[Item],
        prompt_length: int,
        *,
        end: int | None,
        pad: int | None = None,
        exclude: Sequence[Collection[Item]] | Left | None = None,
    ):
        check_end(trie, end)
        self._trie: Trie[Any] = trie
        self._begin, self._end, self._pad = prompt_length, end, end if pad is None else pad
        self._left = exclude if exclude is None or isinstance(exclude, Left) else trie.without(exclude)
        if self._left is not None and not bool(self._left.below[:, ROOT].all()):
            raise BadInput("For some prompt every item is excluded. Leave that prompt out.")

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._trie.fits(scores.shape[-1])
        self._move(scores.device)
        states, ended = self._trie.walk(input_ids[:, self._begin :], self._end)
        tokens, children = self._trie.allowed(states.where(~ended, DEAD))
        final = (self._trie.here[states.clamp_min(ROOT)] > 0) & (states > DEAD) & ~ended
        if self._left is not None:
            owners = self._owners(len(states), len(self._left.below))
            children = children.where(self._left.below[owners[:, None], children.clamp_min(ROOT)], DEAD)
            final = final & self._left.here[owners, states.clamp_min(ROOT)]
        kept = torch.full_like(scores, -math.inf)
        kept.scatter_reduce_(1, tokens, _allowed(scores.gather(1, tokens), children > DEAD), "amax")
        return kept if self._end is None else self._ending(kept, scores[:, self._end], states, final, ended)

    def _ending(self, kept: Tensor, score: Tensor, states: Tensor, final: Tensor, ended: Tensor) -> Tensor:
        """The end let through: at its own score where the ID could go on, for nothing where it could not."""
        goes_on = self._trie.branching[states.clamp_min(ROOT)]
        kept[:, self._end] = score.where(goes_on, 0).where(final, kept[:, self._end])
        kept[:, self._pad] = kept[:, self._pad].masked_fill(ended, 0)
        return kept

    def _owners(self, rows: int, prompts: int) -> Tensor:
        """The prompt of each row."""
        if rows % prompts:
            raise BadInput(
                f"There are sets of excluded items for {prompts} prompts, and {rows} rows are no beams of so many."
            )
        return torch.arange(rows, device=self._trie.keys.device) // (rows // prompts)

    def _move(self, device: torch.device) -> None:
        if self._trie.keys.device != device:
            self._trie = self._trie.to(device)
            self._left = self._left and self._left.to(device)


def _allowed(scores: Tensor, allowed: Tensor) -> Tensor:
    """The scores of what is allowed, -inf elsewhere; 0 where all that is allowed had been banned."""
    kept = scores.masked_fill(~allowed, -math.inf)
    return kept.masked_fill(allowed & (kept == -math.inf).all(1, keepdim=True), 0)


def check_end(trie: Trie[Item], end: int | None) -> None:
    """Raise BadInput where the end of an ID cannot be told: no token for it, or one that is part of IDs."""
    if end is None and trie.ragged:
        raise BadInput(
            "The items' IDs differ in length, and the tokenizer has no EOS token that could end one. Set one."
        )
    if end is not None and bool((trie.via == end).any()):
        raise BadInput(f"The token {end} ends an ID, and it is part of one too. Spell the items without it.")


def generated(
    model: Any, ids: Tensor, mask: Tensor, trie: Trie[Item], left: Left, *, beams: int, end: int | None, pad: int
) -> tuple[Tensor, Tensor]:
    """Beam search by `generate`: states where IDs end [prompts, beams] and their log-probabilities, -inf for none.

    `ids` and `mask` [prompts, length] are padded on the left (an encoder's on the right). Beside `search` it reads
    each prompt once per beam, and takes every model that generates, encoder-decoders too. The model's own generation
    settings (Qwen's draw) have no say. To be called in `quiet`.
    """
    first, end = 1 if writes(model) else ids.shape[1], end if trie.ragged else None
    config = _settings(model, trie, beams=max(beams, 2), end=end, pad=pad)
    processor = PrefixTreeLogitsProcessor(trie, first, end=end, pad=pad, exclude=left)
    with plain_settings(model, config):
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([processor]),
        )
    states, _ = trie.walk(made.sequences[:, first:], end)
    scores = made.sequences_scores.float()
    kept = scores.masked_fill((scores < NOTHING) | (states == DEAD), -math.inf)
    return states.view(len(ids), -1), kept.view(len(ids), -1)


def _settings(model: Any, trie: Trie[Item], *, beams: int, end: int | None, pad: int) -> GenerationConfig:
    """Beam search without luck, penalties and heuristics; IDs of one length need no end, which spares a step."""
    own = getattr(model, "generation_config", None)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=trie.depth + (end is not None),
        length_penalty=0.0,
        early_stopping=False,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=getattr(own, "bos_token_id", None),
        decoder_start_token_id=getattr(own, "decoder_start_token_id", None),
        return_dict_in_generate=True,
        output_scores=True,
    )
