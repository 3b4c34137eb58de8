"""Conversations that a chat model holds with itself: it is given an empty question, and answers what it makes of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput, Unsupported
from holdfast.data.generation import Draws, sample
from holdfast.data.quality import SHORTEST, sound
from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, Row, Rows, start, tokens
from holdfast.data.store import Folder, Store, weights_digest

logger = logging.getLogger(__name__)

ROUNDS = 6
"""How often as many conversations are sampled as are still lacking."""

MARK = "\u2603\u2603"
"""Stands for what somebody says, to see what a template puts around it."""


@dataclass(frozen=True)
class Frame:
    """What a chat template puts around a question and its answer: before, between, and the tokens that end it."""

    opening: tuple[int, ...]
    between: tuple[int, ...]
    ends: frozenset[int]


def conversations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    cache: Folder = None,
    digest: str | None = None,
) -> Rows:
    """At most `n` rows of one question and one answer each, both by the model, in its own chat template.

    It is given what stands before a question, so it writes one; where it ends it, it is given what stands before an
    answer. Only the answer and its end are learnt. Rows are up to `length` tokens long; those whose answer does not
    come, or is not `sound`, are sampled anew a few times, and then left out with a warning. Xu et al. (2024), "Magpie",
    arXiv:2406.08464.

    Seed, `cache` and `digest` are as in `self_generated`. Raises BadInput where there is no chat template, Unsupported
    where questions end in ordinary text, so that nobody can say when one does.
    """
    frame = framed(tokenizer)
    room = length - len(frame.opening) - len(frame.between) - SHORTEST
    if n < 1 or room < 1:
        raise BadInput(f"A conversation of {length} tokens has no room in this chat template; make rows longer.")
    store = Store("chat", cache)
    key = {"version": 1, "weights": digest or weights_digest(model), "dtype": str(model.dtype), "length": length}
    key |= {"frame": [frame.opening, frame.between], "temperature": temperature, "seed": seed}
    kept: Rows = []
    for turn in range(ROUNDS):
        shape = (n - len(kept), length)
        drawn = store.load({**key, "round": turn, "n": shape[0]}, {"ids": shape})
        if drawn is None:
            drawn = {"ids": _drawn(model, frame, shape, temperature, seed * ROUNDS + turn)}
            store.save({**key, "round": turn, "n": shape[0]}, drawn)
        kept = sound([*kept, *(row for ids in drawn["ids"].tolist() if (row := cut(ids, frame)))])
        if len(kept) >= n:
            return kept
    logger.warning("Of %d conversations the model ended %d in a way that can be used.", n, len(kept))
    return kept


def framed(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What the tokenizer's chat template puts around a question and its answer."""
    if not tokenizer.chat_template:
        raise BadInput("A conversation needs a chat template, and the tokenizer of this base has none: use `self`.")
    asked = [{"role": "user", "content": MARK}]
    prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": MARK}], tokenize=False))
    before, found, after = prompt.partition(MARK)
    ending = whole.rpartition(MARK)[2]
    between, ends = tokens(tokenizer, after), tokens(tokenizer, ending)[:1]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if not found or not between or between[0] not in special:
        raise Unsupported(
            "This chat template ends a question with ordinary text, so its end cannot be seen: use `self`."
        )
    opening = tokens(tokenizer, before) or start(tokenizer)
    if not opening:
        raise Unsupported("This chat template puts nothing before a question, so nothing can be given: use `self`.")
    closing = {token for token in [tokenizer.eos_token_id, *ends] if token in special}
    return Frame(tuple(opening), tuple(between), frozenset(closing))


def cut(ids: Sequence[int], frame: Frame) -> Row | None:
    """A sampled row up to the end of its answer, or as far as it came; None where the question never ended."""
    question = ids[len(frame.opening) :]
    if frame.between[0] not in question:
        return None
    answer = len(frame.opening) + list(question).index(frame.between[0]) + len(frame.between)
    end = next((i + 1 for i in range(answer, len(ids)) if ids[i] in frame.ends), len(ids))
    return {"input_ids": list(ids[:end]), "labels": [IGNORED] * min(answer, end) + list(ids[answer:end])}


class _Between:
    """After the token that ends the first question, the rest of what stands between it and its answer."""

    def __init__(self, between: Sequence[int]):
        self._between = between
        self._said: Tensor | None = None

    def __call__(self, last: Tensor) -> Tensor:
        between = torch.tensor(self._between, device=last.device)
        said = torch.zeros_like(last) if self._said is None else self._said
        said = torch.where((said == 0) & (last == between[0]), 1, said)
        inside = (said > 0) & (said < len(between))
        forced = torch.where(inside, between[said.clamp(max=len(between) - 1)], -1)
        self._said = said + inside.long()
        return forced


def _drawn(model: PreTrainedModel, frame: Frame, shape: tuple[int, int], temperature: float, seed: int) -> Tensor:
    """Conversations, int32 [n, length], sampled to their full length."""
    n, length = shape
    uniforms = torch.rand(n, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    luck = Draws(uniforms, torch.full((n, 1), temperature, dtype=torch.float64))
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), quiet(model) as device:
        starts = torch.tensor([frame.opening] * n, device=device)
        ids, _ = sample(model, starts, luck, length=length, follow=lambda: _Between(frame.between))
    return ids.int().cpu()
