"""Rule and its wrappers: a rule says which hooks it has, and a wrapper opens and shuts all of them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.inventory import Param
from holdfast.params.select import component, layers
from holdfast.remedies.distill import Distill
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import HOOKS, Batch, During, Every, Kind, Move, Rule, State, Window, Within
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from tests.test_every_rule import ROWS, batches, same, started, trained


class Diary(Rule):
    """Writes down when each hook is asked, as completed steps; changes nothing."""

    kind = Kind.MASK

    def __init__(self) -> None:
        self.asked: dict[str, list[int]] = {hook: [] for hook in HOOKS}
        self.moved: list[str] = []
        self.calls: list[str] = []

    def begin(self, run: Run) -> None:
        self.calls.append("begin")

    def batch(self, run: Run, window: Window) -> Window:
        self.asked["batch"].append(run.step)
        return window

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        self.asked["penalty"].append(run.step)
        return None

    def holds(self, run: Run) -> frozenset[str]:
        self.asked["holds"].append(run.step)
        return frozenset()

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        self.asked["rate"].append(run.step)
        return learning_rate

    def update(self, run: Run, move: Move) -> None:
        self.asked["update"].append(run.step)
        self.moved.append(move.param.path)

    def after(self, run: Run) -> None:
        self.asked["after"].append(run.step)

    def end(self, run: Run) -> None:
        self.calls.append("end")

    def prepared(self) -> State:
        return {"prepared": 1}

    def state(self) -> State:
        return {"state": 2}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self.calls.append(f"restore {prepared} {state}")


class Mover(Rule):
    """Has an `update` alone."""

    def update(self, run: Run, move: Move) -> None:
        move.after.mul_(0.5)


class StillMover(Mover):
    """Overrides nothing itself."""


def asked(rule: Rule, diary: Diary, steps: int = 6) -> dict[str, list[int]]:
    run = started("llama", [rule])
    for batch in batches(steps):
        run.advance(batch)
    run.end()
    return {hook: sorted(set(at)) for hook, at in diary.asked.items()}


def test_a_rule_that_overrides_nothing_has_no_hooks_and_changes_nothing() -> None:
    assert Rule().hooks() == frozenset()
    assert same(trained("llama", [Rule()]), trained("llama", []))


def test_hooks_are_those_that_are_overridden_anywhere_up_the_line() -> None:
    assert StillMover().hooks() == {"update"}
    assert Every(2, During(0, 9, StillMover())).hooks() == {"update"}
    assert Every(2, Frozen()).hooks() == {"holds"}


def test_without_a_wrapper_every_hook_is_asked_in_every_step() -> None:
    seen = asked(diary := Diary(), diary, 3)
    assert seen["batch"] == seen["penalty"] == seen["update"] == [0, 1, 2]
    assert seen["after"] == [1, 2, 3]


def test_during_counts_completed_steps() -> None:
    diary = Diary()
    seen = asked(During(2, 4, diary), diary)
    assert seen == {**{hook: [2, 3] for hook in HOOKS}, "after": [3, 4]}


def test_every_speaks_in_each_nth_step() -> None:
    diary = Diary()
    seen = asked(Every(3, diary), diary)
    assert seen == {**{hook: [2, 5] for hook in HOOKS}, "after": [3, 6]}


def test_wrappers_nest() -> None:
    diary = Diary()
    assert asked(During(3, 9, Every(2, diary)), diary)["after"] == [4, 6]


def test_within_asks_about_selected_parameters_alone() -> None:
    diary = Diary()
    run = started("llama", [Within(layers(1, 2) & component("mlp"), narrow := Narrow(diary))])
    run.advance(batches(1)[0])
    assert narrow.hooks() == {"update"}
    wanted = {n for n, p in run.params.items() if p.layer == 1 and p.component == "mlp"}
    assert wanted and set(diary.moved) == wanted


class Narrow(Rule):
    """The `update` of a diary, which Within may go around."""

    def __init__(self, diary: Diary):
        self.diary = diary

    def update(self, run: Run, move: Move) -> None:
        self.diary.update(run, move)


def test_begin_end_and_state_pass_through_whether_the_gate_is_open_or_not() -> None:
    diary = Diary()
    shut = During(50, 60, diary)
    run = started("llama", [shut])
    run.end()
    assert diary.calls == ["begin", "end"]
    assert shut.prepared() == {"prepared": 1} and shut.state() == {"state": 2}
    shut.restore(run, None, {"state": 2})
    assert diary.calls[-1] == "restore None {'state': 2}"


def test_a_wrapper_has_the_strength_the_kind_and_the_look_back_of_its_rule() -> None:
    inner = L2SP(3.0)
    outer = Within(layers(0, 1), Every(2, inner))
    assert outer.strength == 3.0 and outer.kind is Kind.PULL and outer.looks_back is inner.looks_back
    outer.strength = 7.0
    assert inner.strength == 7.0
    assert Every(2, Frozen()).strength is None


@pytest.mark.parametrize("rule", [Distill(1.0), Replay(ROWS, 0.5), Every(2, Distill(1.0))], ids=type)
def test_within_around_what_touches_everything_is_an_error(rule: Rule) -> None:
    with pytest.raises(BadInput, match="touches every parameter"):
        Within(layers(0, 1), rule)


@pytest.mark.parametrize(("first", "last"), [(3, 3), (4, 2), (-1, 5)])
def test_a_span_that_is_empty_is_an_error(first: int, last: int) -> None:
    with pytest.raises(BadInput, match="0 <= first < last"):
        During(first, last, Rule())


@pytest.mark.parametrize("n", [0, -2])
def test_a_pace_below_one_is_an_error(n: int) -> None:
    with pytest.raises(BadInput, match="at least 1"):
        Every(n, Rule())


def test_pulls_come_before_scalings_and_masks_last() -> None:
    assert sorted([Kind.MASK, Kind.PULL, Kind.SCALE]) == [Kind.PULL, Kind.SCALE, Kind.MASK]
