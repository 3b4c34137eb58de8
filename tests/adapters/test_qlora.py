"""QLoRA on a processor: it trains, its base stays bit for bit, and it comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput, MissingExtra
from holdfast.adapters import quantised as storage
from holdfast.adapters.method import methods
from holdfast.adapters.quantised import (
    SETTINGS,
    is_quantised,
    quantisation,
    quantised,
    read_settings,
    stored_bytes,
    write_settings,
)
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.run import Run

pytest.importorskip("bitsandbytes", reason="quantised bases take the extra `quantise`")

IDS = torch.randint(3, 500, (4, 16), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "labels": IDS}


def stored(model: torch.nn.Module) -> dict[str, Tensor]:
    """All that is no factor: packed weights with their scales, norms, embedding."""
    return {n: t.detach().clone() for n, t in model.state_dict().items() if "lora_" not in n}


@pytest.mark.parametrize(
    ("bits", "double"),
    [(4, True), pytest.param(4, False, marks=pytest.mark.slow), pytest.param(8, True, marks=pytest.mark.slow)],
)
def test_it_learns_beside_a_base_that_stays_bit_for_bit(bits: int, double: bool, tmp_path: Path) -> None:
    base = load_base("tiny", quantization=quantisation(bits, double=double))
    assert is_quantised(base.model) and base.digest != load_base("tiny").digest
    model = methods.apply("qlora", base.model, {"bits": bits, "double": double, "rank": 4}, seed=0)
    before, factors = stored(model), [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in factors)
    run = Run(model, torch.optim.AdamW(factors, lr=1e-2, weight_decay=0.1), [])
    run.begin()
    losses = [run.advance(dict(BATCH)) for _ in range(12)]
    run.end()
    assert losses[-1] < losses[0] - 0.5
    after = stored(model)
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
    model.save_pretrained(tmp_path)
    write_settings(model, tmp_path)
    again = load_adapted(tmp_path)
    assert is_quantised(again.model)
    with torch.no_grad():
        found, expected = again.model.eval()(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits
    assert torch.equal(found, expected)


def test_a_quantised_copy_is_what_loading_quantised_gives() -> None:
    settings = quantisation()
    copy, loaded = quantised(load_base("tiny").model, settings), load_base("tiny", quantization=settings).model
    for (name, one), (_, other) in zip(
        sorted(copy.state_dict().items()), sorted(loaded.state_dict().items()), strict=True
    ):
        assert torch.equal(one, other), name
    plain = load_base("tiny").model
    with torch.no_grad():
        apart = (copy(input_ids=IDS).logits - plain(input_ids=IDS).logits).abs().max()
    assert 0 < float(apart) < 10  # four bits are not sixteen, and still the same model
    packed: Any = copy.model.layers[0].mlp.up_proj.weight
    assert packed.numel() * packed.element_size() * 8 == plain.model.layers[0].mlp.up_proj.weight.numel() * 4


@pytest.mark.parametrize(
    ("bits", "double"),
    [(4, True), pytest.param(4, False, marks=pytest.mark.slow), pytest.param(8, True, marks=pytest.mark.slow)],
)
def test_a_plan_knows_what_a_stored_weight_takes(bits: int, double: bool) -> None:
    settings = quantisation(bits, double=double)
    layer: Any = load_base("tiny", quantization=settings).model.model.layers[0].mlp.up_proj
    parts = [t for n, t in layer.state_dict().items() if n.startswith("weight") and "map" not in n and "state" not in n]
    found = sum(t.numel() * t.element_size() for t in parts)
    assert stored_bytes(settings, 64 * 172) == pytest.approx(found, rel=0.01)


def test_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="4 bits"):
        quantisation(2)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(BadInput, match="does not say"):
        read_settings(tmp_path)
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"holdfast\[quantise\]"):
        quantisation()
