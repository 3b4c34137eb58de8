"""Mistakes that other projects made, and the tests that fail where one of them is made here.

What is not pinned below is pinned where it belongs:

1. Batch gradients squared instead of each example's own (Avalanche, PyCIL):
   tests/params/test_fisher.py::test_equals_the_loop_for_any_batch_size
   tests/params/test_fisher.py::test_the_squared_batch_gradient_fails_the_same_comparison
   tests/params/test_scores.py::test_mas_equals_the_loop_for_any_batch_size
   tests/remedies/test_ewc.py::test_importance_is_the_mean_square_of_per_example_gradients_with_mean_one
2. A mean loss squared, so that a strength fits one batch size and one length only:
   tests/params/test_fisher.py::test_equals_the_loop_for_any_batch_size
   tests/params/test_own_labels.py::test_sampled_is_the_square_of_each_sequence_with_its_drawn_labels
   and importance whose scale is that of its estimator:
   tests/remedies/test_ewc.py::test_strengths_compare_between_estimators
3. Importance made of what training does (TRACE). With the penalty in the gradient:
   tests/remedies/test_ewc.py::test_a_pull_is_no_part_of_adams_second_moment
   tests/remedies/test_si.py::test_pulls_are_no_part_of_the_gradient_but_of_the_way
   while the weights move, and added up over tasks without end:
   tests/remedies/test_anchor.py::test_over_three_tasks_the_sum_is_that_of_online_ewc
   tests/remedies/test_anchor.py::test_importance_is_that_of_earlier_tasks_times_decay_and_the_own_one
   tests/llm/test_anchored.py::test_measured_again_it_counts_once
   by each process for itself: here, and with two real processes
   tests/two_ranks.py::fisher_and_replay_are_those_of_one_process
4. The square for the true label times its probability (Mammoth):
   tests/params/test_own_labels.py::test_exact_equals_the_loop_over_all_labels_for_any_batch_size
   tests/params/test_own_labels.py::test_an_expectation_taken_twice_fails_the_same_comparison
   tests/params/test_fisher.py::test_equals_the_loop_for_any_batch_size
5. Distillation with teacher and student exchanged (TRACE):
   tests/remedies/test_divergence.py::test_both_ways_are_the_divergences_of_torch
   tests/remedies/test_distill.py::test_the_teacher_is_the_target_and_pads_do_not_count
   with a gradient through the target, and over pads of new rows: here.
6. Importance with dropout, under autocast, or from gradients that were clipped or scaled:
   tests/params/test_fisher.py::test_dropout_and_autocast_of_the_caller_stay_out
   tests/params/test_fisher.py::test_equals_the_loop_for_any_batch_size
   tests/params/test_scores.py::test_a_text_is_read_without_disturbing_the_model
   with squares added up in bfloat16: here.
7. Normalisation or ranking by which small tensors lose to large ones (ModelBrew):
   tests/remedies/test_anchor.py::test_a_small_tensor_counts_element_by_element_as_much_as_a_large_one
   tests/strategies/test_selective.py::test_by_tensor_the_top_share_moves
8. Transfer divided by all tasks, or counted from a constant (SAPT, GainLoRA):
   tests/evaluation/test_matrix.py::test_transfer_is_divided_by_one_task_less_than_there_are
   tests/evaluation/test_matrix.py::test_forward_transfer_counts_from_the_base_that_was_measured
   tests/evaluation/test_matrix.py::test_the_figures_are_those_of_the_definitions
9. Adapters drawn before anything is seeded (Soup):
   tests/adapters/test_lora.py::test_the_factors_follow_from_the_seed_and_no_other_random_state_moves
   tests/llm/test_isolation.py::test_adapters_are_the_same_every_time
   and, for a recipe's seed, here.

Each test below plants its mistake as well, and sees it found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from transformers.modeling_outputs import CausalLMOutput

from holdfast.adapters.method import methods
from holdfast.adapters.targets import target_modules
from holdfast.before import Base
from holdfast.params.fisher import fisher
from holdfast.params.per_example import Batch, Sums
from holdfast.remedies.distill import Distill
from holdfast.remedies.ewc import EWC
from holdfast.remedies.mas import MAS
from holdfast.remedies.weighing import batched
from holdfast.rule import REPLAYED
from holdfast.run import Run
from tests.models import build
from tests.params.loop import error
from tests.recipe.small import recipe
from tests.test_every_rule import KINDS, ROWS, batches, model_of, same, started

ROOT = Path(__file__).parents[2]


def test_the_tests_that_are_named_above_are_there() -> None:
    """A table that names a test of another name pins nothing."""
    named = re.findall(r"(\S+\.py)::(\w+)", __doc__ or "")
    assert len(named) > 20
    assert not [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text("utf-8")]


# 3: importance by each process for itself ---------------------------------------------------------------------------


def importance_of(
    rank: int, rule: type[EWC | MAS], patch: pytest.MonkeyPatch, mean: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """What one of two processes holds back by, where all that they tell each other goes through `mean`."""
    with patch.context() as two:
        two.setattr("holdfast.run.place", lambda: (rank, 2))
        two.setattr("holdfast.run.mean", mean)
        run = started("llama", [made := rule(ROWS[:6])])
        found = dict(made.importance)
        run.end()
    return found


@pytest.mark.parametrize("rule", [EWC, MAS])
def test_importance_measured_by_each_process_for_itself(rule: type[EWC | MAS], monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark's EWC (TRACE) squares what each process sees, so that copies of a model are held back differently."""

    def alone(figure: Tensor, device: torch.device) -> Tensor:
        return figure

    def of_both() -> list[dict[str, Tensor]]:
        return [importance_of(rank, rule, monkeypatch, alone) for rank in (0, 1)]

    first, second = of_both()
    assert first and same(first, second)
    agreed = importance_of(0, rule, monkeypatch, lambda figure, device: 2 * figure)
    assert same(agreed, {name: 2 * values for name, values in first.items()})
    mine = iter([ROWS[:3], ROWS[3:6]])
    monkeypatch.setattr(f"{rule.__module__}.batched", lambda rows, *given: batched(next(mine), *given))
    assert not same(*of_both())


