"""The certificate's figures and verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from holdfast.data.probes import Probe
from holdfast.evaluation.certificate import Audited, certify, verdict
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.plain import finite, write_json
from holdfast.evaluation.statistics import Interval
from tests.models import VOCABULARY, build


def interval(mean: float, upper: float, n: int = 100) -> Interval:
    se = (upper - mean) / 1.645
    return Interval(mean, mean - 1.96 * se, mean + 1.96 * se, upper, se, n)


@pytest.mark.parametrize(
    ("mean", "upper", "said"),
    [
        (-0.10, -0.05, "holds"),
        (0.00, 0.00, "holds"),
        (0.01, math.log1p(0.02), "holds"),
        (0.01, 0.0199, "undecided"),
        (math.log1p(0.02), 0.03, "broken"),
        (0.05, 0.06, "broken"),
        (math.inf, math.inf, "broken"),
        (math.nan, math.nan, "broken"),
    ],
)
def test_the_verdict_is_about_the_bound_not_the_mean(mean: float, upper: float, said: str) -> None:
    assert verdict(interval(mean, upper), 0.02)[0] == said


def test_undecided_says_how_many_sequences_would_settle_it() -> None:
    rise = interval(0.01, 0.03, n=100)
    said, needs = verdict(rise, 0.02)
    assert said == "undecided" and needs is not None
    # The bound shrinks with the root of the number: with that many it just reaches the limit.
    assert 0.01 + 0.02 * math.sqrt(100 / needs) == pytest.approx(math.log1p(0.02), rel=1e-2)
    assert verdict(interval(0.01, math.log1p(0.02) + 1e-9), 0.02) == ("undecided", 101)


def test_without_a_budget_there_is_no_verdict() -> None:
    assert verdict(interval(9.0, 9.1), None) == (None, None)


def rows(n: int, seed: int) -> list[dict[str, list[int]]]:
    ids = torch.randint(3, VOCABULARY, (n, 10), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": row, "labels": list(row)} for row in ids]


def audited(model: torch.nn.Module, name: str, seed: int, budget: float | None = None) -> Audited:
    probe = Probe(name, rows(12, seed), f"made up from seed {seed}")
    return Audited(probe, sequence_losses(model, probe.rows), budget)


def test_a_model_that_did_not_move_holds_exactly() -> None:
    model = build("llama")
    told = certify(model, [audited(model, "old", 1, 0.02)], [audited(model, "new", 2)])
    (kept,) = told["kept"]
    assert told["verdict"] == "holds" and told["budget"] == {"old": 0.02}
    assert kept["rise"] == kept["low"] == kept["upper"] == 0.0 and kept["ratio"] == kept["ratio_upper"] == 1.0
    assert kept["n"] == 12 and kept["tokens"] == 12 * 9 and kept["source"] == "made up from seed 1"
    assert told["learnt"][0]["gain"] == 0.0


def test_figures_are_those_of_the_rows_and_the_worst_text_decides() -> None:
    model = build("llama", tied=False)
    old, older, new = audited(model, "old", 1, 0.5), audited(model, "older", 3, 1e-6), audited(model, "new", 2)
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
    after = [sequence_losses(model, a.probe.rows) for a in (old, older, new)]
    told = certify(model, [old, older], [new])
    for entry, before, now in zip([*told["kept"], *told["learnt"]], (old, older, new), after, strict=True):
        rise = float((now.total - before.before.total).sum() / now.tokens.sum())
        assert entry.get("rise", -entry.get("gain", math.nan)) == pytest.approx(rise)
    assert told["kept"][0]["ratio"] == pytest.approx(math.exp(told["kept"][0]["rise"]))
    assert [entry["verdict"] for entry in told["kept"]] == ["holds", "broken"]
    assert told["verdict"] == "broken"
    learnt = told["learnt"][0]
    assert learnt["perplexity"] == pytest.approx(after[2].perplexity())
    assert learnt["perplexity_low"] < learnt["perplexity"] < learnt["perplexity_high"]
    assert learnt["low"] < learnt["gain"] < learnt["high"]


def test_json_is_whole_and_valid_whatever_the_figures(tmp_path: Path) -> None:
    target = tmp_path / "certificate.json"
    target.write_text("before")
    write_json({"a": math.inf, "b": [math.nan, 1.5], "c": {"d": -math.inf}}, target)
    strict = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"a": None, "b": [None, 1.5], "c": {"d": None}}
    with pytest.raises(TypeError):
        write_json({"a": object()}, target)
    assert json.loads(target.read_text()) == strict and len(list(tmp_path.iterdir())) == 1
    assert finite((1, "x")) == [1, "x"]


def test_a_diverged_model_breaks_its_certificate() -> None:
    model = build("llama", tied=False)
    old = audited(model, "old", 1, 0.5)
    broken = SequenceLosses(old.before.total, old.before.tokens)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.inf)
    told = certify(model, [Audited(old.probe, broken, 0.5)], [])
    assert told["verdict"] == "broken" and told["kept"][0]["needs"] is None
