"""Two models have the same name exactly where they are the same."""

from __future__ import annotations

import torch

from holdfast.params.fingerprint import structure, weights
from tests.models import build


def test_the_same_model_has_the_same_names() -> None:
    assert structure(build("llama")) == structure(build("llama", seed=1))
    assert weights(build("llama")) == weights(build("llama"))


def test_other_structures_and_types_have_other_names() -> None:
    models = [build("llama"), build("llama", tied=False), build("llama").bfloat16(), build("qwen2"), build("lora")]
    assert len({structure(m) for m in models}) == len({weights(m) for m in models}) == len(models)


def test_an_optimiser_step_gives_another_name() -> None:
    model = build("llama")
    names = {weights(model)}
    for path in ("model.norm.weight", "model.embed_tokens.weight"):
        with torch.no_grad():
            model.get_parameter(path).mul_(1.001)
        names.add(weights(model))
    assert len(names) == 3


def test_the_first_and_the_last_element_are_looked_at() -> None:
    model, names = build("llama"), set()
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    for change in (0.0, 1.0):
        for place in ((0, 0), (-1, -1)):
            with torch.no_grad():
                weight[place] += change
            names.add(weights(model))
    assert len(names) == 3


def test_scalars_and_empty_tensors_have_a_place() -> None:
    module = torch.nn.Module()
    module.scale, module.none = torch.nn.Parameter(torch.tensor(2.0)), torch.nn.Parameter(torch.empty(0, 3))
    before = weights(module)
    module.scale.data += 1
    assert weights(module) != before