# 5: distillation ----------------------------------------------------------------------------------------------------


def moved(kind: str, rule: Distill) -> Run:
    """A run that has left its base, without dropout from here on."""
    run = started(kind, [rule])
    for batch in batches(3):
        run.advance(batch)
    run.model.eval()
    return run


def divergence(run: Run, batch: Batch) -> Tensor:
    given = run.batch([dict(batch)])[0]
    found = run.penalty(given, run.model(**{k: v for k, v in given.items() if k not in ("labels", REPLAYED)}))
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("where", ["new", "prompts"])
def test_pads_counted_as_predictions(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark's LwF (TRACE) takes its mean over the padding of the new rows as well."""
    run = moved("llama", Distill(1.0, where=where))
    batch = batches(1, seed=9)[0]
    batch["labels"][:, :5] = -100
    pads = torch.full((4, 6), 7)
    padded = {
        "input_ids": torch.cat([batch["input_ids"], pads], 1),
        "labels": torch.cat([batch["labels"], torch.full_like(pads, -100)], 1),
        "attention_mask": torch.cat([torch.ones_like(batch["input_ids"]), torch.zeros_like(pads)], 1),
    }
    bare = float(divergence(run, batch).detach())
    assert float(divergence(run, padded).detach()) == pytest.approx(bare, rel=1e-4) and bare > 1e-4
    monkeypatch.setattr("holdfast.remedies.distill._real", lambda given: torch.ones_like(given["input_ids"]).bool())
    assert float(divergence(run, padded).detach()) != pytest.approx(bare, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_through_the_target(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark's LwF (TRACE) lets the gradient flow through what should stand still as the target."""
    run, batch = moved(kind, Distill(1.0, where="new")), batches(1, seed=9)[0]
    tensors = list(run.tensors.values())

    def slope(loss: Tensor) -> dict[str, Tensor]:
        return dict(zip(run.tensors, torch.autograd.grad(loss, tensors), strict=True))

    with torch.no_grad():
        target = model_of(kind).eval()(input_ids=batch["input_ids"]).logits
    ours = run.model(input_ids=batch["input_ids"]).logits
    expected = slope(kl_divergence(Categorical(logits=target), Categorical(logits=ours)).mean())
    assert error(slope(divergence(run, batch)), expected, floor=1e-4) < 1e-3
    asked: Any = Base.__call__
    monkeypatch.setattr(Base, "__call__", asked.__wrapped__)
    assert error(slope(divergence(run, batch)), expected, floor=1e-4) > 0.1


# 6: precision -------------------------------------------------------------------------------------------------------


class Pairs(nn.Module):
    """The smallest language model: the next token follows from the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        for tensor in self.parameters():
            nn.init.normal_(tensor, generator=torch.Generator().manual_seed(tensor.numel()))

    def forward(self, input_ids: Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=self.head(self.embed(input_ids)))


def test_squares_added_up_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that sum squares in the precision of a bfloat16 model stand still once a sum is some 256 of them."""
    model, row = Pairs().bfloat16(), {"input_ids": torch.tensor([[1, 5]]), "labels": torch.tensor([[1, 5]])}
    alone, alike = fisher(model, [row]), [{k: v.repeat(512, 1) for k, v in row.items()}, *[row] * 150]
    assert error(fisher(model, alike), alone) < 1e-3
    exact = Sums.add

    def coarse(sums: Sums, batch: Batch) -> None:
        exact(sums, batch)
        for total in sums.sums.values():
            total.copy_(total.bfloat16())

    monkeypatch.setattr(Sums, "add", coarse)
    assert error(fisher(model, alike), alone) > 0.2


# 9: adapters that no seed was set for -------------------------------------------------------------------------------


def test_an_adapter_drawn_before_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fine-tuning tool (Soup) draws factors before it sets the seed, so that one recipe gives several results."""

    recipes = {seed: recipe(tmp_path, "method={name: lora, rank: 2}", f"seed={seed}") for seed in (1, 2)}

    def drawn(seed: int, before: int) -> Tensor:
        torch.manual_seed(before)
        asked = recipes[seed]
        model = methods.apply(asked.method.name, build("llama"), asked.method.arguments, seed=asked.seed)
        return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(drawn(1, before=5), drawn(1, before=6))
    assert not torch.equal(drawn(1, before=5), drawn(2, before=5))

    def unseeded(model: Any, *, rank: int, seed: int) -> Any:
        return get_peft_model(model, LoraConfig(r=rank, target_modules=target_modules(model, "mlp")))

    monkeypatch.setitem(methods._entries, "lora", unseeded)
    assert not torch.equal(drawn(1, before=5), drawn(1, before=6))
