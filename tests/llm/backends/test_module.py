"""Any module and any mapping of arrays can be updated; they answer nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from holdfast._errors import BadInput, Unsupported
from holdfast.llm.backends.module import as_llm
from tests.models import build


def test_arrays_stand_at_the_paths_that_their_names_say() -> None:
    given = {"a.b.weight": np.ones((2, 3)), "a.bias": [1.0, 2.0], "c": torch.zeros(4)}
    llm = as_llm(given)
    values = llm.get_parameters()
    assert {n: tuple(t.shape) for n, t in values.items()} == {"c": (4,), "a.bias": (2,), "a.b.weight": (2, 3)}
    assert {t.dtype for t in values.values()} == {torch.float32}
    llm.update_parameters({"a.bias": [1.0, 1.0]}, learning_rate=0.5)
    assert llm.get_parameters()["a.bias"].tolist() == [0.5, 1.5]
    assert given["a.bias"] == [1.0, 2.0]


@pytest.mark.parametrize("name", ["a..b", ".a", "", "a.", "register_parameter"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        as_llm({name: [1.0]})


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(BadInput, match="'a' cannot be a parameter"):
        as_llm({"a": ["x"]})


def test_a_module_is_taken_as_it_is_and_generates_nothing() -> None:
    model = build("llama")
    llm = as_llm(model)
    assert llm.model is model and as_llm(llm) is llm
    with pytest.raises(Unsupported, match="without a tokenizer"):
        llm.generate("Hi")


def test_a_plain_step_is_p_minus_lr_times_g() -> None:
    llm = as_llm(nn.Linear(3, 2))
    before = llm.get_parameters()
    gradient = torch.randn(2, 3)
    after = llm.update_parameters({"weight": gradient.tolist()}, learning_rate=0.1)
    assert torch.allclose(after["weight"], before["weight"] - 0.1 * gradient, atol=1e-7)
    assert torch.equal(llm.get_parameters()["bias"], before["bias"])
