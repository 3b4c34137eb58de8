"""The model of a recipe: what it was stored as, and whether an adapter goes on as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast._errors import BadInput, UnknownName, UnmatchedSelect, Unsupported
from holdfast.adapters.method import methods
from holdfast.adapters.quantised import is_quantised
from holdfast.base import load_base
from holdfast.recipe import run
from holdfast.recipe.model import check_method, for_task, opened, trainable
from holdfast.recipe.planning import plan
from holdfast.recipe.texts import Texts
from holdfast.sequence.schema import sequence
from tests.recipe.small import recipe, values


def adapter(folder: Path, name: str) -> Path:
    model = methods.apply(name, load_base("tiny").model, {"rank": 2}, seed=0, steps=4)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("made", "method", "fits"),
    [
        ("lora", "lora", True),
        ("adalora", "adalora", False),
        ("adalora", "lora", False),
        ("lora", "adalora", False),
        ("lora", "full", False),
        ("lora", "ia3", False),
        ("lora", "qlora", False),
    ],
)
def test_an_adapter_goes_on_by_the_method_that_made_it(tmp_path: Path, made: str, method: str, fits: bool) -> None:
    of = f"base={adapter(tmp_path / made, made)}"
    asked = recipe(tmp_path, of, f"method.name={method}", "keep.budget=null", *(["method.rank=2"] if fits else []))
    base = opened(asked, trainable=True)
    texts = Texts(asked, base)
    headed = for_task(asked, base, texts)
    if fits:
        assert trainable(asked, base, texts, headed, 4) is headed
        return
    with pytest.raises((BadInput, Unsupported), match=r"of the kind|cannot learn on|goes on as|otherwise"):
        trainable(asked, base, texts, headed, 4)


def test_a_quantised_base_is_loaded_so_and_planned_so(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised bases take the extra `quantise`")
    asked = recipe(tmp_path, "method.name=qlora", "method.rank=4")
    assert is_quantised(opened(asked).model) and not is_quantised(opened(recipe(tmp_path)).model)
    stored, plain = plan(asked).freeze.cost.weights, plan(recipe(tmp_path, "method.name=lora")).freeze.cost.weights
    model = opened(asked).model
    assert model.get_memory_footprint() == pytest.approx(stored - 4 * 28320 / 2, rel=0.1) and stored < plain / 2


@pytest.mark.parametrize(("override", "error", "said"), [
    ("method.targets=[up_prj]", UnmatchedSelect, "up_proj"),
    ("method.rank=65", BadInput, "64 wide"),
    ("method.layers=layers(0:9)", BadInput, "five|5"),
    ("method.init=pisa", UnknownName, "pissa"),
])  # fmt: skip
def test_a_method_is_checked_before_any_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, error: type[Exception], said: str
) -> None:
    def loaded(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("holdfast.recipe.model.load_adapted", loaded)
    asked = recipe(tmp_path, "method.name=lora", override)
    with pytest.raises(error, match=said):
        check_method(asked)
    with pytest.raises(error, match=said):
        run(asked)
    assert not Path(asked.output).exists()


def test_what_cannot_be_merged_is_not_merged_between_tasks(tmp_path: Path) -> None:
    raw = {key: value for key, value in values(tmp_path).items() if key not in ("learn", "rules")}
    tasks = {**raw, "keep": {"probe": "none"}, "tasks": [{"name": "a", "data": "tiny/shakespeare"}]}
    for name in ("bottleneck", "prompt", "qlora"):
        with pytest.raises(BadInput, match="cannot be merged"):
            sequence({**tasks, "adapter": "merge", "method": {"name": name}})
        sequence({**tasks, "method": {"name": name}})


def test_an_adapter_goes_on_with_its_own_settings_alone(tmp_path: Path) -> None:
    """As it was made, or not at all: rank, places and storage of the recipe would else be ignored without a word."""
    made = methods.apply("lora", load_base("tiny").model, {"rank": 2, "targets": "attention"}, seed=0)
    made.save_pretrained(tmp_path / "made")

    def brought(*settings: str) -> object:
        asked = recipe(tmp_path, f"base={tmp_path / 'made'}", "method.name=lora", "keep.budget=null", *settings)
        base = opened(asked, trainable=True)
        texts = Texts(asked, base)
        return trainable(asked, base, texts, for_task(asked, base, texts), 4)

    brought("method.rank=2", "method.targets=attention")
    for other in (["method.rank=4", "method.targets=attention"], ["method.rank=2"], []):
        with pytest.raises(BadInput, match="goes on as it was made"):
            brought(*other)


def test_what_cannot_learn_on_is_not_asked_to(tmp_path: Path) -> None:
    raw = {key: value for key, value in values(tmp_path).items() if key not in ("learn", "rules")}
    two = [{"name": name, "data": "tiny/shakespeare"} for name in "ab"]
    for name in ("prompt", "adalora", "ptuning"):
        with pytest.raises(BadInput, match="cannot learn on"):
            sequence({**raw, "keep": {"probe": "none"}, "tasks": two, "method": {"name": name}})


@pytest.mark.slow
def test_a_prompt_is_judged_beside_the_base_without_it(tmp_path: Path) -> None:
    """The certificate, the governor and the teacher all count from what the base said before there was a prompt."""
    asked = recipe(tmp_path, "method.name=prompt", "method.tokens=4", "train.learning_rate=1e-9", "keep.govern=false")
    result = run(asked)
    assert result.certificate is not None
    assert all(entry["ratio"] > 1.01 for entry in result.certificate["kept"] if entry["text"] != "self")
    probes = [line for line in (result.folder / "log.jsonl").read_text().splitlines() if '"probe"' in line]
    assert probes and torch.tensor([float(line.split('"rise": ')[1].split(",")[0]) for line in probes]).max() > 0.01
