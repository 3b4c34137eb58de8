"""Recipes that bring new tokens: what trains, what stands still, what is written, and what is said."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.items.made_up import made_up
from holdfast.items.writing import write
from holdfast.recipe import Recipe, load, plan, run, running
from holdfast.recipe.catalogue import MADE_UP, catalogue
from holdfast.recipe.vocabulary import tokens
from holdfast.vocabulary import as_before, new_rows
from holdfast.vocabulary.rows import embedding_of
from tests.recipe.small import texts


def values(folder: Path, **more: Any) -> dict[str, Any]:
    """A few steps on a made-up catalogue, one text guarded."""
    return {
        "base": "tiny",
        "vocabulary": {"items": MADE_UP},
        "learn": {"data": MADE_UP, "length": 64, "tasks": {"history": 0.2}},
        "keep": {"rows": 16, "suites": [texts(folder)["old"]], "probe": "none"},
        "train": {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "weight_decay": 0.1,
            "logging_steps": 1,
            "use_cpu": True,
        },
        "monitor": {"every": 4, "rows": 4},
        "samples": {"tokens": 4},
        "output": str(folder / "run"),
        **more,
    }  # fmt: skip


def recipe(folder: Path, **more: Any) -> Recipe:
    return load(values(folder, **more))


def moved(folder: Path) -> set[str]:
    """The parameters of a run's final model that are not the base's."""
    base = dict(load_base("tiny").model.named_parameters())
    model = load_adapted(folder / "final").model
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = {name.replace(".base_layer", ""): p for name, p in plain.named_parameters() if "lora_" not in name}
    return {name for name, p in found.items() if name not in base or not torch.equal(p, base[name])}


def slow(*given: Any) -> Any:
    return pytest.param(*given, marks=pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Without the pages of the report, which have tests of their own."""
    with patch.object(running, "write_report", lambda runs, target, title: target):
        yield


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of the guide, and what it said."""
    folder, said = tmp_path_factory.mktemp("frozen"), list[str]()
    settings = {**values(folder)["train"], "save_strategy": "steps", "save_steps": 2}
    run(recipe(folder, freeze_llm=True, train=settings), progress=lambda line: said.append(line.get("text", "")))
    return folder / "run", said


def test_the_guide_s_log_lines_tell_true_numbers(frozen: tuple[Path, list[str]]) -> None:
    """24 tokens of width 64, in one matrix: the embedding is tied to the head."""
    vocabulary = len(made_up().vocabulary)
    rows, base = 64 * vocabulary, sum(p.numel() for p in load_base("tiny").model.parameters())
    share = f"{100 * rows / (base + rows):.4f}%"
    said = [line for line in frozen[1] if line.startswith(("Adding", "Freezing", "Unfrozen", "Trainable"))]
    assert said == [
        f"Adding {vocabulary} new tokens to tokenizer",
        "Freezing LLM parameters, only training new token embeddings",
        f"Unfrozen {vocabulary} new token embeddings (indices 512 to {511 + vocabulary})",
        f"Trainable parameters (with grad-mask): {rows:,} / {base + rows:,} ({share})",
    ]


def test_only_new_rows_move_at_weight_decay(frozen: tuple[Path, list[str]]) -> None:
    folder, _ = frozen
    assert moved(folder) == {"model.embed_tokens.new_rows"}
    state = torch.load(folder / "checkpoint-4/optimizer.pt", weights_only=True)["state"]
    assert [tuple(entry["exp_avg"].shape) for entry in state.values()] == [(len(made_up().vocabulary), 64)]
    assert {file.name for file in (folder / "checkpoint-4").iterdir()} >= {"trained.safetensors", "tokenizer.json"}
    assert not (folder / "checkpoint-4/model.safetensors").exists()
    written = {file.name for file in (folder / "final").iterdir()}
    assert {"new_rows.safetensors", "vocabulary.json", "tokenizer.json", "README.md"} <= written
    assert "model.safetensors" not in written and "training_args.bin" not in written


def test_the_base_s_own_tokens_are_kept_to_the_last_bit(frozen: tuple[Path, list[str]]) -> None:
    base, tuned = load_base("tiny"), load_adapted(frozen[0] / "final")
    ids = torch.tensor([base.tokenizer("Once upon a time, there was a little girl.")["input_ids"]])
    before, after = base.model(input_ids=ids).logits, tuned.model(input_ids=ids).logits
    assert torch.equal(after[..., :512], before)
    with as_before(tuned.model):
        assert torch.equal(tuned.model(input_ids=ids).logits, before)


def test_the_certificate_counts_from_the_base_without_new_tokens(frozen: tuple[Path, list[str]]) -> None:
    """What new tokens take from the probabilities of old ones is forgetting as well."""
    (kept,) = json.loads((frozen[0] / "certificate.json").read_text())["kept"]
    assert kept["ratio"] > 1 and kept["low"] > 0


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_end(frozen: tuple[Path, list[str]], tmp_path: Path) -> None:
    def stop(line: Mapping[str, Any]) -> None:
        if line["kind"] == "step" and line["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    asked = load(frozen[0] / "recipe.yaml")
    assert asked.freeze_llm and asked.method.name == "rows"
    assert run(asked, folder=tmp_path / "run", progress=stop).certificate is None
    run(asked, folder=tmp_path / "run", resume=True)
    ours, whole = (load_file(folder / "final/new_rows.safetensors") for folder in (tmp_path / "run", frozen[0]))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("method", "rules", "trained"),
    [
        ({"name": "lora", "targets": "mlp", "rank": 2}, [], "adapter"),
        slow({"name": "full"}, [{"frozen": {"select": "~(layers(4:5) | adapter)"}}], "layers.4"),
        slow({"name": "full"}, [{"ewc": {"source": "old", "strength": 10.0}}], "model."),
        slow({"name": "rows"}, [{"replay": {"source": "old", "share": 0.5}}, {"l2sp": {}}], "new_rows"),
    ],
    ids=["lora", "chosen layers", "everything with EWC", "rows with replay"],
)
def test_rows_train_with_what_a_method_and_rules_choose(
    tmp_path: Path, method: dict[str, Any], rules: list[dict[str, Any]], trained: str
) -> None:
    old = texts(tmp_path)["old"]
    named = [{k: {**v, "source": old} if "source" in v else v for k, v in rule.items()} for rule in rules]
    run(recipe(tmp_path, method=method, rules=named))
    folder = tmp_path / "run"
    if trained == "adapter":
        assert moved(folder) == {"model.embed_tokens.new_rows"}
        assert (folder / "final/adapter_model.safetensors").is_file()
    elif trained == "new_rows":
        assert moved(folder) == {"model.embed_tokens.new_rows"}
    else:
        assert all(trained in name or name == "model.embed_tokens.weight" for name in moved(folder))
        plain = AutoModelForCausalLM.from_pretrained(folder / "final")
        assert plain.config.vocab_size == 512 + len(made_up().vocabulary) == len(plain.get_input_embeddings().weight)
        rows, base = plain.get_input_embeddings().weight, load_base("tiny").model.get_input_embeddings().weight
        assert torch.equal(rows[:512], base) == (trained == "layers.4")
    ids = AutoTokenizer.from_pretrained(folder / "final")("<a_1><b_2><c_3>", add_special_tokens=False)["input_ids"]
    assert len(ids) == 3 and min(ids) >= 512


@pytest.mark.slow
def test_a_governed_run_holds_its_budget_with_new_tokens(tmp_path: Path) -> None:
    old = texts(tmp_path)["old"]
    keep = {"rows": 48, "suites": [old], "probe": "none", "budget": 0.9, "every": 2, "look": 8}
    train = {**values(tmp_path)["train"], "learning_rate": 0.05}
    result = run(recipe(tmp_path, keep=keep, train=train, freeze_llm=True))
    assert result.verdict == "holds" and moved(tmp_path / "run") == {"model.embed_tokens.new_rows"}


@pytest.mark.slow
def test_a_grown_index_goes_on_from_a_run(frozen: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Its tokens keep their ids and rows; the new ones follow, whatever their names."""
    run(recipe(tmp_path, base=str(frozen[0] / "final"), freeze_llm=True,
               vocabulary={"items": MADE_UP, "tokens": ["<a_00>", "<z>"]}))  # fmt: skip
    old, new = (json.loads((f / "final/vocabulary.json").read_text()) for f in (frozen[0], tmp_path / "run"))
    assert new["tokens"] == [*old["tokens"], "<a_00>", "<z>"] and new["base"] == "tiny"


