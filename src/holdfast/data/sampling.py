"""Text that a base model makes up itself: what it knows, in its own words, for users who have none of its old text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.data.generation import Draws, sample
from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, Row, Rows, separation, start
from holdfast.data.splitting import fresh
from holdfast.data.store import Folder, Store, weights_digest

logger = logging.getLogger(__name__)

ROUNDS = 10
"""How often near-identical rows are replaced before the base is taken at its word."""


@dataclass(frozen=True)
class Sampling:
    """What is sampled: all that decides the rows, beside the weights."""

    n: int
    length: int
    temperatures: tuple[float, ...]
    prompts: str | None
    near_duplicates: bool
    seed: int


def self_generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    length: int,
    temperature: float | Sequence[float] = 1.0,
    prompts: Literal["rare"] | None = None,
    near_duplicates: bool = True,
    seed: int = 0,
    cache: Folder = None,
    digest: str | None = None,
) -> Rows:
    """`n` rows of exactly `length` tokens sampled from the model itself, from BOS on.

    Pure ancestral sampling, no top-k and no top-p: only then is the KL to the base on these rows the expected rise of
    the loss. A model without BOS starts from EOS, one without either from a random token. EOS does not stop: the row
    goes on with the next document, after the BOS that stands there. Tokens that were given, not sampled, bear no loss.

    Variants for a wider view: several temperatures, dealt out in turn; `prompts="rare"`, where each row starts with a
    word that the model seldom begins with; `near_duplicates=False`, where they are replaced by further samples.

    The same seed gives the same rows for any batch size (but for rounding); no random state outside changes. Rows are
    kept in `cache`, a folder (None: `HOLDFAST_CACHE` or `~/.cache/holdfast`; False: nowhere), under the weights'
    `digest` (computed where not given) and all settings.

    Raises BadInput for settings that give no rows, Unsupported for a model that does not predict the next token.
    """
    temperatures = (float(temperature),) if isinstance(temperature, int | float) else tuple(map(float, temperature))
    settings = Sampling(n, length, temperatures, prompts, near_duplicates, seed)
    _check(settings, model)
    store = Store("self", cache)
    origin = {"weights": digest or weights_digest(model), "dtype": str(model.dtype), "start": start(tokenizer)}
    key = {"version": 1, **origin, **asdict(settings)}
    made = store.load(key, {"ids": (n, length), "given": (n, length)})
    if made is None:
        made = _sampled(model, tokenizer, settings)
        store.save(key, made)
    return [_row(ids, given) for ids, given in zip(made["ids"].tolist(), made["given"].tolist(), strict=True)]


def _check(settings: Sampling, model: PreTrainedModel) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unsupported("Only decoder-only models can sample text from nothing; give this one a text file to keep.")
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or settings.length
    if settings.n < 1 or not 2 <= settings.length <= room:
        raise BadInput(
            f"Sampling needs n >= 1 and 2 <= length <= {room} (the positions of the model), "
            f"not n = {settings.n} and length = {settings.length}."
        )
    if not settings.temperatures or min(settings.temperatures) <= 0:
        raise BadInput(f"A sampling temperature is above 0, not {settings.temperatures}.")
    if settings.prompts not in (None, "rare"):
        raise UnknownName("kind of prompts", settings.prompts, ["rare"])


def _row(ids: list[int], given: list[bool]) -> Row:
    return {"input_ids": ids, "labels": [IGNORED if g else token for token, g in zip(ids, given, strict=True)]}


def _sampled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Sampling) -> dict[str, Tensor]:
    """`ids` int32 and `given` bool, [n, length] each."""
    generator = torch.Generator().manual_seed(settings.seed)
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), quiet(model) as device:
        first = _first_tokens(model, tokenizer, settings, device)
        ids, given = _drawn(model, tokenizer, settings, first, generator, settings.n)
        for _ in range(0 if settings.near_duplicates else ROUNDS):
            kept = fresh(ids.tolist())
            if len(kept) < settings.n:
                more = _drawn(model, tokenizer, settings, first, generator, settings.n - len(kept))
                ids, given = torch.cat([ids[kept], more[0]]), torch.cat([given[kept], more[1]])
    if not settings.near_duplicates and len(fresh(ids.tolist())) < settings.n:
        logger.warning("The base repeats itself: near-identical rows remain after %d rounds of samples.", ROUNDS)
    return {"ids": ids.int().cpu(), "given": given.cpu()}


def _drawn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Sampling,
    first: Tensor,
    generator: torch.Generator,
    n: int,
) -> tuple[Tensor, Tensor]:
    """`n` samples; `first` [choices, k] are the beginnings that a row may have."""
    chosen = torch.randint(len(first), (n,), generator=generator)
    uniforms = torch.rand(n, settings.length, dtype=torch.float64, generator=generator)
    cycle = torch.arange(n) % len(settings.temperatures)
    draws = Draws(uniforms, torch.tensor(settings.temperatures, dtype=torch.float64)[cycle, None])
    between = separation(tokenizer)
    follow = (between[0], between[1]) if len(between) == 2 else None
    return sample(model, first[chosen.to(first.device)], draws, length=settings.length, follow=follow)


def _first_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Sampling, device: torch.device
) -> Tensor:
    """What rows may begin with, int64 [choices, k]."""
    begin = start(tokenizer) or separation(tokenizer)[:1]
    if not begin:
        return torch.tensor(_ordinary(tokenizer), device=device)[:, None]
    if settings.prompts is None:
        return torch.tensor([begin], device=device)
    ordinary = torch.tensor(_ordinary(tokenizer), device=device)
    logits = model(input_ids=torch.tensor([begin], device=device)).logits[0, -1]
    seldom = ordinary[logits[ordinary].argsort()][: (len(ordinary) + 1) // 2]
    return torch.cat([torch.tensor([begin], device=device).expand(len(seldom), -1), seldom[:, None]], dim=1)


def _ordinary(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that text of letters is made of: no marks, no lone bytes, nothing the tokenizer would not write."""
    ids = [token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids]
    texts = [str(tokenizer.decode([token])) for token in ids]
    spelt = tokenizer(texts, add_special_tokens=False)["input_ids"]
    words = [t for t, text, s in zip(ids, texts, spelt, strict=True) if text.strip().isalpha() and s[-1:] == [t]]
    return words or ids
