"""Metrics: each against a plain loop, and the same for any batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.base import Base, load_base
from holdfast.data.formats import Chat, Completion, Text
from holdfast.data.rows import completion, start, tokens
from holdfast.evaluation.metrics import metrics
from holdfast.evaluation.metrics.answers import answers

PROMPTS = (
    "Once upon a time, there was a little",
    "Lily went to the",
    "Tom and his mom went to the park. They saw a big",
    "The dog was",
    "One day,",
)
CHOICES = (" girl", " dragon named Bob", " zx")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def score(base: Base, name: str, examples: list[Any], **options: Any) -> list[float]:
    found = metrics[name](base.model, base.tokenizer, examples, **options).each()
    assert found.dtype == torch.float64
    return list(found.tolist())


def log_likelihood(base: Base, task: Completion) -> float:
    before, after = completion(task, base.tokenizer)
    ids = torch.tensor([[*start(base.tokenizer), *before, *after]])
    with torch.no_grad():
        logs = base.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return float(logs.gather(1, ids[0, 1:, None])[-len(after) :].sum())


def continued(base: Base, prompt: str, count: int) -> str:
    ids = [*start(base.tokenizer), *tokens(base.tokenizer, prompt)]
    first = len(ids)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return str(base.tokenizer.decode(ids[first:]))


def test_their_names_and_knobs_are_in_the_registry() -> None:
    assert {"bleu", "choice_accuracy", "exact_match", "loss", "macro_f1", "token_f1"} <= set(metrics.names())
    assert "normalised" in metrics.knobs("choice_accuracy")
    with pytest.raises(UnknownName, match="exact_match"):
        metrics["exactmatch"]


@pytest.mark.parametrize("normalised", [False, True])
def test_choices_are_those_of_a_plain_loop(base: Base, normalised: bool) -> None:
    tasks = [Completion(prompt, right, CHOICES) for prompt in PROMPTS for right in CHOICES]
    expected = []
    for task in tasks:
        size = [len(c.encode()) if normalised else 1 for c in CHOICES]
        likelihood = [log_likelihood(base, replace(task, completion=c)) / n for c, n in zip(CHOICES, size, strict=True)]
        expected.append(float(CHOICES[likelihood.index(max(likelihood))] == task.completion))
    assert 0 < sum(expected) < len(expected)
    for batch_tokens in (1, 64, 16384):
        assert score(base, "choice_accuracy", tasks, normalised=normalised, batch_tokens=batch_tokens) == expected


def test_normalising_takes_the_advantage_of_short_choices_away(base: Base) -> None:
    long = Completion("Once upon a time, there was a little", " girl named Lily. She loved to play", ())
    task = replace(long, choices=(long.completion, " boy"))
    assert score(base, "choice_accuracy", [task]) == [0.0]
    assert score(base, "choice_accuracy", [task], normalised=True) == [1.0]


def test_exact_match_is_what_a_plain_loop_writes(base: Base) -> None:
    written = [continued(base, prompt, 6) for prompt in PROMPTS]
    right = [Completion(prompt, text) for prompt, text in zip(PROMPTS, written, strict=True)]
    tasks = [*right, *(replace(task, completion=task.completion + "x") for task in right)]
    for batch_tokens in (1, 50, 16384):
        found = score(base, "exact_match", tasks, max_new_tokens=6, stop=(), batch_tokens=batch_tokens)
        assert found == [1.0] * 5 + [0.0] * 5


def test_a_stop_ends_the_answer(base: Base) -> None:
    tasks = [Completion(prompt, "") for prompt in PROMPTS]
    whole = answers(base.model, base.tokenizer, tasks, max_new_tokens=20, stop=())
    cut = answers(base.model, base.tokenizer, tasks, max_new_tokens=20, stop=(".", ","))
    assert any("." in text or "," in text for text in whole)
    for text, short in zip(whole, cut, strict=True):
        ends = [text.find(mark) for mark in ".," if mark in text]
        assert short == text[: min(ends, default=len(text))]


def test_a_document_end_ends_the_answer(base: Base) -> None:
    class Ender(type(base.model)):  # type: ignore[misc]
        """Writes token 300 once, then the end of the document, then rubbish."""

        def forward(self, *args: Any, **given: Any) -> Any:
            outputs = super().forward(*args, **given)
            last = given["input_ids"][:, -1]
            outputs.logits[:, -1] = 0.0
            outputs.logits[torch.arange(len(last)), -1, torch.where(last == 300, base.tokenizer.eos_token_id, 300)] = (
                9.0
            )
            return outputs

    model = load_base("tiny").model
    model.__class__ = Ender
    word = base.tokenizer.decode([300])
    assert answers(model, base.tokenizer, [Completion("a dog", ""), Completion("a", "")], stop=()) == [word, word]


def test_a_prompt_without_room_loses_its_beginning(base: Base) -> None:
    long = "far away " * 600
    (text,) = answers(base.model, base.tokenizer, [Completion(long, "")], max_new_tokens=4, stop=())
    kept = tokens(base.tokenizer, long)[-(512 - 1 - 4) :]
    ids = [*start(base.tokenizer), *kept]
    with torch.no_grad():
        first = int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    assert text.startswith(base.tokenizer.decode([first]).strip() or text)
    with pytest.raises(BadInput, match="leaves no room"):
        answers(base.model, base.tokenizer, [Completion(long, "")], max_new_tokens=511)


def test_loss_is_that_of_a_plain_loop(base: Base) -> None:
    tasks = [Completion(prompt, " very happy") for prompt in PROMPTS]
    found = score(base, "loss", [*tasks, Text("Once upon a time, there was a cat."), Text("")])
    for task, value in zip(tasks, found, strict=False):
        whole = replace(task, completion=task.completion)
        _, after = completion(whole, base.tokenizer)
        ended = log_likelihood(base, whole) + _end(base, whole)
        assert value == pytest.approx(-ended / (len(after) + 1), rel=1e-5)
    assert 0 < found[5] < 5
    assert found[6] != found[6]


def _end(base: Base, task: Completion) -> float:
    before, after = completion(task, base.tokenizer)
    ids = [*start(base.tokenizer), *before, *after]
    with torch.no_grad():
        logs = base.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    return float(logs[base.tokenizer.eos_token_id])


def test_a_long_text_is_scored_token_by_token_in_windows(base: Base) -> None:
    text = Text("Once upon a time, there was a little girl named Lily. She loved to play outside. " * 6)
    (whole,) = score(base, "loss", [text])
    (pieces,) = score(base, "loss", [text], length=64)
    assert pieces == pytest.approx(whole, rel=0.5)
    assert pieces != whole


def test_the_wrong_kind_of_example_is_named(base: Base) -> None:
    good = Completion("a", "b", ("b", "c"))
    with pytest.raises(BadInput, match="example 2 has none"):
        score(base, "choice_accuracy", [good, Completion("a", "b")])
    with pytest.raises(BadInput, match="example 2 is a Text"):
        score(base, "exact_match", [good, Text("a")])
    with pytest.raises(BadInput, match="no chat template"):
        score(base, "loss", [Chat(({"role": "user", "content": "hi"},))])
