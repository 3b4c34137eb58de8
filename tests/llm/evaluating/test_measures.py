"""Data sets in every form that the guide knows, its metrics on them, pairing, and what fails."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from holdfast._errors import BadInput, BadRecord, UnknownName
from holdfast.base import Base, load_base
from holdfast.data.rows import start, tokens
from holdfast.evaluation.balance import Balance
from holdfast.evaluation.metrics.written import bleu_of
from holdfast.llm import ComprehensiveForgettingEvaluator, ForgettingEvaluationFramework, ModelEvaluator
from holdfast.llm.evaluating.examples import examples_of
from holdfast.llm.evaluating.rates import forgetting_rates, signed_rate

TEXTS = ["Once upon a time there was a dog.", "The cat sat.", "It was a sunny day and all the children went out."]
LABELS = [1, 0, 1]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


class Columns:
    """A data set with a length whose labels stand beside it, as the guide's `hasattr(dataset, "labels")` asks."""

    def __init__(self, **columns: Any):
        self.__dict__.update(columns)

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, i: int) -> dict[str, str]:
        return {"text": TEXTS[i]}


def forms() -> dict[str, Any]:
    rows = [{"text": text, "labels": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    return {
        "mappings": rows,
        "objects": [SimpleNamespace(**row) for row in rows],
        "dataset": Dataset.from_list(rows),
        "columns": SimpleNamespace(text=TEXTS, labels=LABELS),
        "beside": Columns(labels=LABELS),
        "tensors": [{"text": row["text"], "label": torch.tensor(row["labels"])} for row in rows],
        "generator": (row for row in rows),
    }


@pytest.mark.parametrize("name", sorted(forms()))
def test_every_form_of_a_data_set_is_read(name: str) -> None:
    found = examples_of(forms()[name], 10)
    assert [(example.prompt, example.label) for example in found] == list(zip(TEXTS, LABELS, strict=True))
    assert len(examples_of(forms()[name], 2)) == 2


def test_texts_alone_targets_and_known_formats() -> None:
    assert [e.prompt for e in examples_of(TEXTS, 9)] == TEXTS
    given = [{"text": "a", "target_texts": "one text"}, SimpleNamespace(text="b", target_texts=["x", "y"])]
    assert [e.targets for e in examples_of(given, 9)] == [("one text",), ("x", "y")]
    assert [e.targets for e in examples_of(Columns(target_texts=["p", "q", "r"]), 9)] == [("p",), ("q",), ("r",)]
    task = {"prompt": "The dogs", "answer": "are", "choices": ["is", "are"]}
    (example,) = examples_of([task], 9)
    assert (example.label, example.choices) == ("are", ("is", "are"))


@pytest.mark.parametrize("given", [[], [{"text": None}], [{"text": " "}], 3, Columns(labels=[1])])
def test_what_is_no_data_set(given: Any) -> None:
    with pytest.raises(BadInput):
        examples_of(given, 9)
    with pytest.raises(BadRecord):
        examples_of([{"words": "x"}], 9)


def told(base: Base, dataset: Any, *metrics: str, **settings: Any) -> dict[str, Any]:
    evaluator = ComprehensiveForgettingEvaluator(base.model, base.tokenizer, **settings)
    return evaluator.evaluate_model(base.model, "m", {"d": dataset}, metrics or None)["d"]


def test_perplexity_is_weighted_by_tokens(base: Base) -> None:
    nats, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[*start(base.tokenizer), *tokens(base.tokenizer, text)]])
        with torch.no_grad():
            logs = base.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        nats -= float(logs.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert told(base, TEXTS, "perplexity")["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)


def test_accuracy_chooses_between_labels_by_their_likelihood(base: Base) -> None:
    asked = [{"text": f"Once upon a {w}", "labels": i % 2} for i, w in enumerate(["time", "xq"])]
    named = told(base, [{**a, "labels": 1} for a in asked], "accuracy", label_texts=["zqzq", "time, there was"])
    assert named["accuracy"] == 1.0
    assert told(base, asked, "accuracy", label_texts={1: "zqzq", 0: "there was"})["accuracy"] == 0.5
    features = Features({"text": Value("string"), "labels": ClassLabel(names=["there was", "zqzq"])})
    assert told(base, Dataset.from_list(asked, features=features), "accuracy")["accuracy"] == 0.5
    texts = [{"text": "The dog was", "labels": label} for label in ("happy", "happy", "xqz")]
    found = told(base, texts, "accuracy", "f1", prompt="{text} very")
    assert found["accuracy"] == pytest.approx(2 / 3) and found["f1"] == pytest.approx(0.4)
    task = {"prompt": "Once upon a", "answer": "time", "choices": ["time", "zq"]}
    assert told(base, [task], "accuracy")["accuracy"] == 1.0


def test_bleu_is_of_the_answer_alone(base: Base) -> None:
    prompt = "Once upon a time, there was a little"
    evaluator = ComprehensiveForgettingEvaluator(base.model, base.tokenizer, max_new_tokens=12)
    found = evaluator.evaluate_model(base.model, "m", {"d": [{"text": prompt, "target_texts": ["x"]}]}, ["bleu"])
    (answer,) = found.scored["d"]["bleu"].answers
    assert not answer.startswith(prompt)
    perfect = [{"text": prompt, "target_texts": [answer, "something else"]}]
    assert (
        told(base, perfect, "bleu", max_new_tokens=12)["bleu"]
        == pytest.approx(1.0)
        == bleu_of([answer], [[answer]]).figure
    )


@pytest.mark.parametrize(
    ("dataset", "metric", "reason"),
    [
        (TEXTS, "accuracy", "no example has labels"),
        (TEXTS, "bleu", "no example has target_texts"),
        ([{"text": "a", "labels": [1, 2]}], "f1", "not one number or text"),
        ([{"text": "a", "labels": 1}], "accuracy", "only one label"),
    ],
)
def test_what_does_not_apply_says_why(base: Base, dataset: Any, metric: str, reason: str) -> None:
    found = told(base, dataset, metric)
    assert metric not in found and reason in found["not_applicable"][metric]


def test_what_fails_has_an_error_and_the_rest_a_figure(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.llm.evaluating.measures.bleu_of", lambda *a: 1 / 0)
    found = told(base, [{"text": "The dog", "target_texts": ["x"]}], "perplexity", "bleu", max_new_tokens=4)
    assert "bleu" not in found and "ZeroDivisionError" in found["errors"]["bleu"] and found["perplexity"] > 1
    broken = load_base("tiny")
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    assert "not finite" in told(broken, TEXTS, "perplexity")["errors"]["perplexity"]
    with pytest.raises(UnknownName, match="perplexity"):
        told(base, TEXTS, "perplexty")


def test_models_leave_in_the_mode_they_came_in(base: Base) -> None:
    base.model.train()
    state = torch.get_rng_state()
    told(base, [{"text": "The dog", "labels": i, "target_texts": ["x"]} for i in (0, 1)], max_new_tokens=4)
    assert base.model.training and torch.equal(state, torch.get_rng_state())
    base.model.eval()


def test_the_baseline_of_retention_is_kept_as_it_was() -> None:
    """The base is trained in place."""
    base = load_base("tiny")
    evaluator = ComprehensiveForgettingEvaluator(base.model, base.tokenizer)
    evaluator.evaluate_model(base.model, "pretrained", {"d": TEXTS}, ["knowledge_retention"])
    with torch.no_grad():
        base.model.lm_head.weight.mul_(0.5)
    after = evaluator.evaluate_model(base.model, "finetuned", {"d": TEXTS}, ["knowledge_retention"])["d"]
    assert after["knowledge_retention"] < 1 and after["calibrated_knowledge_retention"]["mean"] < 1


def test_signed_rates_are_paired_and_plain_figures_have_no_interval(base: Base) -> None:
    other = load_base("tiny").model
    with torch.no_grad():
        other.lm_head.weight.mul_(0.8)
    evaluator = ComprehensiveForgettingEvaluator(base.model, base.tokenizer)
    first, last = (
        evaluator.evaluate_model(model, "m", {"d": TEXTS * 3}, ["perplexity"]) for model in (base.model, other)
    )
    worse, better = forgetting_rates(first, last)["d"], forgetting_rates(last, first)["d"]
    ratio = last["d"]["perplexity"] / first["d"]["perplexity"]
    assert worse["signed_perplexity"]["mean"] == pytest.approx(worse["perplexity"]) == pytest.approx(ratio - 1)
    assert better["perplexity"] == 0.0 and better["signed_perplexity"]["mean"] == pytest.approx(1 / ratio - 1)
    alone = signed_rate(first.scored["d"]["perplexity"], first.scored["d"]["perplexity"])
    assert alone.mean == alone.low == alone.high == 0
    plain = forgetting_rates(json.loads(json.dumps(first)), last)
    assert plain["d"]["perplexity"] == worse["perplexity"] and plain["d"]["signed_perplexity"]["low"] is None
    assert "signed_average" not in plain["d"] and "signed_overall_average" not in plain
    assert forgetting_rates({"d": {"perplexity": 2.0, "x": 0.0}}, {"e": {}}) == {}


def test_tasks_that_fail_count_in_no_average(base: Base, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(ModelEvaluator):
        def evaluate_task(self, model: Any, task_name: str, task_config: Any) -> dict[str, Any]:
            if task_name == "bad":
                raise RuntimeError("out of memory")
            return super().evaluate_task(model, task_name, task_config)

    stories = {"data": TEXTS}
    framework = ForgettingEvaluationFramework(
        Failing(base.tokenizer), {"bad": {}, "good": stories}, {}, balance=Balance(weights={"good": 2.0})
    )
    before = framework.evaluate_pre_finetuning(base.model)
    assert before["reference_results"]["bad"] == {"error": "RuntimeError: out of memory"}
    assert before["aggregated_metrics"]["avg_reference_score"] == before["reference_results"]["good"]["score"]
    assert before["aggregated_metrics"]["reference_task_count"] == 2
    after = framework.evaluate_post_finetuning(base.model)
    assert list(after["forgetting_metrics"]["task_forgetting_rates"]) == ["good"] and "out of memory" in caplog.text
    assert after["forgetting_metrics"]["changes"]["good"]["verdict"] == "kept"
    framework.reference_tasks = {"facts-enn": "facts-enn"}
    with pytest.raises(UnknownName, match="facts-en"):
        framework.evaluate_post_finetuning(base.model)


def test_a_task_is_a_shipped_suite_a_mapping_or_data(base: Base) -> None:
    evaluator = ModelEvaluator(base.tokenizer)
    shipped = evaluator.evaluate_task(base.model, "grammar", {"data": "tiny/stories", "items": 4})
    assert shipped["n"] == 4 and shipped["score"] == pytest.approx(math.exp(-shipped["figure"]))
    asked = [{"prompt": "Once upon a", "answer": "time", "choices": ["time", "zq"]}] * 3
    told = evaluator.evaluate_task(base.model, "choice", {"data": asked, "metric": "choice_accuracy"})
    assert told["score"] == 1.0 and told["chance"] == 0.5 and told["metric"] == "choice_accuracy"
    open_ended = evaluator.evaluate_task(
        base.model, "style", {"data": [{"prompt": "Hello"}], "metric": {"style": {"max_new_tokens": 4}}}
    )
    assert "score" not in open_ended and "no score" in open_ended["not_applicable"]
