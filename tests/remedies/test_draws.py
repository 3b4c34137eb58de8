"""Prioritised drawing: chances in proportion, outliers capped, the rest in turn, the same after a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput, UnknownName
from holdfast.data.rows import Row
from holdfast.evaluation.loss import sequence_losses
from holdfast.remedies.draws import Prioritised, Shuffled, capped, drawing, increase, loss
from holdfast.remedies.replay import Replay
from holdfast.run import Run
from tests.test_every_rule import ROWS, batches, model_of, started

first = torch.Generator().manual_seed


def by_first(run: Run, rows: Sequence[Row]) -> list[float]:
    return [float(row["input_ids"][0]) for row in rows]


def numbered(count: int) -> list[Row]:
    return [{"input_ids": [i, 1], "labels": [i, 1]} for i in range(count)]


def test_weights_are_capped_at_the_quantile_that_numpy_finds() -> None:
    found = torch.tensor([1.0, 5.0, 2.0, 3.0, 1000.0, 4.0, -2.0, float("nan"), float("inf")])
    clean = np.array([1, 5, 2, 3, 1000, 4, 0, 0, 0.0])
    expected = np.minimum(clean, np.quantile(clean, 0.8))
    assert capped(found, 0.8).tolist() == pytest.approx((expected / expected.max()).tolist())
    assert capped(torch.zeros(3), 0.95).tolist() == [1.0, 1.0, 1.0]


def test_an_outlier_is_drawn_no_more_often_than_the_cap_allows() -> None:
    """One row that nothing can learn would otherwise be drawn for ever: it holds 98 % of the priority."""
    run, source = started("llama", []), numbered(40)
    priority = lambda run, rows: [5000.0 if row["input_ids"][0] == 7 else 3.0 for row in rows]  # noqa: E731
    chosen = Prioritised(priority, uniform=0.0, candidates=40)
    generator = first(0)
    drawn = Counter(i for _ in range(2000) for i in chosen.draw(run, source, generator, 1))
    assert drawn[7] == pytest.approx(2000 / 40, abs=4 * (2000 / 40) ** 0.5)
    uncapped = Prioritised(priority, uniform=0.0, candidates=40, cap=1.0)
    assert Counter(i for _ in range(200) for i in uncapped.draw(run, source, generator, 1))[7] > 180


def test_chances_are_in_proportion_to_priorities() -> None:
    run, source, generator = started("llama", []), numbered(5), first(0)
    chosen = Prioritised(by_first, uniform=0.0, cap=1.0)
    drawn = Counter(i for _ in range(4000) for i in chosen.draw(run, source, generator, 1))
    assert [drawn[i] / 4000 for i in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.03)


def test_half_comes_in_turn_so_that_every_row_is_seen() -> None:
    run, source, generator = started("llama", []), numbered(20), first(0)
    chosen = Prioritised(lambda run, rows: [float(row["input_ids"][0] == 3) for row in rows], uniform=0.5, cap=1.0)
    drawn = Counter(chosen.draw(run, source, generator, 80))
    assert set(drawn) == set(range(20)) and 25 <= drawn[3] <= 55


def test_no_row_comes_twice_in_one_draw_while_others_are_left() -> None:
    run, source, generator = started("llama", []), numbered(9), first(0)
    chosen = Prioritised(by_first, uniform=0.0, cap=1.0)
    assert sorted(chosen.draw(run, source, generator, 8)) == list(range(1, 9))
    assert len(chosen.draw(run, source, generator, 20)) == 20


def test_it_looks_again_when_the_time_has_come() -> None:
    run, source, generator = started("llama", []), numbered(50), first(0)
    asked: list[int] = []

    def counted(run: Run, rows: Sequence[Row]) -> list[float]:
        asked.append(len(rows))
        return [1.0] * len(rows)

    chosen = Prioritised(counted, refresh=3, candidates=20)
    chosen.begin(run, source, generator)
    for batch in batches(7):
        chosen.draw(run, source, generator, 2)
        run.advance(batch)
    assert asked == [20, 20, 20]


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_loss_and_increase_are_those_of_the_rows_one_by_one(kind: str) -> None:
    rule = Replay(ROWS[:8], 0.5, draw={"increase": {"refresh": 1}})
    run = started(kind, [rule])
    for batch in batches(3):
        run.advance(batch)
    now, before = run.model, model_of(kind).eval()
    alone = lambda model: [float(sequence_losses(model, [row]).each()[0]) for row in ROWS[:8]]  # noqa: E731
    assert loss(run, ROWS[:8]).tolist() == pytest.approx(alone(now), abs=1e-5)
    risen = [a - b for a, b in zip(alone(now), alone(before), strict=True)]
    assert increase(run, ROWS[:8]).tolist() == pytest.approx(risen, abs=1e-5)
    assert max(map(abs, risen)) > 1e-3


def test_measuring_leaves_no_trace_in_the_run() -> None:
    plain, looking = (started("llama", [Replay(ROWS[:8], 0.0, draw=draw)]) for draw in ("shuffled", "increase"))
    state = torch.get_rng_state()
    loss(looking, ROWS[:4])
    increase(looking, ROWS[:4])
    assert torch.equal(state, torch.get_rng_state()) and looking.model.training
    torch.set_rng_state(state)
    plain.advance(batches(1)[0])
    torch.set_rng_state(state)
    looking.advance(batches(1)[0])
    assert all(torch.equal(plain.tensors[n], looking.tensors[n]) for n in plain.tensors)


def test_names_functions_and_ready_ones_are_taken() -> None:
    assert isinstance(drawing("shuffled"), Shuffled)
    made = drawing({"loss": {"uniform": 0.2, "refresh": 7}})
    assert isinstance(made, Prioritised) and (made.uniform, made.refresh, made.priority) == (0.2, 7, loss)
    own = drawing(by_first)
    assert isinstance(own, Prioritised) and own.priority is by_first and drawing(own) is own


def test_what_cannot_be_drawn_by_is_said() -> None:
    with pytest.raises(UnknownName, match="increase"):
        drawing("increas")
    with pytest.raises(BadInput, match="uniform"):
        drawing({"loss": {"uniform": 2.0}})
    wrong: list[Tensor] = [torch.ones(3), torch.ones(8, 2)]
    for answer in wrong:
        with pytest.raises(BadInput, match="one number for each of the 8 rows"):
            started("llama", [Replay(ROWS[:8], 0.5, draw=lambda run, rows, answer=answer: answer)])
