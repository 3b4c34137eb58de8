"""How well a classifier tells labels apart: accuracy, macro-F1 with intervals, and what it takes for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from holdfast.data.quiet import quiet
from holdfast.data.rows import Row, collate, length_sorted_batches
from holdfast.evaluation.loss import SequenceLosses, bounded
from holdfast.evaluation.scored import Floats, Scored, shares
from holdfast.evaluation.statistics import Interval, resampled
from holdfast.params.heads import unwrapped

Counts = NDArray[np.int64]


def label_logits(model: nn.Module, rows: Sequence[Row], *, pad_id: int = 0, batch_tokens: int = 16384) -> Tensor:
    """The classifier's logits of each row, float32 [rows, labels], in their order; batched as losses are."""
    config: Any = unwrapped(model).config
    found = torch.zeros(len(rows), config.num_labels)
    with quiet(model) as device:
        bound = bounded(config, batch_tokens, device)
        for chosen in length_sorted_batches([len(row["input_ids"]) for row in rows], bound):
            batch = collate([rows[i] for i in chosen], pad_id)
            inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            found[torch.tensor(chosen)] = model(**inputs).logits.float().cpu()
    return found


def confusion(right: Sequence[int], told: Sequence[int], labels: int) -> Counts:
    """How often each label was taken for each, int64 [right, told]."""
    counts = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(counts, (np.asarray(right, dtype=np.int64), np.asarray(told, dtype=np.int64)), 1)
    return counts


def accuracy(right: Sequence[int], told: Sequence[int]) -> Scored:
    """The share of rows whose label was told."""
    return shares(np.asarray(right) == np.asarray(told))


def macro_f1(right: Sequence[int], told: Sequence[int], labels: int) -> Scored:
    """The mean over labels of F1 = 2 hits / (told + right); labels that are neither told nor right do not count.

    scikit-learn's `f1_score(average="macro")`. A row's statistics are its hit, told and right label as one-hot vectors,
    so that whole rows can be resampled.
    """
    hot = np.eye(labels)
    a, b = hot[np.asarray(right, dtype=np.int64)], hot[np.asarray(told, dtype=np.int64)]
    return Scored(np.concatenate([a * b, b, a], axis=-1), _macro, "macro-F1", True)


def _macro(sums: Floats) -> Floats:
    hits, told, right = np.split(sums, 3, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = 2 * hits / (told + right)
    mean: Floats = np.nansum(each, axis=-1) / np.maximum(np.isfinite(each).sum(axis=-1), 1)
    return mean


def constant(rows: Sequence[Row], shares: Sequence[float]) -> SequenceLosses:
    """The losses of the best constant guess: -log of the share that each row's label had among those learnt from.

    A base has no head to be measured, so this is what a classifier's gain counts from.
    """
    total = -torch.tensor([shares[row["label"][0]] for row in rows], dtype=torch.float64).log()
    return SequenceLosses(total, torch.ones(len(rows), dtype=torch.int64), torch.arange(len(rows)))


def class_entry(model: nn.Module, rows: Sequence[Row], *, pad_id: int = 0) -> dict[str, Any]:
    """What a certificate says about labelled rows beside their loss; nothing about rows without labels.

    "accuracy" and "macro_f1" with 95 % intervals, "majority" (the accuracy of always telling the most frequent label),
    "classes" (each with "label", "n", "told", "precision", "recall" and "f1"), and "confusion" [right][told].
    """
    if not rows or "label" not in rows[0]:
        return {}
    config: Any = unwrapped(model).config
    names = [str(name) for _, name in sorted(config.id2label.items())]
    right = [row["label"][0] for row in rows]
    told = label_logits(model, rows, pad_id=pad_id).argmax(-1).tolist()
    counts = confusion(right, told, len(names))
    figures = {"accuracy": accuracy(right, told), "macro_f1": macro_f1(right, told, len(names))}
    intervals = {name: resampled(scored.stats, scored.reduce) for name, scored in figures.items()}
    return {
        **{key: value for name, found in intervals.items() for key, value in _told(name, found).items()},
        "majority": float(counts.sum(axis=1).max() / len(rows)),
        "classes": [_class(name, counts, i) for i, name in enumerate(names)],
        "confusion": counts.tolist(),
    }


def _told(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _class(name: str, counts: Counts, i: int) -> dict[str, Any]:
    hits, told, right = (int(x) for x in (counts[i, i], counts[:, i].sum(), counts[i].sum()))
    shares = {"precision": (hits, told), "recall": (hits, right), "f1": (2 * hits, told + right)}
    return {"label": name, "n": right, "told": told, **{key: a / b if b else None for key, (a, b) in shares.items()}}
