"""The guide on freezing all but semantic IDs: its names, its log lines, and what each step of it is for."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import holdfast.llm
from holdfast._errors import BadInput
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.items.made_up import made_up
from holdfast.items.writing import write
from holdfast.llm import TokenExtender
from holdfast.recipe import load, run, running
from tests.guides.printed import check_signature, handed_over
from tests.recipe.small import texts

LINES = (
    "Adding {n} new tokens to tokenizer",
    "Freezing LLM parameters, only training new token embeddings",
    "Unfrozen {n} new token embeddings (indices {first} to {last})",
    "Trainable parameters (with grad-mask): {trained:,} / {all:,} ({share:.4f}%)",
)


def recipe(folder: Path, data: Path, **more: Any) -> Any:
    return load(
        {
            "base": "tiny",
            "vocabulary": {"items": str(data)},
            "freeze_llm": True,
            "learn": {"data": str(data), "length": 64},
            "keep": {"rows": 16, "suites": [texts(folder)["old"]], "probe": "none"},
            "train": {
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
                "use_cpu": True,
                "weight_decay": 0.1,
                "learning_rate": 3e-2,
                "warmup_steps": 1,
                "train_sampling_strategy": "group_by_length",
            },
            "early_stopping": {"patience": 3, "every": 2},
            "monitor": {"every": 4, "rows": 4},
            "samples": {"tokens": 4},
            "output": str(folder / "run"),
            **more,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Without the pages of the report, which have tests of their own."""
    with patch.object(running, "write_report", lambda runs, target, title: target):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue in the layout of the guide's project."""
    folder = tmp_path_factory.mktemp("shop")
    write(made_up(users=60), folder)
    return folder


@pytest.fixture(scope="module")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder, said = tmp_path_factory.mktemp("trained"), list[str]()
    run(recipe(folder, shop), progress=lambda line: said.append(str(line.get("text", ""))))
    return folder / "run", said


def test_the_guide_says_what_is_tested_here() -> None:
    printed = handed_over("parameter-freezing-sid.md")
    for line in LINES:
        assert line.split("{")[0].strip() in printed
    assert all(name in printed for name in ("data_path", "dataset", "index_file", "get_new_tokens", "_load_data"))


def test_names() -> None:
    check_signature("TokenExtender", {"data_path": inspect.Parameter.empty, "dataset": inspect.Parameter.empty,
                                      "index_file": ".index.json"})  # fmt: skip
    check_signature("TokenExtender.get_new_tokens", {})
    check_signature("TokenExtender._load_data", {})
    assert "TokenExtender" in holdfast.llm.__all__


def test_component_a_loads_the_index_and_gives_its_tokens_once_sorted(shop: Path) -> None:
    (index,) = shop.rglob("*.index.json")
    extender = TokenExtender(str(index.parent), index.name.removesuffix(".index.json"))
    tokens = extender.get_new_tokens()
    assert extender.indices == json.loads(index.read_text())
    assert tokens == sorted({token for named in extender.indices.values() for token in named}) == extender.new_tokens


def test_component_b_freezes_all_but_new_rows(trained: tuple[Path, list[str]]) -> None:
    """It learns, only what it says moved, and what is saved gives equal logits."""
    folder, _ = trained
    (learnt,) = json.loads((folder / "certificate.json").read_text())["learnt"]
    assert learnt["gain"] > 0.2 and learnt["low"] > 0
    base, tuned = load_base("tiny").model, load_adapted(folder / "final")
    old = dict(base.named_parameters())
    model: Any = tuned.model
    assert all(torch.equal(p, old[name]) for name, p in model.named_parameters() if name in old)
    assert {name for name, _ in model.named_parameters()} - set(old) == {"model.embed_tokens.new_rows"}
    again = load_adapted(folder / "final").model
    ids = torch.tensor([tuned.tokenizer("History: <a_1><b_2><c_3>")["input_ids"]])
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_the_log_lines_in_their_order_and_with_true_numbers(trained: tuple[Path, list[str]]) -> None:
    _, said = trained
    count = len(made_up(users=60).vocabulary)
    base = sum(p.numel() for p in load_base("tiny").model.parameters())
    trains = 64 * count
    numbers = {"n": count, "first": 512, "last": 511 + count, "trained": trains, "all": base + trains}
    told = [line.format(**numbers, share=100 * trains / (base + trains)) for line in LINES]
    assert [line for line in said if line in told] == told


@pytest.mark.slow
def test_component_c_trains_with_bf16_lengths_early_stopping_and_a_pad_token(shop: Path, tmp_path: Path) -> None:
    train = {**recipe(tmp_path, shop).train, "bf16": True, "max_steps": 2}
    run(recipe(tmp_path, shop, train=train))
    rows = load_file(tmp_path / "run/final/new_rows.safetensors")["input"]
    assert rows.dtype is torch.float32 and torch.isfinite(rows).all()
    assert (tmp_path / "run/final/tokenizer.json").is_file()


@pytest.mark.slow
def test_a_seed_gives_the_same_rows_again(trained: tuple[Path, list[str]], shop: Path, tmp_path: Path) -> None:
    run(recipe(tmp_path, shop))
    ours, theirs = (load_file(f / "final/new_rows.safetensors")["input"] for f in (tmp_path / "run", trained[0]))
    assert torch.equal(ours, theirs)


def test_it_becomes_a_plain_model(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    holdfast.export.export(trained[0], tmp_path / "plain")
    plain, ours = AutoModelForCausalLM.from_pretrained(tmp_path / "plain"), load_adapted(trained[0] / "final")
    ids = torch.tensor([ours.tokenizer("History: <a_1><b_2><c_3>")["input_ids"]])
    torch.testing.assert_close(plain(input_ids=ids).logits, ours.model(input_ids=ids).logits)


def test_troubles_no_new_tokens_stop_before_training_with_the_likely_causes(
    trained: tuple[Path, list[str]], shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holdfast.export.export(trained[0], tmp_path / "plain")
    with caplog.at_level(logging.WARNING, "holdfast"), pytest.raises(BadInput, match="Likely causes"):
        run(recipe(tmp_path, shop, base=str(tmp_path / "plain")))
    assert "all parameters are frozen" in caplog.text and not (tmp_path / "run").exists()


def test_troubles_a_wrong_dataset_names_those_that_are_there(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="dataset"):
        run(recipe(tmp_path, shop, vocabulary={"items": str(shop), "dataset": "Office"}))
