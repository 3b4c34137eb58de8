"""Recipes that teach labels: what they leave, that it is what plain transformers sees, and what is kept meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from holdfast import sequence
from holdfast._errors import BadInput, BadRecord, UnknownName, Unsupported
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.report import write_report
from holdfast.recipe import Result, load, plan, run, score
from holdfast.recipe.texts import Texts
from holdfast.tiny import MODEL
from tests.models import build, quickly
from tests.recipe.small import texts

KINDS = {"sea": ("waves", "tide", "foam"), "shore": ("sand", "rock", "cliff"), "sky": ("cloud", "gull", "wind")}
NAMES = sorted(KINDS)


def records(count: int, seed: int) -> list[dict[str, str]]:
    """Short sentences whose words tell their label; one label is rare."""
    draw = random.Random(seed)
    labels = draw.choices(list(KINDS), weights=(6, 3, 1), k=count)
    return [{"text": f"One day {draw.randrange(9999)} {draw.choice(KINDS[kind])}", "label": kind} for kind in labels]


def write(file: Path, given: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in given), "utf-8")
    return str(file)


def values(folder: Path) -> dict[str, Any]:
    data = folder / "data"
    data.mkdir()
    write(data / "train.jsonl", records(120, 0)), write(data / "test.jsonl", records(60, 1))
    old = texts(folder)["old"]
    return {
        "base": "tiny",
        "learn": {"data": str(data), "task": "classify", "class_weights": "balanced", "length": 32},
        "keep": {"probe": "none", "rows": 48, "suites": [old], "budget": 0.9, "every": 4, "look": 8},
        "method": {"name": "lora", "targets": "mlp", "rank": 4},
        "train": {
            "learning_rate": 1e-2, "max_steps": 12, "per_device_train_batch_size": 16, "logging_steps": 1,
            "use_cpu": True,
        },
        "rules": [{"ewc": {"strength": 10.0, "source": old, "samples": 8}}],
        "monitor": {"every": 4, "rows": 8},
        "samples": {"tokens": 4},
        "output": str(folder / "run"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(load(values(tmp_path_factory.mktemp("ran"))))


@pytest.fixture(autouse=True)
def no_page(ran: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)


def told(model: Any, folder: Path, given: list[dict[str, str]]) -> list[str]:
    """What plain transformers predicts, in one padded batch."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([r["text"] for r in given], truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    names = AutoConfig.from_pretrained(folder).id2label
    return [names[int(i)] for i in found]


def agrees(entry: dict[str, Any], model: Any, folder: Path) -> None:
    given = records(60, 1)
    right, said = [record["label"] for record in given], told(model, folder, given)
    assert entry["accuracy"] == pytest.approx(accuracy_score(right, said))
    assert entry["macro_f1"] == pytest.approx(f1_score(right, said, average="macro"))


