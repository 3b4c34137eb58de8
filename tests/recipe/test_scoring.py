"""How well a model predicts texts."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from holdfast._errors import BadInput
from holdfast.base import load_base
from holdfast.evaluation.loss import sequence_losses
from holdfast.recipe import render_scores, score
from tests.recipe.small import texts


@pytest.fixture
def shaken(tmp_path: Path) -> Path:
    """The embedded model with its last norm a little off."""
    base = load_base("tiny")
    base.model.get_parameter("model.norm.weight").data.mul_(0.9)
    base.model.save_pretrained(tmp_path / "shaken")
    base.tokenizer.save_pretrained(tmp_path / "shaken")
    return tmp_path / "shaken"


def test_a_score_is_the_mean_loss_and_the_paired_difference(tmp_path: Path, shaken: Path) -> None:
    old = texts(tmp_path)["old"]
    alone = score("tiny", [old], length=32, rows=40)[0]
    base, tuned = load_base("tiny"), load_base(shaken)
    before, after = (sequence_losses(b.model, alone.probe.rows).mean() for b in (base, tuned))
    assert alone.loss.mean == pytest.approx(before) and alone.rise is None and alone.loss.n == 40
    assert alone.loss.low < alone.loss.mean < alone.loss.high
    both = score(shaken, [old, "self"], base="tiny", length=32, rows=40)
    assert both[0].rise is not None and both[0].rise.mean == pytest.approx(after - before)
    assert [s.probe.name for s in both] == [old, "self"]
    out = io.StringIO()
    Console(file=out, width=120).print(render_scores(both))
    assert f"{math.exp(after):.2f}" in out.getvalue() and "self" in out.getvalue()


def test_models_with_other_tokenizers_do_not_compare(tmp_path: Path, shaken: Path) -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")))
    other.save_pretrained(shaken)
    with pytest.raises(BadInput, match="different tokenizers"):
        score(shaken, ["tiny/stories"], base="tiny")
