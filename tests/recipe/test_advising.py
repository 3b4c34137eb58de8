"""What the freeze advisor measures, and which row of the guide's table it reads."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.evaluation.statistics import Interval
from holdfast.params.inventory import inventory
from holdfast.params.select import matched, parse
from holdfast.recipe import advise, render_advice
from holdfast.recipe.advising import GUIDE, Advice, shared
from tests.models import build
from tests.recipe.small import texts


def loss(mean: float) -> Interval:
    return Interval(mean, mean, mean, mean, 0.0, 9)


ADVICE = Advice("m", 3_000_000_000, 40, loss(2.0), loss(2.0), 0.8, 0.8, "x, beside y")


def test_similarity_is_made_of_perplexities_and_tokens() -> None:
    unlike = replace(ADVICE, new=loss(2.0 + math.log(4)), overlap=0.2)
    assert unlike.closeness == pytest.approx(0.25) and unlike.vocabulary == pytest.approx(0.25)
    assert ADVICE.similarity == 1.0 and unlike.similarity == pytest.approx(0.25)
    assert replace(ADVICE, new=loss(1.0), overlap=0.9).similarity == 1.0


@pytest.mark.parametrize(
    ("parameters", "similarity", "freeze", "blocks"),
    [
        (0.5e9, 0.9, (0.5, 0.6), 22),
        (3e9, 0.6, (0.6, 0.7), 26),
        (3e9, 0.1, (0.7, 0.8), 30),
        (7e9, 0.81, (0.7, 0.8), 30),
        (13e9, 0.51, (0.8, 0.9), 34),
        (13e9, 0.2, (0.85, 0.95), 36),
        (70e9, 0.9, (0.8, 0.9), 34),
        (70e9, 0.7, (0.9, 0.95), 37),
        (70e9, 0.3, (0.95, 0.99), 38),
    ],
)
def test_the_row_is_that_of_size_and_similarity(
    parameters: float, similarity: float, freeze: tuple[float, float], blocks: int
) -> None:
    advice = replace(ADVICE, parameters=int(parameters), new=loss(2.0 - 2 * math.log(similarity)))
    assert advice.similarity == pytest.approx(similarity)
    assert advice.row.freeze == pytest.approx(freeze) and advice.frozen == blocks
    assert advice.row in GUIDE and len(GUIDE) == 9


def test_what_it_says_to_freeze_is_a_selection() -> None:
    params = inventory(build("llama"))
    chosen = matched(parse(replace(ADVICE, blocks=3).select), params)
    assert {p.layer for p in chosen} == {None, 0} and any("embedding" in p.components for p in chosen)


def test_shared_is_what_two_distributions_have_in_common() -> None:
    def rows(*ids: int) -> list[dict[str, list[int]]]:
        return [{"input_ids": list(ids), "labels": list(ids)}]

    assert shared(rows(1, 2, 3), rows(3, 1, 2)) == pytest.approx(1.0)
    assert shared(rows(1), rows(2)) == 0.0
    assert shared(rows(1, 2), rows(2, 2, 2, 3)) == shared(rows(2, 2, 2, 3), rows(1, 2)) == 0.5


def test_plays_are_less_like_stories_than_stories_are(tmp_path: Path) -> None:
    files = texts(tmp_path)
    alike = advise("tiny", files["old"], old=files["old"], rows=16, length=32)
    plays = advise("tiny", files["new"], old=files["old"], rows=16, length=32)
    assert alike.closeness == 1.0 and alike.similarity > plays.similarity
    assert plays.new.mean > plays.old.mean
    out = io.StringIO()
    Console(file=out, width=140).print(render_advice(plays))
    told = out.getvalue()
    assert "the guide's table 6.3, not measured here" in told and plays.select in told
    assert f"{plays.new.mean:.3f} nats per token" in told and "nearest row for a smaller model" in told