def test_an_adapter_with_its_head_is_what_peft_loads(ran: Result) -> None:
    assert ran.certificate is not None and ran.verdict == "holds"
    final = ran.folder / "final"
    config = AutoConfig.from_pretrained(final)
    assert config.label2id == {name: i for i, name in enumerate(NAMES)}
    assert json.loads((final / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"] == "tiny"
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, config=config)
    agrees(ran.certificate["learnt"][0], PeftModel.from_pretrained(base, final), final)


def test_the_gain_counts_from_the_best_constant_guess(ran: Result) -> None:
    assert ran.certificate is not None
    (entry,) = ran.certificate["learnt"]
    train, test = ([record["label"] for record in records(n, seed)] for n, seed in ((120, 0), (60, 1)))
    shares = torch.tensor([train.count(name) / 120 for name in NAMES])
    guess = -shares[[NAMES.index(label) for label in test]].log().mean()
    assert entry["base_loss"] == pytest.approx(float(guess), rel=1e-5) and "constant guess" in entry["reference"]
    assert entry["gain"] == pytest.approx(entry["base_loss"] - entry["loss"]) and entry["gain"] > 0.1
    assert entry["n"] == entry["tokens"] == 60 and [c["label"] for c in entry["classes"]] == NAMES


def test_text_is_kept_through_the_adapted_backbone(ran: Result) -> None:
    assert ran.certificate is not None
    (kept,) = ran.certificate["kept"]
    base, tuned = load_base("tiny"), load_adapted(ran.folder / "final")
    audit = Texts(load(ran.folder / "recipe.yaml"), load_base("tiny")).guarded[kept["text"]].audit
    before, after = (sequence_losses(model.model, audit.rows).mean() for model in (base, tuned))
    assert kept["rise"] == pytest.approx(after - before, abs=1e-5) and kept["rise"] != 0
    lines = [json.loads(line) for line in (ran.folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert {"learn", "probe", "governor", "importance"} <= {line["kind"] for line in lines}


def test_samples_card_and_report_speak_of_labels(ran: Result, tmp_path: Path) -> None:
    old, new = json.loads((ran.folder / "samples.json").read_text("utf-8"))
    assert old["base"] and old["tuned"]
    assert new["base"] == "" and new["tuned"].split(" (")[0] in NAMES and new["prompt"].startswith("One day")
    card = (ran.folder / "final/README.md").read_text("utf-8")
    assert "pipeline_tag: text-classification" in card and "macro-F1" in card
    page = write_report([ran.folder], tmp_path / "report.html").read_text("utf-8")
    assert "<h2>Labels</h2>" in page and "macro-F1" in page and "shore" in page
    figures = json.loads(write_report([ran.folder], tmp_path / "report.json").read_text("utf-8"))
    assert ran.certificate is not None
    (classes,) = figures["classes"]["run"].values()
    assert classes["accuracy"] == ran.certificate["learnt"][0]["accuracy"]


def test_a_classifier_is_scored_by_its_labels_and_on_text(ran: Result, tmp_path: Path) -> None:
    assert ran.certificate is not None
    file = write(tmp_path / "test.jsonl", records(60, 1))
    (found,) = score(ran.folder / "final", [file], length=32)
    (entry,) = ran.certificate["learnt"]
    assert found.labels["accuracy"] == entry["accuracy"] and found.loss.mean == pytest.approx(entry["loss"], abs=1e-6)
    (text,) = score(ran.folder / "final", ["tiny/stories"], base="tiny", rows=8)
    assert not text.labels and text.rise is not None and text.rise.mean != 0


MOVING = [
    ["method=full", "train.learning_rate=1e-3"],
    ["method=full", "rules=[l2sp, frozen: {select: embedding}]", "learn.class_weights=[1, 2, 3]"],
    ["method=bottleneck", "rules=[{replay: {source: tiny/stories, layers: everything}}]"],
    ["method={name: ia3, targets: mlp}", "rules=[{agem: {source: tiny/stories}}]"],
    ["rules=[{mas: {source: tiny/stories, samples: 8}}, si]", "train.gradient_accumulation_steps=2"],
    ["rules=[{ewc: {source: tiny/stories, samples: 4, estimator: sampled}}]", "learn.labels=[sky, sea, shore]"],
]


@pytest.mark.parametrize("overrides", quickly(MOVING[:1], MOVING))
def test_methods_and_rules_that_act_on_movements_work(overrides: list[str], tmp_path: Path) -> None:
    small = ["train.max_steps=3", "keep.govern=false", *overrides]
    done = run(load(values(tmp_path), small))
    assert done.certificate is not None
    final = done.folder / "final"
    if "method=full" in overrides:
        plain = AutoModelForSequenceClassification.from_pretrained(final)
        assert sorted(plain.config.label2id) == NAMES
        agrees(done.certificate["learnt"][0], plain, final)
        with pytest.raises(Unsupported, match="tells labels apart"):
            sequence_losses(load_base(final).model, [{"input_ids": [5, 6], "labels": [5, 6]}])
    else:
        (found,) = score(final, [str(tmp_path / "data/test.jsonl")], length=32)
        assert found.labels["accuracy"] == done.certificate["learnt"][0]["accuracy"]


@pytest.mark.slow
def test_a_run_is_repeated_and_goes_on_from_a_classifier(ran: Result, tmp_path: Path) -> None:
    again = run(load(ran.folder / "recipe.yaml"), folder=tmp_path / "again")
    assert again.certificate is not None and ran.certificate is not None
    assert again.certificate["learnt"] == ran.certificate["learnt"]
    assert again.certificate["kept"] == ran.certificate["kept"]
    changed = [f"base={ran.folder / 'final'}", "rules=[]", "train.max_steps=2", "keep.probe=self"]
    more = load(ran.folder / "recipe.yaml", changed)
    entry = (run(more, folder=tmp_path / "more").certificate or {})["learnt"][0]
    assert "reference" not in entry and entry["base_loss"] == pytest.approx(ran.certificate["learnt"][0]["loss"])


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_end(ran: Result, tmp_path: Path) -> None:
    def stop(line: Mapping[str, Any]) -> None:
        if line["kind"] == "step" and line["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    asked = load(ran.folder / "recipe.yaml")
    assert run(asked, folder=tmp_path / "run", progress=stop).certificate is None
    found = run(asked, folder=tmp_path / "run", resume=True).certificate
    assert found is not None and ran.certificate is not None
    assert found["learnt"] == ran.certificate["learnt"] and found["kept"] == ran.certificate["kept"]


@pytest.mark.parametrize("metric", quickly(["accuracy"], ["accuracy", "macro_f1", "learnt"]))
def test_the_best_by_a_metric_is_what_is_left(metric: str, tmp_path: Path) -> None:
    stopping = [f"early_stopping={{metric: {metric}, every: 2, patience: 9}}", "keep.govern=false", "train.max_steps=6"]
    done = run(load(values(tmp_path), stopping))
    (state,) = sorted((done.folder).glob("checkpoint-6/trainer_state.json"))
    saved = json.loads(state.read_text("utf-8"))
    key = "eval_learnt_loss" if metric == "learnt" else f"eval_learnt_{metric}"
    seen = [line[key] for line in saved["log_history"] if key in line]
    best = (min if metric == "learnt" else max)(seen)
    assert len(seen) == 3 and saved["best_metric"] == best and done.certificate is not None
    if metric != "learnt":
        assert done.certificate["learnt"][0][metric] == pytest.approx(best)


def test_an_encoder_learns_labels_and_keeps_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    bert = build("bert")
    bert.resize_token_embeddings(512)
    bert.save_pretrained(folder)
    load_base("tiny").tokenizer.save_pretrained(folder)
    given = {**values(tmp_path), "base": str(folder), "rules": ["l2sp"], "keep": {"probe": "none"}}
    done = run(load(given))
    assert done.certificate is not None and done.certificate["kept"] == []
    agreed = load_adapted(done.folder / "final").model
    agrees(done.certificate["learnt"][0], agreed, done.folder / "final")
    with pytest.raises(Unsupported, match="predicts no text"):
        run(load({**given, "keep": {"probe": "self"}, "output": str(tmp_path / "other")}))


def test_the_plan_knows_head_and_rows(tmp_path: Path) -> None:
    made = plan(load(values(tmp_path)))
    assert made.rows == 120 and any("score" in param.path for param in made.freeze.trained)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rules=[distill: {where: new}]", "'distill' mixes text"),
        ("rules=[replay: {source: tiny/stories}]", "'replay' mixes text.*layers: everything"),
        ("method=prompt", "where a text ends"),
        ("learn.labels=[sea, shore]", "train.jsonl, line .*'sky' is none of sea, shore"),
        ("learn.labels=[sea, shore, sky, ice]", "No record has the label ice"),
        ("learn.class_weights=[1, 2]", "2 weights for 3 labels"),
        ("learn.mapping={label: lable}", "the mapping asks for lable"),
        ("learn.task=causal", "add `task: classify`"),
        ("early_stopping.metric=recall", "recall"),
    ],
)
def test_what_cannot_be_is_said_before_anything_begins(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises((BadInput, Unsupported), match=said):
        run(load(values(tmp_path), [override]))
    assert not (tmp_path / "run").exists()


def test_an_unknown_label_in_what_measures_is_named_by_its_place(tmp_path: Path) -> None:
    given = values(tmp_path)
    write(tmp_path / "data/test.jsonl", [*records(3, 1), {"text": "ice", "label": "floe"}])
    with pytest.raises(BadRecord, match=r"test.jsonl, line 4: the label 'floe' is none of sea, shore, sky"):
        run(load(given))


def test_a_sequence_has_no_heads(tmp_path: Path) -> None:
    given = values(tmp_path)
    tasks = [{"name": "kinds", **given["learn"]}]
    with pytest.raises(BadInput, match="kinds has a head of its own"):
        sequence.load({"base": "tiny", "tasks": tasks, "keep": {"probe": "none"}, "output": str(tmp_path / "run")})


def test_rules_cannot_read_labelled_rows(tmp_path: Path) -> None:
    given = values(tmp_path)
    given["rules"] = [{"ewc": {"source": given["learn"]["data"]}}]
    with pytest.raises(BadInput, match="has labels for whole texts"):
        run(load(given))
    with pytest.raises(UnknownName):
        load(given, ["learn.taks=classify"])
