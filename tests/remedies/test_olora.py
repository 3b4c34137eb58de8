"""O-LoRA's penalty against the published formula, and what it does to a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.remedies.carried import plain, weighed
from holdfast.remedies.olora import OLoRA
from holdfast.run import Run
from tests.models import build, lora
from tests.test_every_rule import FACTORS, batches, started


def factors(run: Run) -> dict[str, Tensor]:
    """The factors A that train, by the plain path of their weight."""
    sides = {n: p.lora for n, p in run.params.items()}
    return {plain(f.target): run.tensors[n] for n, f in sides.items() if f is not None and f.side == "A"}


def test_the_penalty_is_the_sum_of_squared_overlaps() -> None:
    run = started("lora", [OLoRA([FACTORS, FACTORS], 0.7)])
    expected = 0.0
    for path, a in factors(run).items():
        for old in (FACTORS[path], FACTORS[path]):
            for i in range(len(old)):
                for j in range(len(a)):
                    expected += 0.7 * float((old[i] * a[j]).sum()) ** 2
    penalty = run.rules[0].penalty(run, {}, None)
    assert penalty is not None and float(penalty) == pytest.approx(expected, rel=1e-4) and expected > 0


def test_a_saved_adapter_and_one_that_stands_in_the_model_give_the_same(tmp_path: Path) -> None:
    lora(build("llama"), seed=5).save_pretrained(tmp_path)
    run = started("lora", [OLoRA([tmp_path])])
    both = lora(build("llama"))
    both.load_adapter(str(tmp_path), "old")
    both.base_model.set_adapter(["default", "old"])
    for name, p in both.named_parameters():
        p.requires_grad_("lora" in name and ".default." in name)
    beside = Run(both, torch.optim.AdamW([p for p in both.parameters() if p.requires_grad]), [OLoRA()])
    beside.begin()
    first, second = run.rules[0], beside.rules[0]
    assert isinstance(first, OLoRA) and isinstance(second, OLoRA) and first.earlier
    assert all(torch.equal(second.earlier[n], t) for n, t in first.earlier.items())
    beside.end()


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_what_is_learnt_turns_away_from_what_earlier_adapters_listen_to(kind: str) -> None:
    overlaps = []
    for strength in (0.0, 100.0):
        rule = OLoRA([FACTORS], strength)
        run = started(kind, [rule])
        for group in run.optimizer.param_groups:
            group["lr"] = 1e-3
        for batch in batches(30):
            run.advance(batch)
        overlaps.append(sum(float((rule._moved(run, n) @ t.T).square().sum()) for n, t in rule.earlier.items()))
        run.end()
    assert overlaps[1] < 0.3 * overlaps[0]


def test_conv1d_stores_its_inputs_the_other_way_round() -> None:
    model = build("gpt2")
    path = "transformer.h.0.mlp.c_fc.weight"
    rule = OLoRA([{path: torch.ones(1, 16)}], 1.0)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), [rule])
    run.begin()
    with torch.no_grad():
        run.tensors[path][3] += 2.0  # one input, all 32 outputs
    penalty = rule.penalty(run, {}, None)
    assert penalty is not None and float(penalty) == pytest.approx(32 * 4.0)
    run.end()


def test_without_an_earlier_adapter_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no earlier adapter"):
        started("lora", [OLoRA()])
    with pytest.raises(BadInput, match="cannot be read"):
        started("lora", [OLoRA([tmp_path])])
    with pytest.raises(BadInput, match="other inputs"):
        started("llama", [OLoRA([{"model.layers.0.mlp.up_proj.weight": torch.ones(1, 5)}])])
    with pytest.raises(BadInput, match="negative"):
        OLoRA(strength=-1.0)


def test_an_adapter_that_goes_on_learning_is_not_held_apart_from_itself(tmp_path: Path) -> None:
    run = started("lora", [])
    own = {plain(weighed(run.params[n])): t.detach().clone() for n, t in run.tensors.items() if "lora_A" in n}
    with pytest.raises(BadInput, match="the very factor"):
        started("lora", [OLoRA([own])])