@pytest.mark.slow
def test_text_starts_rows_at_the_titles_of_their_items(tmp_path: Path) -> None:
    shop = made_up()
    write(shop, tmp_path / "shop")
    data = str(tmp_path / "shop")
    train = {**values(tmp_path)["train"], "max_steps": 1, "learning_rate": 1e-9}
    vocabulary = {"items": data, "initialise": {"text": {"spread": 0.0}}}
    learn = {"data": data, "length": 64, "tasks": {"history": 0.02}}
    run(recipe(tmp_path, freeze_llm=True, train=train, vocabulary=vocabulary, learn=learn))
    tuned, base = load_adapted(tmp_path / "run/final"), load_base("tiny")
    token = shop.vocabulary[0]
    titles = [shop.title(item) for item, named in shop.tokens.items() if token in named]
    matrix = base.model.get_input_embeddings().weight
    ids = [base.tokenizer(title, add_special_tokens=False)["input_ids"] for title in titles]
    wanted = torch.stack([matrix[row].mean(0) for row in ids]).mean(0)
    torch.testing.assert_close(embedding_of(tuned.model).new_rows[0], wanted, atol=1e-4, rtol=1e-4)


def test_the_plan_counts_new_rows_alone(tmp_path: Path) -> None:
    planned = plan(recipe(tmp_path, freeze_llm=True))
    assert sum(param.numel for param in planned.freeze.trained) == 64 * len(made_up().vocabulary)


