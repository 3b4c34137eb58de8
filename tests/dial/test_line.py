"""The way between two models: its ends, its blocks, and that an adapter's product moves on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast._errors import BadInput
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.dial.line import Line, in_turn, merged, together

BATCH = {"input_ids": torch.tensor([[1, 5, 9, 40, 77, 12]])}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(**BATCH).logits
    return out


@pytest.fixture
def line(whole: Path) -> Line:
    return Line(load_base("tiny").model, load_base(whole / "final").model)


def test_the_ends_are_the_models_bit_for_bit(line: Line, whole: Path) -> None:
    for setting, name in ((0.0, "tiny"), (1.0, whole / "final")):
        with line.at(together(list(line.blocks))(setting)) as model:
            assert torch.equal(logits(model), logits(load_base(name).model))
    assert torch.equal(logits(line.model), logits(load_base("tiny").model))


def test_a_place_between_is_the_weighted_mean_of_the_weights(line: Line, whole: Path) -> None:
    before, after = (load_base(name).model.state_dict() for name in ("tiny", whole / "final"))
    with line.at(together(list(line.blocks))(0.3)) as model:
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, 0.7 * before[name] + 0.3 * after[name], atol=1e-6, rtol=1e-5)


def test_a_block_can_stand_elsewhere_than_the_others(line: Line, whole: Path) -> None:
    before, after = (load_base(name).model.state_dict() for name in ("tiny", whole / "final"))
    fractions = {**together(list(line.blocks))(1.0), "model.layers.1": 0.0}
    with line.at(fractions) as model:
        for name, value in model.state_dict().items():
            wanted = before if name.startswith("model.layers.1.") else after
            assert torch.equal(value, wanted[name])


def test_blocks_hold_everything_that_moved_once(line: Line) -> None:
    paths = [path for block in line.blocks.values() for path in block]
    assert sorted(paths) == sorted(line.tensors) and len(set(paths)) == len(paths)
    assert {"model.layers.0", "model.layers.4", "embedding"} <= line.blocks.keys()


def test_an_adapters_product_moves_and_not_its_factors(adapter: Path) -> None:
    line = Line(load_base("tiny").model, load_adapted(adapter / "final").model)
    scaled = load_adapted(adapter / "final").model
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.4)
    with line.at(together(list(line.blocks))(0.4)) as model:
        torch.testing.assert_close(logits(model), logits(merged(scaled)), atol=1e-4, rtol=1e-4)
    assert all(".mlp." in path for path in line.tensors)


def test_one_block_after_the_other_goes_back() -> None:
    way = in_turn(["a", "b"])
    assert way(1.0) == {"a": 1.0, "b": 1.0} and way(0.0) == {"a": 0.0, "b": 0.0}
    assert way(0.75) == {"a": 0.5, "b": 1.0} and way(0.25) == {"a": 0.0, "b": 0.5}


def test_models_of_other_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match="no line"):
        Line(nn.Linear(2, 2), nn.Linear(2, 3))
