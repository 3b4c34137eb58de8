"""The contract: what every registered rule has to keep, on full weights and on LoRA."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import holdfast.budget
import holdfast.evaluation.monitor
import holdfast.governor
import holdfast.remedies
import holdfast.strategies
from holdfast import checkpoint
from holdfast.params.select import layers
from holdfast.rule import Batch, During, Every, Rule, Within, rules
from holdfast.run import Run
from tests.models import VOCABULARY, build, lora, quickly

ROWS = [
    {"input_ids": ids, "labels": list(ids)}
    for ids in torch.randint(3, VOCABULARY, (24, 12), generator=torch.Generator().manual_seed(5)).tolist()
]

MATRICES = {n: p for n, p in build("llama").named_parameters() if p.ndim == 2 and "layers" in n}
EARLIER = MappingProxyType({n: p.detach().abs() for n, p in build("llama").named_parameters()})
"""Importance of an earlier task, by the paths of the plain model."""
FACTORS = MappingProxyType({n: torch.ones(2, p.shape[1]) for n, p in MATRICES.items()})
"""Factors A of an earlier adapter."""

EXAMPLES: dict[str, Callable[[], list[Rule]]] = {
    "frozen": lambda: [rules["frozen"]("layers(0:1)")],
    "replay": lambda: [rules["replay"](ROWS[:8], share=0.34)],
    "distill": lambda: [rules["replay"](ROWS[:8], share=0.34, labels=False), rules["distill"](4.0)],
    "l2sp": lambda: [rules["l2sp"](50.0)],
    "ewc": lambda: [rules["ewc"](ROWS[:8], 50.0)],
    "mas": lambda: [rules["mas"](ROWS[:8], 50.0, layers={"layers(0:1)": 2.0})],
    "si": lambda: [rules["si"](50.0, EARLIER, layers=0.9)],
    "olora": lambda: [rules["olora"]([FACTORS], 0.5)],
    "agem": lambda: [rules["agem"](ROWS[:8], rows=3)],
    "migu": lambda: [rules["migu"](0.3)],
    "monitor": lambda: [rules["monitor"]({"new": ROWS[:4]}, {"old": ROWS[4:8]}, every=2)],
    "adaptive": lambda: [
        rules["adaptive"](1e-4, 1e-1, source=ROWS[:4], window=3, up=3.0, down=0.3, importance="fisher")
    ],
    "selective": lambda: [
        rules["selective"](ROWS[:8], top=0.6),
        rules["selective"](ROWS[:8], "gradient", top=0.3, by="element", every=2),
    ],
    "incremental": lambda: [rules["incremental"](2)],
    "cyclic": lambda: [rules["cyclic"](steps=2, layers=2, order="up")],
    "gradual": lambda: [rules["gradual"]("cosine", over=8, floor=0.1)],
    "unfreezing": lambda: [rules["unfreezing"](every=2)],
    "layerwise": lambda: [rules["layerwise"](0.5)],
    "scaled": lambda: [rules["scaled"](3.0)],
    "rollback": lambda: [rules["rollback"](source=ROWS[:4], every=2, threshold=0.5)],
    "governor": lambda: [
        rules["replay"](ROWS[:8], share=0.34),
        rules["distill"](1.0),
        rules["governor"]([holdfast.budget.Guard("old", ROWS[8:], 64, 1.0)], every=2, look=4),
    ],
}
KINDS = ("llama", "lora")


def test_every_rule_has_an_example() -> None:
    assert set(EXAMPLES) == set(rules.names())


def model_of(kind: str) -> nn.Module:
    model = build("llama", dropout=0.2)
    return lora(model, lora_dropout=0.2) if kind == "lora" else model


def batches(count: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, VOCABULARY, (4, 12), generator=generator) for _ in range(count)]
    return [{"input_ids": i, "labels": i.clone()} for i in ids]


def started(kind: str, rules_: list[Rule], **kwargs: Any) -> Run:
    torch.manual_seed(7)
    model = model_of(kind).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    run = Run(model, optimizer, rules_, seed=3, **kwargs)
    run.begin()
    return run


def drop_alike(run: Run, batch: Batch) -> None:
    """One step, with the same elements dropped whichever runs had their turn before."""
    torch.manual_seed(run.step)
    run.advance(batch)


def weights(run: Run) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in run.model.named_parameters()}


def trained(kind: str, rules_: list[Rule], steps: int = 6) -> dict[str, Tensor]:
    run = started(kind, rules_)
    for batch in batches(steps):
        run.advance([batch, batch])
    run.end()
    return weights(run)


@cache
def bare(kind: str) -> dict[str, Tensor]:
    """The weights that `trained` leaves where there is no rule."""
    return trained(kind, [])


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a)


each_rule = pytest.mark.parametrize("name", sorted(EXAMPLES))
each_kind = pytest.mark.parametrize("kind", quickly(["llama"], KINDS))


@each_kind
@each_rule
def test_weights_stay_finite_and_runs_repeat(name: str, kind: str) -> None:
    once, again = trained(kind, EXAMPLES[name]()), trained(kind, EXAMPLES[name]())
    assert all(bool(t.isfinite().all()) for t in once.values())
    assert same(once, again)


@each_kind
@each_rule
@pytest.mark.parametrize("first", [True, False])
def test_frozen_has_the_last_word_wherever_it_stands(name: str, kind: str, first: bool) -> None:
    frozen, others = rules["frozen"]("layers(0:2)"), EXAMPLES[name]()
    run = started(kind, [frozen, *others] if first else [*others, frozen])
    before = weights(run)
    for batch in batches(6):
        run.advance(batch)
    run.end()
    held = {n for n, p in run.params.items() if p.layer in (0, 1)}
    after = weights(run)
    assert held
    assert all(torch.equal(before[n], after[n]) for n in held)
    if name != "governor":  # which may give everything back
        assert any(not torch.equal(before[n], after[n]) for n in run.params if n not in held)


@each_kind
@each_rule
def test_strength_zero_is_the_list_without_the_rule(name: str, kind: str) -> None:
    zeroed, without = EXAMPLES[name](), EXAMPLES[name]()
    tunable = [r for r in zeroed if r.strength is not None]
    for rule in tunable:
        rule.strength = 0
    if name == "monitor":
        without = []  # it only looks
    elif name == "replay":
        zeroed[0].share = 0.0  # type: ignore[attr-defined]
        without = []
    elif not tunable:
        pytest.skip(f"{name} has no strength")
    elif name != "governor":
        without = [r for r in without if r.strength is None]
    else:
        without = [r for r, z in zip(without, zeroed, strict=True) if z.strength != 0]
    assert same(trained(kind, zeroed), trained(kind, without) if without else bare(kind))


@each_kind
@each_rule
@pytest.mark.parametrize("done", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_restored_snapshot_replays_the_same_batches_bit_for_bit(name: str, kind: str, done: int) -> None:
    run = started(kind, EXAMPLES[name]())
    early, late = batches(done), batches(3, seed=1)
    for batch in early:
        run.advance(batch)
    snapshot = run.snapshot()
    for batch in late:
        run.advance(batch)
    first = weights(run)
    run.restore(snapshot)
    assert run.step == done
    for batch in late:
        run.advance(batch)
    assert same(first, weights(run))


@each_kind
@each_rule
def test_a_resumed_run_equals_the_uninterrupted_one(name: str, kind: str, tmp_path: Path) -> None:
    early, late = batches(3), batches(3, seed=1)
    run = started(kind, EXAMPLES[name]())
    for batch in early:
        run.advance(batch)
    checkpoint.write_state(tmp_path, "prepared", run.prepared())
    checkpoint.write_state(tmp_path, "state", run.state())
    kept = run.snapshot()
    for batch in late:
        run.advance(batch)
    run.end()

    fresh = model_of(kind).train()
    fresh.load_state_dict({**fresh.state_dict(), **kept["weights"]})
    optimizer = torch.optim.AdamW([p for p in fresh.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    optimizer.load_state_dict(kept["optimizer"])
    resumed = Run(fresh, optimizer, EXAMPLES[name](), seed=3)
    resumed.begin(checkpoint.read_state(tmp_path, "prepared"), checkpoint.read_state(tmp_path, "state"))
    torch.set_rng_state(kept["random"]["torch"])
    for batch in late:
        resumed.advance(batch)
    resumed.end()
    assert same(weights(run), weights(resumed))


@each_kind
@each_rule
@pytest.mark.parametrize("failing", [False, True])
def test_nothing_is_left_behind(name: str, kind: str, failing: bool) -> None:
    run = started(kind, EXAMPLES[name]())
    flags = {n: p.requires_grad for n, p in model_of(kind).named_parameters()}
    modes = [m.training for m in run.model.modules()]
    try:
        run.advance(batches(1)[0])
        if failing:
            run.advance(gradients={"no such parameter": [1.0]})
    except Exception:
        assert failing
    finally:
        run.end()
    assert not run.optimizer._optimizer_step_pre_hooks and not run.optimizer._optimizer_step_post_hooks
    assert {n: p.requires_grad for n, p in run.model.named_parameters()} == flags
    assert [m.training for m in run.model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in run.model.modules())
    assert run._base is None
    assert not [
        rule
        for rule in run.rules
        if any((p.shape, p.dtype) == (t.shape, t.dtype) for p in run.tensors.values() for t in held(rule))
    ]


def held(value: Any, depth: int = 4) -> list[Tensor]:
    """Tensors that an object holds, however deep, but for what a user gave it."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set):
        inside = list(value)
    else:
        inside = list(vars(value).values()) if type(value).__module__.startswith("holdfast") else []
    return [t for part in inside for t in held(part, depth - 1)] if depth else []


