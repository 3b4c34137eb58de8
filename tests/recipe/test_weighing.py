"""What matters in a model, part by part."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from holdfast._errors import BadInput, UnknownName
from holdfast.base import load_base
from holdfast.params.importance import scores
from holdfast.params.inventory import inventory
from holdfast.recipe import render_weighed, weigh
from holdfast.recipe.weighing import Weighed, _parts, figures
from tests.models import build
from tests.recipe.small import texts


def told(weighed: Weighed) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(render_weighed(weighed))
    return out.getvalue()


def test_a_part_is_the_mean_over_all_its_elements() -> None:
    weighed = weigh("tiny", "magnitude")
    model = load_base("tiny").model
    block = [p for n, p in model.named_parameters() if "layers.3.mlp" in n]
    mean = torch.cat([p.detach().double().abs().flatten() for p in block]).mean()
    assert weighed.parts["mlp", 3] == pytest.approx(float(mean), rel=1e-6)
    assert weighed.parts["embedding and head", None] == weighed.tensors["model.embed_tokens.weight"]
    assert weighed.share(list(weighed.tensors)) == pytest.approx(1.0)


def test_figures_and_levels_are_told(tmp_path: Path) -> None:
    data, seen = texts(tmp_path)["old"], list[int]()
    weighed = weigh("tiny", "fisher", data=data, rows=12, length=32, progress=seen.append)
    assert seen == [8, 12] and weighed.about.endswith("12 rows")
    page = told(weighed)
    assert figures(weighed.parts.values())(weighed.parts["attention", 2]) in page and "outside the blocks" in page
    assert "share: what the tensors" in page
    assert all(level in page for level in ("critical", "important", "moderate", "low"))
    assert f"highest: {max(weighed.tensors, key=weighed.tensors.__getitem__)}" in page
    again = weigh("tiny", "fisher", data=data, rows=12, length=32, select="layers(2:3)")
    assert again.tensors == {n: pytest.approx(v, rel=1e-5) for n, v in weighed.tensors.items() if "layers.2." in n}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.112, 1.93, 10.3], ["0.11", "1.93", "10.30"]),
        ([0.0346, 1.81], ["0.035", "1.810"]),
        ([0.0, 0.25], ["0.00", "0.25"]),
        ([12.0, 345.6, 1234.5], ["12", "346", "1,234"]),
        ([2.5e-7, 0.31], ["2.5e-07", "3.1e-01"]),
        ([0.0, 0.0], ["0.0", "0.0"]),
        ([-0.5, 120000.0], ["-5.0e-01", "1.2e+05"]),
    ],
)
def test_figures_are_plain_where_few_decimals_do(values: list[float], told: list[str]) -> None:
    assert [figures(values)(value) for value in values] == told


def test_movement_is_from_a_base(tmp_path: Path) -> None:
    base = load_base("tiny")
    with torch.no_grad():
        base.model.get_parameter("model.layers.4.mlp.up_proj.weight").add_(0.25)
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    weighed = weigh(tmp_path, "movement", base="tiny")
    assert {part for part, value in weighed.parts.items() if value} == {("mlp", 4)}
    assert weighed.tensors["model.layers.4.mlp.up_proj.weight"] == pytest.approx(0.25)
    assert "from tiny" in " ".join(told(weighed).split())


def test_two_stacks_are_told_apart() -> None:
    params = inventory(build("t5"))
    parts = _parts(params, {param.path: 1.0 for param in params})
    assert {("encoder.block attention", 0), ("decoder.block attention", 0), ("norm", None)} <= set(parts)
    assert set(parts.values()) == {1.0}


def test_what_a_score_needs_is_asked_for() -> None:
    for score in scores.names():
        if score == "magnitude":
            continue
        with pytest.raises(BadInput, match="--base" if score == "movement" else "--data"):
            weigh("tiny", score)
    with pytest.raises(UnknownName, match="fisher"):
        weigh("tiny", "fischer")
