"""OSF through PEFT starts as the base, keeps its strong directions, and comes back from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.osf import osf
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.run import Run
from tests.models import build, inputs


def trained(optimizer: Any, steps: int = 5) -> tuple[Any, Any]:
    base, model = build("llama"), osf(build("llama"), keep=0.25)
    params = [p for p in model.parameters() if p.requires_grad]
    run = Run(model, optimizer(params, lr=1e-2), [])
    run.begin()
    for step in range(steps):
        run.advance(inputs(rows=4, seed=step))
    run.end()
    return base, model


def leak(base: Any, model: Any) -> float:
    """How much of the movement goes to the outputs of the directions that stay, as a share of all of it."""
    path = "model.layers.0.mlp.up_proj"
    before = base.get_submodule(path).weight.detach()
    layer = model.get_submodule(f"base_model.model.{path}")
    moved = layer.get_delta_weight("default").detach()
    u, _, _ = torch.linalg.svd(before, full_matrices=False)
    assert float(moved.norm()) > 0
    return float((u[:, :4].T @ moved).norm() / moved.norm())


def test_it_starts_as_the_base_and_trains_the_weak_directions_only() -> None:
    base, model = build("llama"), osf(build("llama"), keep=0.25)
    assert torch.allclose(model(**inputs()).logits, base(**inputs()).logits, atol=1e-5)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names and all("osf_svd_params" in n and ".mlp." in n for n in names)


def test_under_sgd_the_strong_directions_stay_and_under_adam_not_quite() -> None:
    assert leak(*trained(torch.optim.SGD)) < 2e-3
    assert leak(*trained(torch.optim.AdamW)) > 0.02


def test_a_saved_one_comes_back(tmp_path: Path) -> None:
    base = load_base("tiny")
    model = osf(base.model, keep=0.9)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "S_low" in name:
                p.mul_(3.0)
    asked = {"input_ids": torch.arange(3, 20)[None]}
    expected = model.eval()(**asked).logits
    model.save_pretrained(tmp_path)
    assert torch.allclose(load_adapted(tmp_path).model.eval()(**asked).logits, expected, atol=1e-4)


def test_what_it_cannot_split_is_refused() -> None:
    with pytest.raises(BadInput, match="keep"):
        osf(build("llama"), keep=1.0)
    with pytest.raises(Unsupported, match="Conv1D"):
        osf(build("gpt2"))
