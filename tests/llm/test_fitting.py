"""Training from text is the run of a recipe: same rules, same bits; what is frozen stays, the rest starts anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from holdfast._errors import BadInput, Unsupported
from holdfast.llm import FrozenAdaptiveLLM, create_frozen_config, create_llm, create_llm_config
from holdfast.llm.fitting import values
from holdfast.recipe import load, run
from tests.recipe.small import PLAYS

TRAIN = {"max_steps": 4, "per_device_train_batch_size": 4, "use_cpu": True}
STRATEGIES = ("frozen", "adaptive", "selective", "incremental", "gradual")


def tiny(**settings: Any) -> FrozenAdaptiveLLM:
    given = {"max_learning_rate": 1e-2, "min_learning_rate": 1e-5, **settings}
    return FrozenAdaptiveLLM(create_llm(create_llm_config("tiny")), create_frozen_config(**given))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_it_is_the_run_of_a_recipe_bit_for_bit(tmp_path: Path) -> None:
    llm = tiny(strategy="gradual", frozen_layers=["embedding", "encoder"])
    before = llm.get_parameters()
    certificate = llm.fit(PLAYS, evaluate=PLAYS[:9], length=32, learning_rate=1e-3, folder=tmp_path / "a", **TRAIN)

    (tmp_path / "plays.txt").write_text("\n\n".join(PLAYS), "utf-8")
    said = load(tmp_path / "a" / "recipe.yaml").model_dump()
    names = [name for entry in said["rules"] for name in entry]
    assert names == ["frozen", "gradual", "rollback", "adaptive"]
    learn, held = tmp_path / "learn.jsonl", tmp_path / "held.jsonl"
    for file, texts in ((learn, PLAYS), (held, PLAYS[:9])):
        datasets.Dataset.from_list([{"text": text} for text in texts]).to_json(str(file))
    frozen = said["rules"][0]["frozen"]["select"]
    asked = {"keep": None, "length": 32, "train": {"learning_rate": 1e-3, **TRAIN}}
    recipe = values("tiny", llm.config, frozen, str(learn), str(held), asked)
    run(load({**recipe, "output": str(tmp_path / "b")}))
    theirs = load_file(tmp_path / "b" / "final" / "model.safetensors")
    assert same(theirs, llm.get_parameters())
    still = {n for n, v in llm.get_parameters().items() if torch.equal(v, before[n])}
    assert still == set(frozen)
    assert certificate["steps"] == 4 and certificate["learnt"][0]["gain"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_learns_from_text_or_stands_still(strategy: str) -> None:
    llm = tiny(strategy=strategy, update_frequency=2)
    before = llm.get_parameters()
    llm.fit(PLAYS[:20], length=32, learning_rate=1e-3, **{**TRAIN, "max_steps": 2})
    assert same(before, llm.get_parameters()) is (strategy == "frozen")


@pytest.mark.slow
def test_records_a_dataset_and_texts_are_read_alike() -> None:
    answers = []
    for given in (PLAYS, [{"text": t} for t in PLAYS], datasets.Dataset.from_list([{"text": t} for t in PLAYS])):
        llm = tiny()
        llm.fit(given, length=32, **{**TRAIN, "max_steps": 1})
        answers.append(llm.get_parameters())
    assert same(answers[0], answers[1]) and same(answers[0], answers[2])


@pytest.mark.slow
def test_a_guarded_text_is_kept_as_in_a_recipe(tmp_path: Path) -> None:
    keep = {"suites": ["tiny/stories"], "probe": "none", "rows": 48}
    certificate = tiny().fit(PLAYS, keep=keep, length=32, **{**TRAIN, "max_steps": 1})
    assert [entry["text"] for entry in certificate["kept"]] == ["tiny/stories"]


@pytest.mark.slow
def test_freezing_lasts_and_checkpoints_from_before_still_serve(tmp_path: Path) -> None:
    llm = tiny(frozen_layers=["embedding"])
    gradient = {"model.norm.weight": torch.ones(64)}
    llm.update_parameters(gradient, 0.5)
    llm.save_checkpoint(tmp_path / "x.pkl")
    before = llm.get_parameters()
    llm.fit(PLAYS[:20], length=32, learning_rate=1e-3, **{**TRAIN, "max_steps": 2})
    after = llm.get_parameters()
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert llm.get_parameter_info()["model.embed_tokens.weight"].frozen
    assert list(llm.update_parameters(gradient)) == ["model.norm.weight"]
    assert llm.rollback_to_checkpoint(tmp_path / "x.pkl") is True
    assert same(before, llm.get_parameters())


@pytest.mark.slow
def test_movements_that_waited_are_trained_on_and_not_lost() -> None:
    llm = tiny(strategy="incremental", update_frequency=5, frozen_layers=["layers(0:5)", "embedding"])
    start = llm.get_parameters()["model.norm.weight"]
    for _ in range(2):
        assert llm.update_parameters({"model.norm.weight": torch.ones(64)}) == {}
    llm.fit(PLAYS[:20], length=32, learning_rate=1e-5, **{**TRAIN, "max_steps": 1, "optim": "sgd"})
    moved = llm.get_parameters()["model.norm.weight"] - start
    assert moved.mean().item() == pytest.approx(-2e-4, rel=0.05)


def test_what_cannot_be_learnt_from_changes_nothing(tmp_path: Path) -> None:
    llm = tiny()
    before = llm.get_parameters()
    for wrong in ([], str(tmp_path / "nowhere.txt")):
        with pytest.raises(BadInput):
            llm.fit(wrong, **TRAIN)
    assert same(before, llm.get_parameters())
    mock = FrozenAdaptiveLLM(create_llm(create_llm_config("mock")))
    with pytest.raises(Unsupported, match="tokenizer"):
        mock.fit(PLAYS)