def test_learning_and_judging_ask_in_the_same_words(tmp_path: Path) -> None:
    asked = recipe(tmp_path, learn={"data": MADE_UP, "length": 64, "templates": {"history": "Had {ids}, then"}})
    shop = catalogue(asked)
    assert shop is not None and tokens(asked.vocabulary) == shop.vocabulary  # type: ignore[arg-type]


def test_the_folder_that_an_index_was_built_in_is_enough(tmp_path: Path) -> None:
    items = made_up()
    index = tmp_path / "ids" / "made-up.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps(items.tokens))
    write(replace(items, tokens={}), tmp_path / "shop")
    asked = recipe(tmp_path, vocabulary={"items": str(tmp_path / "ids")}, learn={"data": str(tmp_path / "shop")})
    found = catalogue(asked)
    assert found is not None and found.tokens == items.tokens
    assert tokens(asked.vocabulary) == items.vocabulary


# What cannot be used -------------------------------------------------------------------------------------------------


def test_freezing_without_new_tokens_stops_before_it_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadInput, match=r"no new tokens were found.*vocabulary\.items.*vocabulary\.dataset"):
        run(recipe(tmp_path, freeze_llm=True, vocabulary={"tokens": ["a"]}))
    assert "No new tokens were added: all parameters are frozen." in caplog.text
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadInput, match="The new token 'the' stands in"):
        run(recipe(tmp_path, freeze_llm=True, vocabulary={"tokens": ["the"]}))
    with pytest.raises(BadInput, match="Likely causes"):
        run(recipe(tmp_path, freeze_llm=True, vocabulary=None, learn={"data": texts(tmp_path)["new"], "length": 32}))


def test_freezing_beside_a_method_is_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Leave one of them away"):
        recipe(tmp_path, freeze_llm=True, method={"name": "lora"})


def test_an_index_that_is_missing_or_of_another_catalogue(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no index"):
        run(recipe(tmp_path, vocabulary={"items": str(tmp_path / "none.index.json")}))
    (tmp_path / "other.index.json").write_text(json.dumps({"0": ["<a_1>"]}))
    with pytest.raises(BadInput, match="items have no semantic ID"):
        run(recipe(tmp_path, vocabulary={"items": str(tmp_path / "other.index.json")}))
    bare = tmp_path / "bare"
    write(made_up(identifiers=False), bare)
    with pytest.raises(BadInput, match=r"bare have no semantic IDs yet.*sid build .*bare"):
        run(recipe(tmp_path, vocabulary={"items": str(bare)}))
    with pytest.raises(UnknownName, match="task called 'historie'"):
        run(recipe(tmp_path, learn={"data": MADE_UP, "length": 64, "tasks": {"historie": 1.0}}))
    with pytest.raises(BadInput, match="are asked about items"):
        run(recipe(tmp_path, learn={"data": texts(tmp_path)["new"], "length": 32, "tasks": {"history": 1.0}}))
    with pytest.raises(BadInput, match="needs an index with codebooks"):
        run(recipe(tmp_path, vocabulary={"items": MADE_UP, "initialise": "codebook"}))


def test_an_adapter_on_the_embedding_hides_the_rows(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="puts weights of its own on embedding or head"):
        run(recipe(tmp_path, method={"name": "lora", "targets": ["lm_head"], "rank": 2}))


def test_a_model_without_new_tokens_is_as_ever() -> None:
    model = load_base("tiny").model
    assert not new_rows(model)
    with as_before(model):
        assert model.config.vocab_size == 512
