"""Ancestral sampling from a causal model: one token after the other, straight from its own distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

KV_BYTES = 2**30
LOGITS = 2**26
"""Bounds of one batch: bytes of its KV cache, and elements of its logits."""


Script = Callable[[Tensor], Tensor]
"""Told the last token of each row [rows], it says which token must follow, [rows], -1 where any may; called in turn."""

Follow = tuple[int, int] | Callable[[], Script] | None
"""What is given rather than sampled: after the first of a pair the second, or a script that each batch begins anew."""


@dataclass(frozen=True)
class Draws:
    """The luck of a batch: `uniforms` in [0, 1), float64 [rows, length], and `temperature`, float64 [rows, 1].

    Drawn beforehand and per row, so that the rows do not depend on how they are batched.
    """

    uniforms: Tensor
    temperature: Tensor

    def part(self, rows: slice, device: torch.device) -> Draws:
        """The luck of some of the rows, where their model is."""
        return Draws(self.uniforms[rows].to(device), self.temperature[rows].to(device))

    def token(self, logits: Tensor, position: int) -> Tensor:
        """A token per row, [rows, 1], by inverting the distribution function of softmax(logits / temperature)."""
        heights = torch.softmax(logits.double() / self.temperature, dim=-1).cumsum(dim=-1)
        drawn = torch.searchsorted(heights, self.uniforms[:, position, None] * heights[:, -1:], right=True)
        return drawn.clamp_(max=logits.shape[-1] - 1)


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer with its room set aside: the library's own copies all keys at every token, most of the time."""

    def __init__(self, room: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.filled = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all = [x.new_empty(*x.shape[:-2], self.room, x.shape[-1]) for x in (key_states, value_states)]
        end = self.filled + key_states.shape[-2]
        for whole, new in zip(self._all, (key_states, value_states), strict=True):
            whole[..., self.filled : end, :] = new
        self.filled = end
        self.keys, self.values = (whole[..., :end, :] for whole in self._all)
        return self.keys, self.values


def sample(
    model: PreTrainedModel, starts: Tensor, draws: Draws, *, length: int, follow: Follow
) -> tuple[Tensor, Tensor]:
    """Continue `starts` [rows, s] to `length` tokens; returns the ids and which were given, [rows, length] each."""
    size = max(1, min(KV_BYTES // (length * kv_bytes(model)), LOGITS // model.config.get_text_config().vocab_size))
    batches = [slice(i, i + size) for i in range(0, len(starts), size)]
    made = [_sample(model, starts[rows], draws.part(rows, starts.device), length, follow) for rows in batches]
    return torch.cat([ids for ids, _ in made]), torch.cat([given for _, given in made])


def _sample(model: PreTrainedModel, starts: Tensor, draws: Draws, length: int, follow: Follow) -> tuple[Tensor, Tensor]:
    script = _script(follow)
    ids = torch.cat([starts, starts.new_zeros(len(starts), length - starts.shape[1])], dim=1)
    given = torch.arange(length, device=ids.device).expand_as(ids) < starts.shape[1]
    past, begin = _cache(model, length), 0
    for position in range(starts.shape[1], length):
        outputs = model(input_ids=ids[:, begin:position], past_key_values=past, use_cache=True)
        past = outputs.get("past_key_values")
        begin = 0 if past is None else position
        token = draws.token(outputs.logits[:, -1], position)
        if script is not None:
            forced = script(ids[:, position - 1])[:, None]
            token = torch.where(forced >= 0, forced, token)
            given = given | ((forced >= 0) & (torch.arange(length, device=ids.device) == position))
        ids[:, position, None] = token
    return ids, given


def _script(follow: Follow) -> Script | None:
    if not isinstance(follow, tuple):
        return None if follow is None else follow()
    before, after = follow
    return lambda last: torch.where(last == before, after, -1)


def _cache(model: PreTrainedModel, length: int) -> DynamicCache | None:
    """A cache with room for `length` tokens; None lets the model make its own (recurrent states and the like)."""
    if not model._supports_default_dynamic_cache():  # type: ignore[operator]
        return None
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def kv_bytes(model: PreTrainedModel) -> int:
    """Bytes of the KV cache per token; a guess from the width where the config does not say the heads."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    held = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * held * width * model.dtype.itemsize)