@each_rule
def test_a_gate_that_never_opens_is_the_list_without_the_rule(name: str) -> None:
    if name in ("governor", "monitor"):
        pytest.skip("looks after the last step too, or changes nothing anyway")
    shut: list[Rule] = [During(100, 200, rule) for rule in EXAMPLES[name]()]
    assert same(trained("llama", shut), bare("llama"))


@pytest.mark.parametrize("name", quickly(["cyclic", "ewc", "replay", "governor"], sorted(EXAMPLES)))
def test_an_open_gate_changes_nothing_and_every_step_is_every_step(name: str) -> None:
    plain = trained("llama", EXAMPLES[name]())
    assert same(plain, trained("llama", [During(0, 100, rule) for rule in EXAMPLES[name]()]))
    assert same(plain, trained("llama", [Every(1, rule) for rule in EXAMPLES[name]()]))


@each_rule
def test_gated_rules_forward_what_they_are(name: str) -> None:
    for rule in EXAMPLES[name]():
        gated = Every(2, rule)
        assert gated.hooks() == rule.hooks() and gated.kind == rule.kind and gated.strength == rule.strength
        if rule.strength is not None:
            gated.strength = 0.5
            assert rule.strength == 0.5


@each_rule
def test_within_narrows_what_moves_or_says_that_it_cannot(name: str) -> None:
    for rule in EXAMPLES[name]():
        if rule.hooks() & {"batch", "penalty"}:
            with pytest.raises(holdfast._errors.BadInput, match="touches every parameter"):
                Within(layers(0, 1), rule)
        elif "update" in rule.hooks():
            plain, narrowed = bare("llama"), trained("llama", [Within(layers(0, 1), rule)])
            changed = {n for n in plain if not torch.equal(plain[n], narrowed[n])}
            assert changed and any(".layers.0." in n for n in changed)
