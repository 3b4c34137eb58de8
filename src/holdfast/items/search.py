"""Beam search through a trie, straight on tensors: each prompt is read once, and all of its beams share its cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from holdfast._errors import BadInput
from holdfast.evaluation.loss import writes
from holdfast.evaluation.metrics.branching import takes
from holdfast.items.growing import DEAD, ROOT
from holdfast.items.trie import Item, Left, Trie


@dataclass(frozen=True)
class Beams:
    """The paths that are followed, [prompts, beams]: their states, summed log-probabilities, and how they came about.

    `tokens` are the last ones, `parents` the columns of the beams that they went on from.
    """

    states: Tensor
    scores: Tensor
    tokens: Tensor
    parents: Tensor

    def best(self, count: int) -> Beams:
        """The likeliest, of equals those whose state comes first; as many columns as some prompt needs."""
        by_state = self.states.argsort(dim=1)
        by_score = self.scores.gather(1, by_state).argsort(dim=1, descending=True, stable=True)
        alive = int((self.scores > -math.inf).sum(1).max())
        order = by_state.gather(1, by_score[:, : min(count, alive)])
        return Beams(*(x.gather(1, order) for x in (self.states, self.scores, self.tokens, self.parents)))


class Reading:
    """Prompts in a model's KV cache, and behind each all its beams in one row, token by token.

    A token sees its prompt and the tokens of its own path, by a mask in four dimensions, at the place that it would
    have alone. Nothing is copied or reordered when beams branch, and a prompt's keys are kept once, not once per beam.
    `logits` [prompts, beams, vocabulary] are those after the last tokens.
    """

    def __init__(self, model: Any, ids: Tensor, mask: Tensor):
        self._model = model
        self._place = mask.sum(1, keepdim=True)
        self._seen = mask.bool()[:, None]
        options = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
        places = (mask.cumsum(1) - 1).clamp_min(0)
        outputs = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, **options)
        self._cache, self.logits = outputs.past_key_values, outputs.logits[:, -1:]

    def read(self, beams: Beams) -> None:
        """Take every path a token further."""
        width = beams.tokens.shape[1]
        seen = self._seen.gather(1, beams.parents[..., None].expand(-1, -1, self._seen.shape[2]))
        own = torch.eye(width, dtype=torch.bool, device=seen.device).expand(len(seen), -1, -1)
        self._seen = torch.cat([seen, own], dim=2)
        dtype = self.logits.dtype
        mask = torch.zeros(self._seen.shape, dtype=dtype, device=seen.device)
        mask.masked_fill_(~self._seen, torch.finfo(dtype).min)
        outputs = self._model(
            input_ids=beams.tokens,
            attention_mask=mask[:, None],
            position_ids=self._place.expand(-1, width),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._place = self._place + 1
        self._cache, self.logits = outputs.past_key_values, outputs.logits


def search(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    trie: Trie[Item],
    left: Left,
    *,
    beams: int,
    wanted: int | None,
    end: int | None,
) -> tuple[Tensor, Tensor]:
    """The likeliest paths after each prompt: states where IDs end [prompts, n], log-probabilities (-inf for none).

    `ids` and `mask` [prompts, length] are padded on the left; `left` says what is left of the trie for each prompt.
    Log-probabilities are float32 and of the whole vocabulary; where an ID is the beginning of another, that of `end`
    after it counts too, so that all of them together stay below 1. At most `beams` paths are followed; the search ends
    as soon as the `wanted` best of each prompt stand (None: when all is read). Every path that is followed leads to an
    item that is left, so at least min(beams, paths left, wanted) are found. Exact where `beams` is no smaller than the
    number of paths. To be called in `quiet`, for models that `follows`. Raises BadInput for logits that are no numbers.
    """
    reading = Reading(model, ids, mask)
    trie.fits(reading.logits.shape[-1])
    beam = Beams(*(x.new_full((len(ids), 1), ROOT) for x in (ids, reading.logits.float(), ids, ids)))
    states, scores = [beam.states[:, :0]], [beam.scores[:, :0]]
    while True:
        log_total = _log_total(reading.logits)
        if end is not None:
            final = trie.branching[beam.states] & left.here.gather(1, beam.states)
            states.append(beam.states)
            scores.append((beam.scores + reading.logits[..., end].float() - log_total).where(final, -math.inf))
        beam = _branched(beam, reading.logits, log_total, trie, left).best(beams)
        leaves = ~trie.branching[beam.states]
        states.append(beam.states)
        scores.append(beam.scores.where(leaves, -math.inf))
        beam = Beams(beam.states, beam.scores.masked_fill(leaves, -math.inf), beam.tokens, beam.parents).best(beams)
        if not beam.states.numel() or _settled(torch.cat(scores, 1), beam, wanted):
            return torch.cat(states, 1), torch.cat(scores, 1)
        reading.read(beam)


def _log_total(logits: Tensor) -> Tensor:
    """What a logit exceeds its log-probability by, float32 [prompts, beams]."""
    found = logits.float().logsumexp(-1)
    if bool(found.isnan().any()):
        raise BadInput("The model's logits are no numbers (nan), so that no item is likelier than another.")
    return found


def _branched(beam: Beams, logits: Tensor, log_total: Tensor, trie: Trie[Item], left: Left) -> Beams:
    """All ways on from each beam, [prompts, beams * branches]; what leads to nothing that is left scores -inf."""
    tokens, children = trie.allowed(beam.states)
    scores = beam.scores[..., None] + logits.gather(-1, tokens).float() - log_total[..., None]
    parents = torch.arange(children.shape[1], device=children.device)[None, :, None].expand_as(children)
    states = children.flatten(1)
    kept = (states > DEAD) & left.below.gather(1, states.clamp_min(ROOT))
    return Beams(
        states.clamp_min(ROOT), scores.flatten(1).where(kept, -math.inf), tokens.flatten(1), parents.flatten(1)
    )


def _settled(found: Tensor, beam: Beams, wanted: int | None) -> bool:
    """Whether so many paths of each prompt are likelier than all that are still followed; a path only gets less."""
    if wanted is None or found.shape[1] < wanted:
        return False
    worst = found.topk(wanted, dim=1).values[:, -1]
    best = beam.scores.max(1).values
    return bool(((worst > best) | (best == -math.inf)).all())


def follows(model: Any) -> bool:
    """Whether a model is of a kind that reads beams behind one another as `Reading` lays them out.

    Not so are encoder-decoders, models with windows, recurrence or places told by distance, attention that takes no
    mask, and adapters of virtual tokens.
    """
    config = model.config.get_text_config()
    if writes(model) or virtual(model):
        return False
    if getattr(config, "_attn_implementation", None) not in ("eager", "sdpa") or getattr(config, "alibi", False):
        return False
    layers = DynamicCache(config=config).layers
    return takes(model, "position_ids") and all(type(layer) is DynamicLayer for layer in layers)


def virtual(model: Any) -> int:
    """Virtual tokens that an adapter puts before every text (prompt tuning, prefix tuning, p-tuning)."""
    return int(getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0)
