"""Run: movement and not gradient, pulls before scalings before masks, whole windows, nothing left behind."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast._errors import BadCheckpoint, BadInput, TrainingStopped, Unsupported
from holdfast.budget import Guard
from holdfast.governor import Governor
from holdfast.loop import attach
from holdfast.params.inventory import Param
from holdfast.params.select import parse
from holdfast.remedies.agem import AGEM
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import Batch, Every, Kind, Move, Rule, Within
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from holdfast.strategies.incremental import Incremental
from tests.models import build
from tests.test_every_rule import ROWS, batches, same, started, trained, weights

EMBEDDING, LAST = "model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight"


class Shrink(Rule):
    """Keeps a part of each movement."""

    kind, looks_back = Kind.SCALE, True

    def __init__(self, kept: float, only: str = ""):
        self.kept, self.only = kept, only
        self.seen: list[Move] = []

    def wants(self, param: Any) -> bool:
        return self.only in param.path

    def update(self, run: Run, move: Move) -> None:
        assert move.before is not None
        self.seen.append(move)
        move.after.lerp_(move.before, 1 - self.kept)


class Watch(Rule):
    """Notes what a Move says, at any place in the order."""

    def __init__(self, kind: Kind = Kind.PULL, log: list[str] | None = None):
        self.kind, self.log = kind, [] if log is None else log  # type: ignore[misc]
        self.rates: list[dict[str, float]] = []
        self.befores: set[str] = set()

    def update(self, run: Run, move: Move) -> None:
        self.log.append(self.kind.name)
        self.rates.append({move.param.path: move.learning_rate})
        if move.before is not None:
            self.befores.add(move.param.path)


class Decay(Rule):
    """A penalty that does not depend on the batch: half the squares of one weight."""

    strength = 1.0

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor:
        return self.strength * 0.5 * run.tensors[LAST].square().sum()


def moved(rules: list[Rule], scale: float = 1.0, steps: int = 1) -> dict[str, Tensor]:
    """How far each weight moves under AdamW from gradients that are scaled by hand, with dropout off."""
    run = started("llama", rules)
    run.model.eval()
    before = weights(run)
    for batch in batches(steps):
        run.model(**batch).loss.backward()
        gradients = {n: p.grad * scale for n, p in run.tensors.items() if p.grad is not None}
        run.advance(gradients=gradients)
    return {n: t - before[n] for n, t in weights(run).items()}


def distance(values: dict[str, Tensor]) -> float:
    return float(sum(t.square().sum() for t in values.values()).sqrt())  # type: ignore[union-attr]


# Movement -----------------------------------------------------------------------------------------------------------


def test_a_tenth_of_the_gradient_moves_adamw_as_far_and_a_tenth_of_the_movement_a_tenth() -> None:
    whole, tenth_gradient, tenth_movement = moved([]), moved([], 0.1), moved([Shrink(0.1)])
    assert distance(tenth_gradient) == pytest.approx(distance(whole), rel=0.01)
    assert distance(tenth_movement) == pytest.approx(0.1 * distance(whole), rel=1e-4)


def test_a_scaled_movement_is_the_lerp_of_its_two_ends() -> None:
    run, scaled = started("llama", []), started("llama", [Shrink(0.1)])
    before, batch = weights(run), batches(1)[0]
    for host in (run, scaled):
        torch.manual_seed(0)
        host.advance(batch)
    after = weights(run)
    assert same({n: torch.lerp(after[n], before[n], 0.9) for n in after}, weights(scaled))


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_all_or_nothing_of_a_movement_is_exact(kept: float) -> None:
    free, bound = moved([], steps=3), moved([Shrink(kept)], steps=3)
    assert same(bound, free) if kept else not any(bool(t.any()) for t in bound.values())


def test_kinds_are_asked_in_their_order_and_each_kind_in_list_order() -> None:
    log: list[str] = []
    run = started("llama", [Watch(kind, log) for kind in (Kind.MASK, Kind.SCALE, Kind.PULL, Kind.SCALE)])
    run.advance(batches(1)[0])
    assert log[:4] == ["PULL", "SCALE", "SCALE", "MASK"]
    assert log == log[:4] * len(run.tensors)


def test_copies_are_made_only_of_what_a_rule_that_looks_back_wants() -> None:
    shrink, watch = Shrink(0.5, only="layers.2.mlp"), Watch()
    run = started("llama", [watch, shrink, L2SP(1.0)])
    run.advance(batches(1)[0])
    assert watch.befores == {m.param.path for m in shrink.seen} == {n for n in run.tensors if "layers.2.mlp" in n}
    blind = Watch()
    run = started("llama", [blind, L2SP(1.0)])
    run.advance(batches(1)[0])
    assert not blind.befores


def test_learning_rates_are_those_of_each_step_and_each_group() -> None:
    torch.manual_seed(0)
    model = build("llama").train()
    rest = [p for n, p in model.named_parameters() if n != EMBEDDING]
    groups = [{"params": [model.model.embed_tokens.weight], "lr": 0.5}, {"params": rest, "lr": 0.25}]
    optimizer = torch.optim.SGD(groups)
    watch = Watch()
    with attach([watch], model, optimizer) as run:
        run.advance(batches(1)[0])
        saved = optimizer.state_dict()
        saved["param_groups"][1]["lr"] = 0.125
        optimizer.load_state_dict(saved)  # replaces the group dictionaries
        run.advance(batches(1)[0])
    count = len(run.tensors)
    first, second = ({k: v for r in part for k, v in r.items()} for part in (watch.rates[:count], watch.rates[count:]))
    assert first[EMBEDDING] == second[EMBEDDING] == 0.5
    assert first[LAST] == 0.25 and second[LAST] == 0.125


class Slower(Rule):
    """Learning rates halved for each layer that a parameter lies below the third."""

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        return learning_rate * 0.5 ** (2 - (param.layer if param.layer is not None else 2))


def groups_by_layer(model: nn.Module, optimizer: type[torch.optim.Optimizer], **options: Any) -> torch.optim.Optimizer:
    """What a user without rules would write."""
    parts: dict[int, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        parts.setdefault(int(name.split(".")[2]) if ".layers." in name else 2, []).append(p)
    return optimizer([{"params": ps, "lr": 0.02 * 0.5 ** (2 - layer)} for layer, ps in parts.items()], **options)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, partial(torch.optim.AdamW, weight_decay=0.1), partial(torch.optim.AdamW, fused=True)]
)
def test_rates_of_rules_are_those_of_groups_made_by_hand(optimizer: Any) -> None:
    ruled, grouped = build("llama"), build("llama")
    grouped.load_state_dict(ruled.state_dict())
    ours = optimizer(ruled.parameters(), lr=0.02)
    options = ours.param_groups[0]
    with attach([Slower()], ruled, ours) as run:
        theirs = groups_by_layer(grouped, optimizer)
        for batch in batches(3):
            run.advance(batch)
            grouped(**batch).loss.backward()
            theirs.step()
            theirs.zero_grad()
            assert ours.param_groups == [options] and options["lr"] == 0.02
    assert same(dict(ruled.named_parameters()), dict(grouped.named_parameters()))


def test_rates_chain_in_list_order_stay_within_a_selection_and_reach_the_pulls() -> None:
    watch = Watch()
    run = started("llama", [Slower(), Within(parse("layers(0:1)"), Slower()), Every(2, Slower()), watch])
    plain = run.optimizer.param_groups[0]["lr"]
    for batch in batches(2):
        run.advance(batch)
    first, second = watch.rates[: len(run.tensors)], watch.rates[len(run.tensors) :]
    lowest = next(n for n, p in run.params.items() if p.layer == 0)
    found = [{k: v / plain for r in part for k, v in r.items()}[lowest] for part in (first, second)]
    assert found == [0.25**2, 0.25**3]
    assert {k: v / plain for r in first for k, v in r.items()}[LAST] == 1


def test_groups_are_whole_again_after_a_step_that_failed() -> None:
    run = started("llama", [Slower()])
    groups = run.optimizer.param_groups
    run.watch(torch.tensor(float("nan")))
    with pytest.raises(TrainingStopped):
        run.advance(batches(1)[0])
    run.end()
    assert run.optimizer.param_groups == groups


def test_what_gets_no_gradient_is_not_asked_about() -> None:
    watch = Watch(Kind.MASK)
    run = started("llama", [Frozen("layers(0:2)"), watch])
    run.advance(batches(1)[0])
    assert {n for r in watch.rates for n in r} == {n for n, p in run.params.items() if p.layer not in (0, 1)}


# Windows and penalties ----------------------------------------------------------------------------------------------


def stepped(rules: list[Rule], window: list[Batch]) -> dict[str, Tensor]:
    """The weights after one step of plain gradient descent, without dropout."""
    model = build("llama")
    with attach(rules, model, torch.optim.SGD(model.parameters(), lr=1.0), seed=3) as run:
        run.advance(window)
    return {n: p.detach() for n, p in model.named_parameters()}


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[n], b[n], rtol=1e-4, atol=1e-6) for n in a)


def test_replayed_rows_are_counted_with_the_window_so_that_the_step_is_that_of_one_big_batch() -> None:
    window = batches(2)
    replay = Replay(ROWS, share=0.5)
    mixed: list[Batch] = []

    class Look(Rule):
        def batch(self, run: Run, window: list[Batch]) -> list[Batch]:
            mixed.extend(window)
            return window

    got = stepped([replay, Look()], window)
    big = {k: torch.cat([m[k] for m in mixed]) for k in ("input_ids", "labels")}
    assert len(big["input_ids"]) == 16
    assert close(got, stepped([], [big]))
    assert not close(got, stepped([], window))


@pytest.mark.parametrize("parts", [2, 4])
def test_penalties_are_divided_by_the_number_of_micro_batches(parts: int) -> None:
    batch = batches(1)[0]
    window = [{k: v[i::parts] for k, v in batch.items()} for i in range(parts)]
    assert close(stepped([Decay()], [batch]), stepped([Decay()], window))
    assert not close(stepped([Decay()], [batch]), stepped([], [batch]))


# Randomness ---------------------------------------------------------------------------------------------------------


def draws(run: Run, rule: Rule) -> list[int]:
    return torch.randint(1 << 30, (4,), generator=run.generator(rule)).tolist()


def test_generators_depend_on_seed_and_rule_and_on_nothing_else() -> None:
    first, second = Replay(ROWS, 0.1), Replay(ROWS, 0.2)
    alone = draws(started("llama", [first]), first)
    run = started("llama", [L2SP(0.0), EWC(ROWS[:2], 0.0), first, second])
    torch.manual_seed(99)
    assert draws(run, first) == alone
    assert draws(run, second) != alone
    assert draws(run, first) != alone


def test_aside_leaves_modes_and_every_random_state_as_they_were() -> None:
    run = started("llama", [])
    run.model.model.layers[1].eval()
    modes = [m.training for m in run.model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[union-attr]
    with run.aside():
        assert not any(m.training for m in run.model.modules())
        torch.rand(3), np.random.rand(3), random.random()
    assert [m.training for m in run.model.modules()] == modes
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[union-attr]


# By hand ------------------------------------------------------------------------------------------------------------


def test_ready_gradients_give_the_step_of_the_batch_they_come_from() -> None:
    batch = batches(1)[0]
    model = build("llama")
    model(**batch).loss.backward()
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters()}
    other = build("llama")
    with attach([L2SP(5.0)], other, torch.optim.SGD(other.parameters(), lr=1.0), seed=3) as run:
        run.advance(gradients=gradients)
    assert close(stepped([L2SP(5.0)], [batch]), weights(run))


def test_gradients_that_fit_nothing_are_refused() -> None:
    run = started("llama", [])
    with pytest.raises(BadInput, match=r"no trainable parameter 'nothing'"):
        run.advance(gradients={"nothing": [1.0]})
    with pytest.raises(BadInput, match=r"\(3,\).*\(96, 16\)"):
        run.advance(gradients={EMBEDDING: torch.zeros(3)})
    for both in ({}, {"batch": batches(1)[0], "gradients": {}}):
        with pytest.raises(BadInput, match="not both"):
            run.advance(**both)  # type: ignore[arg-type]


def test_a_walk_back_goes_along_the_line_and_keeps_the_second_moment() -> None:
    run = started("llama", [])
    base = weights(run)
    for batch in batches(3):
        run.advance(batch)
    present, state = weights(run), {n: dict(run.optimizer.state[p]) for n, p in run.tensors.items()}
    first = {n: s["exp_avg"].clone() for n, s in state.items()}
    second = {n: s["exp_avg_sq"].clone() for n, s in state.items()}
    run.walk_back({n: torch.lerp(base[n], present[n], 0.3) for n in run.tensors}, 0.3)
    for name, tensor in run.tensors.items():
        kept = run.optimizer.state[tensor]
        assert torch.equal(tensor, torch.lerp(base[name], present[name], 0.3))
        assert torch.equal(kept["exp_avg"], first[name] * 0.3)
        assert torch.equal(kept["exp_avg_sq"], second[name]) and float(kept["step"]) == 3
    assert run.step == 3
    run.walk_back(base, 0.0)
    assert same(base, weights(run))


# What is refused, and what is left ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pull_on_weights_too_coarse_for_it_is_refused_before_the_first_step(dtype: torch.dtype) -> None:
    model = build("llama").to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for rule in (L2SP(1.0), AGEM(ROWS[:4])):
        with pytest.raises(Unsupported, match="float32"), attach([rule], model, optimizer):
            pass
    with attach([Frozen("layers(0:1)")], model, optimizer) as run:
        assert run.tensors


def test_a_loss_that_is_not_a_number_stops_before_the_step_is_taken() -> None:
    run = started("llama", [])
    run.advance(batches(1)[0])
    before, steps = weights(run), [float(s["step"]) for s in run.optimizer.state.values()]
    with torch.no_grad():
        run.model.model.norm.weight[0] = float("nan")
    planted = weights(run)
    with pytest.raises(TrainingStopped, match=r"not a finite number in step 2"):
        run.advance(batches(1)[0])
    assert all(
        torch.equal(
            planted[n],
            t,
        )
        or n == "model.norm.weight"
        for n, t in weights(run).items()
    )
    assert {n for n in before if not torch.equal(before[n], weights(run)[n])} == {"model.norm.weight"}
    assert [float(s["step"]) for s in run.optimizer.state.values()] == steps and run.step == 1
    assert run.journal[-1]["kind"] == "note" and "step 2" in run.journal[-1]["text"]


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_after_a_loss_that_is_not_a_number_a_governor_leaves_admitted_weights(kind: str) -> None:
    run = started(kind, [Governor([Guard("old", ROWS[8:], 64, 9.0)], every=1, look=4)])
    run.advance(batches(1)[0])
    with torch.no_grad():
        next(iter(run.tensors.values())).fill_(float("nan"))
    run.after()
    with pytest.raises(TrainingStopped):
        run.advance(batches(1)[0])
    run.end()
    left = weights(run)
    assert all(bool(t.isfinite().all()) for t in left.values())


def test_attach_takes_everything_off_again_when_the_loop_fails() -> None:
    model = build("llama").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ZeroDivisionError), attach([Frozen(), Watch()], model, optimizer):
        assert not any(p.requires_grad for p in model.parameters())
        raise ZeroDivisionError
    assert all(p.requires_grad for p in model.parameters())
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_every_rule_ends_also_where_one_of_them_fails_to() -> None:
    ended: list[str] = []

    class Ends(Rule):
        def __init__(self, name: str):
            self.name = name

        def end(self, run: Run) -> None:
            ended.append(self.name)
            if self.name == "first":
                raise RuntimeError("no")

    run = started("llama", [Ends("first"), Ends("second")])
    with pytest.raises(RuntimeError, match="no"):
        run.end()
    assert ended == ["first", "second"]


def test_a_model_of_plain_modules_has_rules_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    start = model[0].weight.detach().clone()
    with attach([Frozen('"0.*"')], model, torch.optim.AdamW(model.parameters(), weight_decay=0.1)) as run:
        for _ in range(3):
            loss = model(torch.ones(2, 3)).sum() + run.penalty({}, None)
            loss.backward()
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.after()
    assert run.step == 3 and torch.equal(model[0].weight, start)


def test_runs_with_the_same_seed_are_the_same_run() -> None:
    assert same(trained("llama", [Replay(ROWS, 0.3)]), trained("llama", [Replay(ROWS, 0.3)]))


# What a stern reader found -----------------------------------------------------------------------------------------


def test_a_snapshot_taken_before_a_rule_drew_anything_brings_its_draws_back_too() -> None:
    run = started("llama", [Replay(ROWS[:8], 0.5)])
    start, ends = run.snapshot(), []
    for _ in range(2):
        run.restore(start)
        for batch in batches(3):
            run.advance(batch)
        ends.append(weights(run))
    assert same(*ends)


def test_a_run_goes_on_after_it_was_brought_back_from_a_loss_that_is_not_a_number() -> None:
    run = started("llama", [])
    start = run.snapshot()
    with torch.no_grad():
        run.tensors[LAST].fill_(float("nan"))
    with pytest.raises(TrainingStopped):
        run.advance(batches(1)[0])
    run.restore(start)
    assert run.advance(batches(1)[0]) == pytest.approx(started("llama", []).advance(batches(1)[0]))


def test_in_an_own_loop_rules_know_the_loss_and_no_step_is_made_on_nan() -> None:
    torch.manual_seed(0)
    model = build("llama").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with attach([L2SP(1.0)], model, optimizer) as run:
        for batch in run.batch(batches(1)):
            outputs = model(**batch)
            (outputs.loss + run.penalty(batch, outputs)).backward()
        optimizer.step()
        run.after()
        assert run.loss is not None and float(run.loss) == pytest.approx(float(outputs.loss.detach()))
        before = weights(run)
        outputs.loss = outputs.loss * float("nan")
        run.penalty(batch, outputs)
        with pytest.raises(TrainingStopped):
            optimizer.step()
        assert same(before, weights(run))


def test_a_state_of_other_rules_is_refused_by_their_names() -> None:
    run = started("llama", [L2SP(1.0)])
    snapshot = run.snapshot()
    other = started("llama", [Replay(ROWS[:8], 0.5)])
    other.advance(batches(1)[0])
    before = weights(other)
    with pytest.raises(BadCheckpoint, match="l2sp-1, not replay-1"):
        other.restore(snapshot)
    assert same(before, weights(other))


def test_gradients_that_are_not_finite_are_refused() -> None:
    run = started("llama", [])
    with pytest.raises(BadInput, match="not finite"):
        run.advance(gradients={LAST: torch.full_like(run.tensors[LAST], float("inf"))})


def test_what_rules_do_to_weights_at_the_end_comes_before_the_governor_settles() -> None:
    guard = Guard("old", ROWS[8:], 64, 9.0)
    ends = []
    for turned in (False, True):
        rules_: list[Rule] = [Incremental(4), Governor([guard], every=2, look=4)]
        run = started("llama", rules_[::-1] if turned else rules_)
        for batch in batches(6):
            run.advance(batch)
        run.end()
        ends.append(weights(run))
    assert same(*ends)
