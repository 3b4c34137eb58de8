"""Recipes on encoder-decoders: pairs of texts are learnt without a shift, kept, written and judged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from holdfast._errors import BadInput, Unsupported
from holdfast.base import load_base
from holdfast.data.formats import Completion, Text, read
from holdfast.data.pairs import pair_rows
from holdfast.data.rows import collate, learnt
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.metrics.answers import answers
from holdfast.evaluation.suites import load_suite
from holdfast.recipe import Result, load, plan, run

WORDS = ("sea", "rock", "weed", "tide", "foam", "sand", "gull", "kelp")


def pairs(kind: str, count: int, seed: int) -> list[dict[str, str]]:
    """Prompts of four words, each with the word at one place of them as its answer."""
    draw, place = random.Random(seed), {"first": 0, "last": -1}[kind]
    drawn = (draw.choices(WORDS, k=4) for _ in range(count))
    return [{"prompt": f"{kind} of {' '.join(words)}", "answer": words[place]} for words in drawn]


def write(file: Path, records: list[dict[str, str]]) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(file)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random T5 with the embedded vocabulary, and a tokenizer that ends each text as T5's does."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer: Any = load_base("tiny").tokenizer
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<unk>"})
    tokenizer.bos_token = None
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=512, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id, eos_token_id=end,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def values(base: Path, folder: Path) -> dict[str, Any]:
    old = write(folder / "old.jsonl", pairs("first", 60, 1))
    return {
        "base": str(base),
        "learn": {"data": write(folder / "new.jsonl", pairs("last", 80, 0)), "length": 32},
        "keep": {"probe": "none", "suites": [old], "rows": 16, "budget": 0.9, "govern": False},
        "train": {"learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 8, "use_cpu": True},
        "rules": [{"replay": {"share": 0.5, "source": old}}, {"l2sp": {"strength": 0.1}}],
        "monitor": {"every": 2, "rows": 4},
        "samples": {"tokens": 4},
        "output": str(folder / "run"),
    }


@pytest.fixture(scope="module")
def ran(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(load(values(base, tmp_path_factory.mktemp("ran"))))


def test_a_row_is_a_prompt_with_eos_and_a_target_with_eos(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    (row,) = pair_rows([Completion("sea rock", " rock")], tokenizer, length=16)
    assert row["input_ids"] == tokenizer("sea rock")["input_ids"]
    assert row["target"] == tokenizer("rock")["input_ids"] and row["target"][-1] == tokenizer.eos_token_id
    assert learnt(row) == len(row["target"])
    with pytest.raises(BadInput, match="record 2 is a text"):
        pair_rows([Completion("a", "b"), Text("c")], tokenizer, length=16)
    with pytest.raises(BadInput, match="record 1 is a prompt alone"):
        pair_rows([Completion("a", "")], tokenizer, length=16)


def test_losses_are_those_of_transformers_one_pair_at_a_time(base: Path) -> None:
    loaded = load_base(base)
    records = [Completion(" ".join(WORDS[: i + 1]), WORDS[i]) for i in range(6)]
    rows = pair_rows(records, loaded.tokenizer, length=32)
    ours = sequence_losses(loaded.model, rows, pad_id=loaded.pad_id)
    model: Any = loaded.model
    for row, total, tokens in zip(rows, ours.total, ours.tokens, strict=True):
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["target"]])).loss
        assert float(total / tokens) == pytest.approx(float(theirs), rel=1e-5)
    batch = collate(rows, loaded.pad_id)
    assert batch["labels"].shape == (6, max(len(row["target"]) for row in rows))
    assert bool((batch["labels"] == -100).any()) and "attention_mask" in batch
    with pytest.raises(Unsupported, match="decoder-only"):
        sequence_losses(loaded.model, [{"input_ids": [5, 6], "labels": [5, 6]}])


def test_the_certificate_is_what_the_final_model_does(ran: Result) -> None:
    assert ran.certificate is not None
    tuned = load_base(ran.folder / "final")
    assert type(tuned.model) is T5ForConditionalGeneration
    kept, learnt_entry = ran.certificate["kept"][0], ran.certificate["learnt"][0]
    assert kept["verdict"] in ("holds", "undecided", "broken") and kept["n"] == 8
    assert learnt_entry["gain"] > 0.5
    samples = json.loads((ran.folder / "samples.json").read_text("utf-8"))
    assert [sample["about"] for sample in samples] == ["old", "new"]
    assert samples[0]["prompt"].startswith("first of") and samples[1]["prompt"].startswith("last of")


def test_answers_are_those_of_generate(ran: Result) -> None:
    tuned = load_base(ran.folder / "final")
    theirs: Any = AutoModelForSeq2SeqLM.from_pretrained(ran.folder / "final")
    tokenizer: Any = AutoTokenizer.from_pretrained(ran.folder / "final")
    tasks = [Completion(record["prompt"], "") for record in pairs("last", 5, 7)] + [Completion("sea", "")]
    ours = answers(tuned.model, tuned.tokenizer, tasks, max_new_tokens=6, stop=())
    for task, answer in zip(tasks, ours, strict=True):
        made = theirs.generate(**tokenizer(task.prompt, return_tensors="pt"), max_new_tokens=6, do_sample=False)
        assert answer == tokenizer.decode(made[0], skip_special_tokens=True)


def test_a_suite_of_exact_matches_works_and_one_of_likelihoods_is_refused(base: Path, tmp_path: Path) -> None:
    loaded = load_base(base)
    data = write(tmp_path / "suite.jsonl", pairs("last", 12, 3))
    assert 0 <= load_suite({"name": "a", "data": data, "metric": "token_f1"}).score(loaded).figure <= 1
    with pytest.raises(Unsupported, match="decoder-only"):
        load_suite({"name": "a", "data": data, "metric": "loss"}).score(loaded)


def test_the_plan_of_a_run_on_pairs(base: Path, tmp_path: Path) -> None:
    assert plan(load(values(base, tmp_path))).rows == 72


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("keep.probe=self", "writes nothing without a prompt"),
        ("rules=[replay: {source: self}]", "writes nothing without a prompt"),
        ("rules=[distill: {where: new}]", "'distill' compares tokens"),
        ("rules.replay.labels=false", "'replay' compares tokens"),
        ("learn={data: tiny/stories}", "learns from a prompt and a completion"),
        ("learn.task=classify", "not to classify"),
    ],
)
def test_what_pairs_cannot_do_is_said_before_anything_begins(
    base: Path, tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises((BadInput, Unsupported), match=said):
        run(load(values(base, tmp_path), [override]))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_toy_task_is_learnt(base: Path, tmp_path: Path) -> None:
    given = values(base, tmp_path)
    given |= {"keep": {"probe": "none"}, "rules": [], "learn": {**given["learn"], "length": 32}}
    given["learn"]["data"] = write(tmp_path / "more.jsonl", pairs("last", 1000, 0))
    given["train"] |= {"max_steps": 600, "per_device_train_batch_size": 32, "learning_rate": 5e-3}
    done = run(load(given))
    tuned = load_base(done.folder / "final")
    fresh = write(tmp_path / "fresh.jsonl", pairs("last", 100, 5))
    asked = [record for record in read(fresh) if isinstance(record, Completion)]
    written = answers(tuned.model, tuned.tokenizer, asked, max_new_tokens=6)
    right = sum(a.strip() == r.completion.strip() for a, r in zip(written, asked, strict=True)) / 100
    assert right > 0.9
