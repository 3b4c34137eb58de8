"""Memory: what is counted without values is what real tensors take, and advice has numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast._errors import OutOfMemory
from holdfast.adapters.lora import lora
from holdfast.params.plan import from_config
from holdfast.recipe import memory, running
from holdfast.recipe.memory import Peak, activations, ran_out, remedies
from holdfast.recipe.training import training_arguments
from tests.models import build
from tests.recipe.small import recipe


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt_neox", "opt", "t5"])
def test_a_model_without_values_counts_what_one_with_values_keeps(arch: str) -> None:
    outline = from_config(build(arch).config).train()
    real, outlined = activations(build(arch).train(), 4, 16), activations(outline, 4, 16)
    assert real and outlined and outlined == pytest.approx(real, rel=0.25)
    assert activations(build(arch).train(), 8, 16) == pytest.approx(2 * real, rel=0.2)


def test_what_autograd_keeps_is_counted_once() -> None:
    """Against a chain whose saved tensors are known: the input of each square, and nothing of a parameter."""

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            first = input_ids.float() * self.weight  # keeps the cast input
            return (first.square() * first.square()).sum()  # keeps `first` once, and both squares

    assert activations(Chain(), 2, 8) == 4 * 16 * 4


def test_checkpointing_and_adapters_hold_less() -> None:
    model = build("llama").train()
    plain = activations(model, 4, 16)
    less = activations(model, 4, 16, checkpointing=True)
    adapted = activations(lora(build("llama").requires_grad_(False)).train(), 4, 16)
    assert plain and less and adapted and less < plain


def test_the_peak_is_at_least_what_was_held() -> None:
    peak = Peak(torch.device("cpu"))
    held = torch.ones(40_000_000)
    told = peak.told()
    assert told["of"] == "process" and told["peak"] >= told["before"] + held.nbytes * 0.9
    del held


def test_running_out_is_told_apart() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory")) and ran_out(MemoryError())
    assert ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert not ran_out(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "ptuning2", "shira"])
def test_advice_has_numbers_for_every_kind_of_method(tmp_path: Path, method: str) -> None:
    asked = recipe(tmp_path, f"method.name={method}", "learn.length=128", "train.per_device_train_batch_size=6")
    said = remedies(asked, training_arguments(asked, 10, tmp_path))
    assert "per_device_train_batch_size=3 train.gradient_accumulation_steps=2" in said and "saves about" in said
    assert ("activation_checkpointing" in said) == (method not in ("ptuning2", "shira"))
    assert ("method.name=lora" in said) == (method == "full") and ("method.name=qlora" in said) == (
        method in ("lora", "ptuning2", "shira")
    )
    odd = recipe(tmp_path, "train.per_device_train_batch_size=5")
    assert "batch_size=1 train.gradient_accumulation_steps=5" in remedies(odd, training_arguments(odd, 10, tmp_path))


def test_a_run_that_runs_out_ends_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, *args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(running.Trainer, "training_step", full)
    with pytest.raises(OutOfMemory, match=r"not enough memory\. Weights take"):
        running.run(recipe(tmp_path))
    assert memory.ran_out(MemoryError())
