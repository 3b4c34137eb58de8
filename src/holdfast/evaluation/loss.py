"""How surprised a model is by rows: the loss of each sequence, and its divergence from a base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from holdfast._errors import BadInput, Unsupported
from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, Batch, Row, collate, digest, documents, learnt, length_sorted_batches
from holdfast.data.store import Folder, Store
from holdfast.params.heads import asked, classifies, speaker

LOGITS = 2**28
"""Most elements of the logits of one batch (1 GiB in float32); batches shrink with the vocabulary."""

PROCESSOR = 1024
"""Most padded tokens of a batch on a processor: larger ones leave its caches, pad more and take up to twice as long."""

CHUNK = 2**24
"""Most elements that are turned into float32 log-probabilities at once (64 MiB)."""

LogitsOf = Callable[[Batch], Any]


@dataclass(frozen=True, eq=False)
class SequenceLosses:
    """Per sequence the summed loss in nats, `total` float64 [n], over `tokens` int64 [n] tokens.

    `documents` int64 [n] numbers the text that each is from; None where each is a text of its own.
    """

    total: Tensor
    tokens: Tensor
    documents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.total)

    def mean(self) -> float:
        """Nats per token over all tokens (a long sequence counts for more)."""
        tokens = int(self.tokens.sum())
        if not tokens:
            raise BadInput("There is no token to score: every label of these rows is -100.")
        return float(self.total.sum()) / tokens

    def first(self, n: int) -> SequenceLosses:
        """Those of the first `n` sequences."""
        return SequenceLosses(self.total[:n], self.tokens[:n], None if self.documents is None else self.documents[:n])

    def by(self, documents: Tensor | None) -> SequenceLosses:
        """The losses of whole documents, which are independent of one another where parts of one are not."""
        if documents is None:
            return self
        n = int(documents.max()) + 1 if len(documents) else 0
        empty = SequenceLosses(torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64))
        empty.total.index_add_(0, documents, self.total)
        empty.tokens.index_add_(0, documents, self.tokens)
        return empty

    def perplexity(self) -> float:
        """exp of `mean`; infinite where that overflows."""
        mean = self.mean()
        return math.exp(mean) if mean < 700 else (math.nan if math.isnan(mean) else math.inf)

    def each(self) -> Tensor:
        """Nats per token of each sequence, float64 [n]; nan where nothing is scored."""
        return self.total / self.tokens.where(self.tokens > 0, torch.nan)


def sequence_losses(
    model: nn.Module, rows: Sequence[Row], *, pad_id: int = 0, batch_tokens: int = 16384
) -> SequenceLosses:
    """The cross-entropy of each row in nats, in the order of `rows`; labels of -100 are left out.

    Of rows for an encoder-decoder the target is scored, of labelled rows the label (it counts as one token). A
    classifier on a language model's backbone answers text as that language model. Batched by length, in evaluation
    mode, without gradient and without autocast; the mode of every submodule is restored. The batches follow from
    lengths, `batch_tokens` and vocabulary alone, so a base and what was made of it are scored alike, and figures for
    any batch size agree to rounding. Raises Unsupported for rows that are not of the model's kind.
    """
    return _scored(model, rows, pad_id, batch_tokens, _cross_entropy)


def sequence_kl(
    model: nn.Module, base_logits: LogitsOf, rows: Sequence[Row], *, pad_id: int = 0, batch_tokens: int = 16384
) -> SequenceLosses:
    """KL(base || model) in nats, summed over the labelled tokens of each row; `each()` is the mean per sequence.

    `base_logits` takes a batch without labels and returns logits [rows, length, vocabulary], or an output that holds
    them; it is called in the same quiet state as the model. On rows that the base wrote, this is the expected rise of
    the loss.
    """

    def divergence(batch: Batch, logits: Tensor, answers: Tensor, kept: Tensor) -> Tensor:
        given = base_logits({k: v for k, v in batch.items() if k != "labels"})
        reference = given if isinstance(given, Tensor) else given.logits
        return torch.cat([_kl(reference[at].float(), logits[at].float()) for at in _chunks(kept, logits.shape[-1])])

    if any("labels" not in row for row in rows):
        raise Unsupported("The divergence from a base is defined for running text, which decoder-only models read.")
    return _scored(model, rows, pad_id, batch_tokens, divergence)


class ScoreCache:
    """Losses of models on rows, kept per item so that a base is scored once; in memory, and on disk where asked.

    Kept under the digest of the model and of the whole list of rows with the batch size: only the same list is
    batched the same way, and a base and its descendants have to be. `folder` is as in `Store` (False: memory only).

    >>> cache = ScoreCache()
    >>> before = cache.losses(base.digest, base.model, probe.rows)   # doctest: +SKIP
    """

    def __init__(self, folder: Folder = False):
        self._store = Store("scores", folder)
        self._held: dict[tuple[str, str, int], SequenceLosses] = {}

    def losses(
        self, model_digest: str, model: nn.Module, rows: Sequence[Row], *, pad_id: int = 0, batch_tokens: int = 16384
    ) -> SequenceLosses:
        """`sequence_losses`, computed only where it is not known; `model_digest` must change with the weights."""
        name = (model_digest, digest(rows), batch_tokens)
        if name not in self._held:
            key = {"version": 1, "model": model_digest, "dtype": str(_dtype(model)), "rows": name[1]}
            key["batch_tokens"] = batch_tokens
            found = self._store.load(key, {"total": (len(rows),), "tokens": (len(rows),)})
            if found is None:
                fresh = sequence_losses(model, rows, pad_id=pad_id, batch_tokens=batch_tokens)
                found = {"total": fresh.total, "tokens": fresh.tokens}
                self._store.save(key, found)
            self._held[name] = SequenceLosses(**found, documents=torch.tensor(documents(rows)))
        return self._held[name]


PerToken = Callable[[Batch, Tensor, Tensor, Tensor], Tensor]


def _scored(
    model: nn.Module, rows: Sequence[Row], pad_id: int, batch_tokens: int, per_token: PerToken
) -> SequenceLosses:
    """Sums of a figure per token; `per_token(batch, logits, answers, kept)` gives those of `kept`.

    `answers` are the labels that the logits predict, and `kept` which of them count, both [rows, positions].
    """
    _refuse(model, rows)
    total = torch.zeros(len(rows), dtype=torch.float64)
    with quiet(model) as device:
        bound = bounded(getattr(model, "config", None), batch_tokens, device)
        for chosen in length_sorted_batches([len(r["input_ids"]) for r in rows], bound):
            batch = {k: v.to(device) for k, v in collate([rows[i] for i in chosen], pad_id).items()}
            with asked(model, batch):
                answers = _answers(model, batch)
                kept = answers != IGNORED
                if bool(kept.any()):
                    figures = per_token(batch, logits_of(model, batch), answers, kept).cpu().double()
                    owners = torch.tensor(chosen)[kept.cpu().nonzero()[:, 0]]
                    total.index_add_(0, owners, figures)  # on the CPU: float64 everywhere, always in the same order
    tokens = torch.tensor([learnt(row) for row in rows], dtype=torch.int64)
    return SequenceLosses(total, tokens, torch.tensor(documents(rows), dtype=torch.int64))


def _refuse(model: nn.Module, rows: Sequence[Row]) -> None:
    """Raise Unsupported for rows of which the model cannot say how likely they are."""
    for row in rows:
        if ("target" in row) != writes(model):
            raise Unsupported("Rows of text are for decoder-only models, pairs of texts for models with an encoder.")
        if "label" in row and not classifies(model):
            raise Unsupported("These rows have labels, and this model has no head that tells labels apart.")
        if "labels" in row and speaker(model) is None:
            raise Unsupported("This model tells labels apart; nothing is left of it that could predict running text.")


def _answers(model: nn.Module, batch: Batch) -> Tensor:
    """The label that each position of the logits predicts [rows, positions]."""
    labels = batch["labels"]
    if labels.ndim == 1:
        return labels[:, None]
    return labels if writes(model) else labels[:, 1:]


def bounded(config: Any, batch_tokens: int, device: torch.device) -> int:
    """Padded tokens of one batch: fewer on a processor, and where the vocabulary makes its logits too large."""
    if device.type == "cpu":
        batch_tokens = min(batch_tokens, PROCESSOR)
    get = getattr(config, "get_text_config", None)
    vocabulary = getattr(get() if callable(get) else config, "vocab_size", None) or 1
    return max(1, min(batch_tokens, LOGITS // vocabulary))


def logits_of(model: nn.Module, batch: Batch, last: int | None = None) -> Tensor:
    """The logits [rows, length, vocabulary] of a batch, without a cache; only an encoder-decoder sees its labels.

    Of a classifier those of the labels, [rows, 1, labels]. What stands before the tokens of the batch (the virtual
    tokens of prompt tuning) is cut off; with `last`, which a model has to know as
    `logits_to_keep`, only those of so many last places are made.
    """
    options: dict[str, Any] = {"use_cache": False} if hasattr(getattr(model, "config", None), "use_cache") else {}
    if last is not None:
        options["logits_to_keep"] = last
    read = batch if writes(model) else {k: v for k, v in batch.items() if k != "labels"}
    outputs = model(**read, **options)
    logits: Tensor = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    if logits.ndim == 2:
        return logits[:, None]
    return logits if writes(model) else logits[:, -(last or batch["input_ids"].shape[1]) :]


def writes(model: nn.Module) -> bool:
    """Whether a decoder of the model writes what its encoder has read."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _cross_entropy(batch: Batch, logits: Tensor, answers: Tensor, kept: Tensor) -> Tensor:
    parts = _chunks(kept, logits.shape[-1])
    return torch.cat([cross_entropy(logits[at].float(), answers[at], reduction="none") for at in parts])


def _kl(base: Tensor, model: Tensor) -> Tensor:
    return kl_div(log_softmax(model, -1), log_softmax(base, -1), reduction="none", log_target=True).sum(-1)


def _chunks(kept: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and positions of the kept tokens, a bounded number at a time."""
    owners, places = kept.nonzero(as_tuple=True)
    size = max(1, CHUNK // vocabulary)
    return ((owners[i : i + size], places[i : i + size]) for i in range(0, len(owners), size))


def _dtype(model: nn.Module) -> torch.dtype | None:
    return next((p.dtype for p in model.parameters()), None)
