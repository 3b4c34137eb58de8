"""How models go on from prompts."""

from __future__ import annotations

import torch

from holdfast.base import load_base
from holdfast.data.formats import Completion
from holdfast.data.probes import Probe
from holdfast.data.rows import rows
from holdfast.evaluation.samples import continuations, opening

BASE = load_base("tiny")


def test_at_temperature_zero_the_likeliest_token_is_taken() -> None:
    (text,) = continuations(BASE.model, BASE.tokenizer, ["Once upon a time"], length=12, temperature=0.0)
    ids = BASE.tokenizer("Once upon a time")["input_ids"]
    for _ in range(12):
        ids.append(int(BASE.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert BASE.tokenizer.decode(ids, skip_special_tokens=True).endswith(text) and len(text) > 12


def test_samples_follow_from_the_seed_and_leave_no_trace() -> None:
    BASE.model.train()
    state = torch.get_rng_state()
    one, again, other = (
        continuations(BASE.model, BASE.tokenizer, ["Lily", "Tom"], length=8, seed=seed) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), state) and BASE.model.training
    BASE.model.eval()


def test_a_prompt_that_is_too_long_loses_its_beginning() -> None:
    (text,) = continuations(BASE.model, BASE.tokenizer, ["a big red ball " * 300], length=4)
    assert text


def test_a_prompt_is_the_opening_of_a_text_or_the_question_of_a_task() -> None:
    story = Probe("x", rows([Completion("", "Once upon a time there was a cat.")], BASE.tokenizer, length=64), "x")
    assert "Once upon a time there was a cat.".startswith(opening(story, BASE.tokenizer).strip())
    task = Completion("Is the sky blue? Is the sea blue? And is the ball blue?", " yes")
    asked = opening(Probe("x", rows([task], BASE.tokenizer, length=64), "x"), BASE.tokenizer)
    assert asked.strip() == task.prompt
