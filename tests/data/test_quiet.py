"""Asking a model leaves no trace in it."""

from __future__ import annotations

import pytest
import torch

from holdfast.data.quiet import quiet
from tests.models import build


def test_modes_come_back_one_by_one_even_after_an_error() -> None:
    model = build("llama")
    model.train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(ZeroDivisionError), quiet(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert {name: module.training for name, module in model.named_modules()} == before


def test_no_gradient_and_no_autocast_inside() -> None:
    model = build("llama")
    ids = torch.arange(8)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16), quiet(model) as device:
        logits = model(input_ids=ids.to(device)).logits
        assert logits.dtype == torch.float32
        assert not logits.requires_grad
        assert not logits.is_inference()
    assert torch.is_grad_enabled()
