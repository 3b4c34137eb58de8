"""run.base: the model before the first step, from one copy of what trains, wherever and however it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from holdfast._errors import HoldfastError
from holdfast.loop import attach
from holdfast.remedies.l2sp import L2SP
from holdfast.rule import Batch, Rule
from holdfast.run import Run
from tests.models import build
from tests.test_every_rule import batches, same, started, weights

PROBE = batches(1, seed=9)[0]


class Keep(Rule):
    """Asks for the base, as a teacher or an anchor does."""

    def begin(self, run: Run) -> None:
        assert run.base.values


def adapted(init: bool | str = True, dropout: float = 0.1) -> nn.Module:
    """A Llama with LoRA as PEFT initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LoraConfig(
            r=2, lora_alpha=4, lora_dropout=dropout, init_lora_weights=init, target_modules=["q_proj", "down_proj"]
        )
        return get_peft_model(build("llama", dropout=dropout), config).train()


def logits(model: nn.Module) -> Tensor:
    modes = [m.training for m in model.modules()]
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=PROBE["input_ids"]).logits
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return found


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "full": lambda: build("llama", dropout=0.1).train(),
    "lora": adapted,
    "gaussian": lambda: adapted("gaussian"),
    "pissa": lambda: adapted("pissa"),
    "olora": lambda: adapted("olora"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_base_answers_as_the_model_did_before_the_first_step(name: str) -> None:
    model = MODELS[name]()
    before = logits(model)
    with attach([Keep()], model, optimizer(model)) as run:
        assert torch.equal(run.base(PROBE).logits, before)
        for batch in batches(3):
            run.advance(batch)
        assert torch.equal(run.base(PROBE).logits, before)
        assert not torch.equal(logits(model), before)


def test_the_base_is_asked_for_before_the_first_step_or_not_at_all() -> None:
    run = started("llama", [])
    run.advance(batches(1)[0])
    with pytest.raises(HoldfastError, match="in `begin`"):
        run.base(PROBE)


def test_labels_and_row_marks_are_no_input_of_the_base() -> None:
    run = started("llama", [Keep()])
    marked = {**PROBE, "replayed": torch.ones(4, dtype=torch.bool)}
    assert run.base(marked).loss is None


def gradients(model: nn.Module, run: Run, *, between: bool) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(5)
    loss = model(**PROBE).loss
    if between:
        run.base(PROBE)
    loss.backward()
    return {n: p.grad.clone() for n, p in run.tensors.items() if p.grad is not None}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", ["full", "lora", "pissa"])
def test_the_base_can_be_asked_between_a_forward_pass_and_its_backward_pass(name: str, checkpointed: bool) -> None:
    model: Any = MODELS[name]()
    if checkpointed:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    with attach([Keep()], model, optimizer(model)) as run:
        for batch in batches(2):
            run.advance(batch)
        plain, asked = gradients(model, run, between=False), gradients(model, run, between=True)
    assert plain and same(plain, asked)


def test_asking_the_base_leaves_modes_flags_and_randomness() -> None:
    model = adapted()
    frozen = next(n for n, p in model.named_parameters() if "lora_A" in n)
    model.get_parameter(frozen).requires_grad_(False)
    model.get_submodule(frozen.rpartition(".lora_A")[0]).eval()
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    modes, kept = [m.training for m in model.modules()], model.get_parameter(frozen).detach().clone()
    with attach([L2SP(1.0)], model, optimizer(model)) as run:
        state = torch.get_rng_state()
        run.base(PROBE)
        assert torch.equal(torch.get_rng_state(), state)
        assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
        run.advance(PROBE)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model.get_parameter(frozen), kept)


def test_what_does_not_train_is_shared_with_the_model() -> None:
    model = adapted()
    with attach([Keep()], model, optimizer(model)) as run:
        assert set(run.base.values) == {n for n, p in model.named_parameters() if p.requires_grad}
        storage = {p.data_ptr() for p in model.parameters()}
        assert not storage & {t.data_ptr() for t in run.base.values.values()}


def test_a_failure_while_other_values_are_in_leaves_the_weights() -> None:
    run = started("llama", [Keep()])
    run.advance(PROBE)
    before, places = weights(run), [p.data_ptr() for p in run.tensors.values()]
    with pytest.raises(ZeroDivisionError), run.at(run.base.values):
        assert not same(before, weights(run))
        raise ZeroDivisionError
    assert same(before, weights(run)) and places == [p.data_ptr() for p in run.tensors.values()]


# Autocast keeps casts of weights for as long as its outermost context lasts -------------------------------------------


@pytest.mark.parametrize("name", ["full", "lora"])
def test_under_autocast_the_teacher_is_the_base_and_the_student_keeps_its_gradients(name: str) -> None:
    model = MODELS[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = logits(model)
    with attach([Keep()], model, optimizer(model)) as run:
        for batch in batches(3):
            run.advance(batch)
        plain: Batch = {"input_ids": PROBE["input_ids"]}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = model.eval()(**plain).logits
            assert torch.equal(run.base(PROBE).logits, before)
            second = model(**plain).logits
            assert not torch.equal(first, before) and torch.equal(first, second)
            second.float().logsumexp(-1).mean().backward()
        assert all(p.grad is not None for p in run.tensors.values())


def test_several_steps_inside_one_autocast_are_several_steps() -> None:
    one, many = started("llama", []), started("llama", [])
    for batch in batches(3):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one.advance(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for batch in batches(3):
            torch.manual_seed(1)
            many.advance(batch)
    assert same(weights(one), weights(many))
