"""Mistakes that evaluations are known for, each with the case that shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast._errors import BadInput
from holdfast.base import Base, load_base
from holdfast.data.formats import Completion
from holdfast.evaluation.change import change, flips, guessed
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.metrics import metrics
from holdfast.evaluation.metrics.answers import answers
from holdfast.evaluation.metrics.written import refuses
from holdfast.evaluation.scored import Scored, of_losses, shares
from holdfast.evaluation.statistics import Interval
from holdfast.evaluation.suites import load_suite


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def test_answers_of_which_none_flipped_are_no_proof_that_none_would() -> None:
    right = shares(np.ones(40))
    found = change(right, right)
    assert found.worse.mean == 0 and found.worse.upper > 0.03 and found.verdict() == "undecided"
    many = shares(np.ones(400))
    assert change(many, many).verdict() == "kept"


def test_two_lost_answers_are_no_proof_of_forgetting() -> None:
    assert change(shares(np.ones(2)), shares(np.zeros(2))).verdict() == "undecided"
    assert change(shares(np.ones(40)), shares(np.r_[np.zeros(20), np.ones(20)])).verdict() == "forgot"


def test_the_interval_of_flips_is_that_of_agresti_and_min() -> None:
    """Worked by hand: 9 lost and 3 gained of 100, half an answer in each of four cells."""
    found, centre = flips(9, 3, 100)
    assert centre == pytest.approx(6 / 102)
    assert found.se == pytest.approx(np.sqrt(13 - 36 / 102) / 102)
    assert found.mean == pytest.approx(0.06) and found.low < 0.06 < found.high


def test_a_figure_that_is_no_number_any_more_is_infinitely_worse() -> None:
    before = of_losses(SequenceLosses(torch.ones(9, dtype=torch.float64), torch.ones(9, dtype=torch.int64)))
    after = replace(before, stats=before.stats * [np.nan, 1])
    found = change(before, after)
    assert found.worse.mean == np.inf and found.verdict() == "forgot" and np.isnan(found.p)


def test_a_model_without_numbers_has_chosen_nothing(base: Base) -> None:
    broken = load_base("tiny").model
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    tasks = [Completion("One day, the", " cat", (" cat", " zx")), Completion("A", " dog", (" dog", " of"))]
    assert metrics["choice_accuracy"](broken, base.tokenizer, tasks).figure == 0.0


def test_perplexity_has_the_margin_of_its_loss() -> None:
    tokens = torch.full((200,), 10, dtype=torch.int64)
    nats = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 29
    losses = [of_losses(SequenceLosses(nats + more, tokens)) for more in (0.0, 0.026)]
    exponential = [Scored(x.stats, lambda s: np.exp(s[..., 0] / s[..., 1]), "perplexity", False) for x in losses]
    (one, two) = (change(*pair) for pair in (losses, exponential))
    assert one.worse.mean == pytest.approx(two.worse.mean) and one.verdict() == two.verdict() == "kept"


def test_what_is_drawn_does_not_depend_on_the_batch(base: Base) -> None:
    tasks = [Completion(prompt, "") for prompt in ("One day, the", "Lily", "Tom and his mom went to")]
    draw = {"max_new_tokens": 8, "stop": (), "temperature": 1.0, "seed": 3}
    together = answers(base.model, base.tokenizer, tasks, **draw)  # type: ignore[arg-type]
    apart = answers(base.model, base.tokenizer, tasks, batch_tokens=1, **draw)  # type: ignore[arg-type]
    assert together == apart == answers(base.model, base.tokenizer, tasks, **draw)  # type: ignore[arg-type]
    assert together != answers(base.model, base.tokenizer, tasks, **{**draw, "seed": 4})  # type: ignore[arg-type]


def test_the_models_own_settings_bend_nothing_but_its_ends_count(base: Base) -> None:
    model, task = load_base("tiny").model, Completion("Once upon a time, there was a", "")
    plain = answers(model, base.tokenizer, [task], max_new_tokens=6, stop=())
    first = base.tokenizer(plain[0], add_special_tokens=False)["input_ids"][0]
    model.generation_config.suppress_tokens = [first]
    assert answers(model, base.tokenizer, [task], max_new_tokens=6, stop=()) == plain
    assert model.generation_config.suppress_tokens == [first]
    model.generation_config.eos_token_id = [first]
    assert answers(model, base.tokenizer, [task], max_new_tokens=6, stop=()) == [""]


def test_cut_answers_count_only_what_was_scored(base: Base) -> None:
    tasks = [Completion("", " the cat sat on the mat" * times) for times in (10, 400)]
    short, long = metrics["bits_per_character"](base.model, base.tokenizer, tasks).each().tolist()
    assert long == pytest.approx(short, rel=0.5)


def test_a_refusal_is_told_by_its_verb_and_not_by_a_word() -> None:
    asked = Completion("", "refuse")
    assert refuses("I can't fulfill that request.", asked) == 1.0
    assert refuses("Wear gloves to protect against heat.", asked) == 0.0


def test_what_nobody_knew_is_neither_kept_nor_forgotten() -> None:
    nothing = Interval(0.0, 0.0, 0.0, 0.0, 0.0, 40)
    assert guessed(nothing, None) and guessed(Interval(0.3, 0.22, 0.4, 0.38, 0.04, 100), 0.25)
    assert not guessed(Interval(0.5, 0.4, 0.6, 0.58, 0.05, 100), 0.25)


def test_an_empty_list_is_no_knowledge(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(json.dumps([]))
    with pytest.raises(BadInput, match="empty"):
        _ = load_suite(tmp_path / "empty.json").records
