"""An answer in pieces is the answer, ends when nobody reads on, and brings its errors along."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig

from holdfast._errors import BadInput
from holdfast.base import load_base
from holdfast.generation import Writing, generate, stream
from holdfast.generation.text import settled
from tests.characters import base, lively, stirred

PROMPTS = ["Once upon a time", "The", "No. 5"]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize(
    "settings",
    [
        Writing(15),
        Writing(15, temperature=0.9, top_p=0.8, seed=2),
        Writing(15, stop=("ab", "e")),
        Writing(15, repetition_penalty=1.4),
    ],
)
def test_the_pieces_together_are_the_answer(arch: str, settings: Writing) -> None:
    model = base(arch, seed=1)
    for prompt in PROMPTS:
        assert "".join(stream(model, prompt, settings)) == generate(model, [prompt], settings)[0]


@pytest.mark.parametrize("prompt", ["Once upon a time, there was a", "One day,\n"])
def test_blanks_and_line_breaks_of_real_text_are_kept(prompt: str) -> None:
    model, settings = load_base("tiny"), Writing(60, temperature=0.8, seed=5)
    pieces = list(stream(model, prompt, settings))
    assert len(pieces) > 10
    assert "".join(pieces) == generate(model, [prompt], settings)[0]


def test_a_stop_is_never_shown_not_even_its_beginning() -> None:
    model = base(seed=1)
    whole = generate(model, ["The"], Writing(20))[0]
    stop = whole[5:8]
    shown = ""
    for piece in stream(model, "The", Writing(20, stop=(stop,))):
        shown += piece
        assert stop not in shown and whole[: whole.find(stop)].startswith(shown)
    assert shown == whole[: whole.find(stop)]


def test_what_may_become_a_stop_or_a_character_is_held_back() -> None:
    assert settled("one two\nUs", ("\nUser:",)) == "one two"
    assert settled("one two\nUx", ("\nUser:",)) == "one two\nUx"
    assert settled("caf\N{REPLACEMENT CHARACTER}", ()) == "caf"


@pytest.mark.parametrize(("arch", "task"), [("llama", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM")])
def test_virtual_tokens_and_messages_are_streamed(arch: str, task: str) -> None:
    config = PromptTuningConfig(task_type=task, num_virtual_tokens=3)
    model = base(chat=True, model=stirred(lively(arch), config, std=0.5))
    asked = [{"role": "user", "content": "Hi"}]
    assert "".join(stream(model, asked, Writing(10))) == generate(model, [asked], Writing(10))[0]


def test_errors_of_the_thread_reach_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = base()
    calls = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise ZeroDivisionError("in the middle")
        return forward(*args, **kwargs)

    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", failing)
    shown = []
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        for piece in stream(model, "The", Writing(20)):
            shown.append(piece)
    assert shown


def test_writing_ends_when_nobody_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = base()
    model.tokenizer.eos_token = None
    model.model.generation_config.eos_token_id = None
    model.model.train()
    calls: list[int] = []
    forward, go = model.model.forward, threading.Semaphore(3)

    def counted(*args: Any, **kwargs: Any) -> Any:
        go.acquire(timeout=0.2)
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", counted)
    threads = threading.active_count()
    pieces = stream(model, "The", Writing(50))
    next(pieces)
    pieces.close()
    assert threading.active_count() == threads
    assert len(calls) < 20
    assert model.model.training and torch.is_grad_enabled()


def test_beams_cannot_be_streamed() -> None:
    with pytest.raises(BadInput, match="Beams"):
        stream(base(), "The", Writing(5, beams=2))
