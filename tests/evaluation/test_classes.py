"""Accuracy and macro-F1 against scikit-learn, whatever the batches."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from holdfast._errors import Unsupported
from holdfast.adapters.head import classifier
from holdfast.data.rows import Row
from holdfast.evaluation.classes import accuracy, class_entry, confusion, constant, label_logits, macro_f1
from holdfast.evaluation.loss import sequence_losses
from tests.models import ARCHITECTURES, build

NAMES = ("a", "b", "c", "d")


def some_rows(count: int = 40, seed: int = 0) -> list[Row]:
    """Rows of one to twenty tokens, with labels of which the last never occurs."""
    draw = random.Random(seed)
    lengths = (draw.randrange(1, 21) for _ in range(count))
    return [{"input_ids": [draw.randrange(3, 96) for _ in range(n)], "label": [draw.randrange(3)]} for n in lengths]


def model(arch: str) -> Any:
    return classifier(build(arch), NAMES, seed=1)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    right, told = draw.integers(0, 4, 30), draw.integers(0, 3, 30)
    assert accuracy(right, told).figure == pytest.approx(accuracy_score(right, told))
    assert macro_f1(right, told, 6).figure == pytest.approx(f1_score(right, told, average="macro"))
    assert (confusion(right, told, 4) == confusion_matrix(right, told, labels=range(4))).all()
    chosen = draw.integers(0, 30, 12)  # a resample
    sums = macro_f1(right, told, 6).stats[chosen].sum(axis=0)
    theirs = f1_score(right[chosen], told[chosen], average="macro")
    assert float(macro_f1(right, told, 6).reduce(sums)) == pytest.approx(theirs)


@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if a != "t5"])
def test_the_batch_changes_no_logit_and_the_loss_is_that_of_the_label(arch: str) -> None:
    made, rows = model(arch), some_rows()
    one = label_logits(made, rows, batch_tokens=1)
    assert torch.allclose(label_logits(made, rows), one, atol=1e-6)
    with torch.no_grad():
        alone = torch.cat([made(torch.tensor([row["input_ids"]])).logits for row in rows])
    assert torch.allclose(one, alone, atol=1e-6)
    labels = torch.tensor([row["label"][0] for row in rows])
    theirs = torch.nn.functional.cross_entropy(alone, labels, reduction="none")
    losses = sequence_losses(made, rows)
    assert torch.allclose(losses.total.float(), theirs, atol=1e-5) and losses.tokens.tolist() == [1] * len(rows)


def test_the_entry_of_a_certificate_says_what_scikit_learn_says() -> None:
    made, rows = model("llama"), some_rows()
    told = label_logits(made, rows).argmax(-1).tolist()
    right = [row["label"][0] for row in rows]
    entry = class_entry(made, rows)
    assert entry["accuracy_low"] <= entry["accuracy"] == accuracy_score(right, told) <= entry["accuracy_high"]
    assert entry["macro_f1"] == pytest.approx(f1_score(right, told, average="macro"))
    assert entry["majority"] == max(map(right.count, range(4))) / len(rows)
    theirs = precision_recall_fscore_support(right, told, labels=range(4), zero_division=0)
    for key, figures in zip(("precision", "recall", "f1", "n"), theirs, strict=True):
        assert [entry["classes"][i][key] or 0 for i in range(4)] == pytest.approx(figures.tolist())
    assert [c["label"] for c in entry["classes"]] == list(NAMES)
    assert class_entry(build("llama"), [{"input_ids": [5, 6], "labels": [5, 6]}]) == {}


def test_the_constant_guess_is_the_entropy_of_the_shares() -> None:
    rows: list[Row] = [{"input_ids": [5], "label": [label]} for label in (0, 0, 0, 1)]
    wanted = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert constant(rows, [0.75, 0.25]).mean() == pytest.approx(wanted)


def test_rows_and_models_of_different_kinds_are_refused() -> None:
    with pytest.raises(Unsupported, match="no head"):
        sequence_losses(build("llama"), some_rows(1))
    with pytest.raises(Unsupported, match="tells labels apart"):
        sequence_losses(model("bert"), [{"input_ids": [5, 6], "labels": [5, 6]}])
