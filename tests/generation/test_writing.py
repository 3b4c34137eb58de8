"""Answers: the same alone and in a batch, as transformers gives them, and cut where they are to stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from transformers import GenerationConfig

from holdfast._errors import BadInput, BadRecord
from holdfast.adapters.head import classifier
from holdfast.adapters.lora import lora
from holdfast.base import Base, load_base
from holdfast.data.formats import Completion, parse
from holdfast.data.rows import start, tokens
from holdfast.evaluation.metrics.answers import answers
from holdfast.generation import Writing, generate, read_prompts
from holdfast.generation.prompts import prompt_tokens
from tests.characters import base, lively, stirred
from tests.models import quickly

PROMPTS = ["Once upon a time", "The", "A dog and a cat", "No. 5"]
SETTINGS = {
    "greedy": Writing(12),
    "beams": Writing(12, beams=3),
    "drawn": Writing(12, temperature=0.9, top_p=0.9, top_k=30, seed=4),
    "drawn beams": Writing(12, beams=4, temperature=0.7, top_p=0.9),
    "penalty": Writing(12, repetition_penalty=1.5),
    "stops": Writing(12, stop=("e", "x")),
    "stopped beams": Writing(12, stop=("e", "x"), beams=2),
}


@pytest.mark.parametrize("arch", quickly(["llama"], ["llama", "gpt2", "opt", "gpt_neox", "t5"]))
@pytest.mark.parametrize("name", SETTINGS)
def test_answers_do_not_depend_on_the_batch(arch: str, name: str) -> None:
    model, settings = base(arch), SETTINGS[name]
    together = generate(model, PROMPTS, settings)
    assert generate(model, PROMPTS, replace(settings, batch_size=1)) == together
    assert generate(model, PROMPTS, replace(settings, batch_size=3)) == together
    assert generate(model, PROMPTS[:1], settings) == together[:1]
    assert any(together)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("arch", ["llama", "t5"])
def test_they_are_what_transformers_gives(arch: str, beams: int) -> None:
    model = base(arch)
    for prompt in PROMPTS:
        ids = (
            tokens(model.tokenizer, prompt)
            if arch == "t5"
            else start(model.tokenizer) + tokens(model.tokenizer, prompt)
        )
        made = model.model.generate(  # type: ignore[operator]
            torch.tensor([ids]), generation_config=GenerationConfig(max_new_tokens=12, num_beams=beams), eos_token_id=2
        )
        new = made[0, 1 if arch == "t5" else len(ids) :].tolist()
        text = model.tokenizer.decode(new[: new.index(2)] if 2 in new else new, skip_special_tokens=True)
        assert generate(model, [prompt], Writing(12, beams=beams)) == [text]


def test_what_is_drawn_is_distributed_as_the_model_says() -> None:
    model = base(seed=3)
    prompt = "O"
    drawn = generate(model, [prompt] * 3000, Writing(1, temperature=1.5, top_k=5, batch_size=1000))
    ids = torch.tensor([start(model.tokenizer) + tokens(model.tokenizer, prompt)])
    with torch.no_grad():
        best = model.model(input_ids=ids).logits[0, -1].topk(5)
    shares = (best.values / 1.5).softmax(-1)
    for token, share in zip(best.indices.tolist(), shares.tolist(), strict=True):
        text = "" if token < 4 else model.tokenizer.decode([token])
        if text:
            assert drawn.count(text) / 3000 == pytest.approx(share, abs=4 * (share * (1 - share) / 3000) ** 0.5)
    known = {model.tokenizer.decode([t], skip_special_tokens=True) for t in best.indices.tolist()}
    assert set(drawn) <= known


def test_the_seed_decides_and_no_random_state_moves() -> None:
    model, settings = base(), SETTINGS["drawn beams"]
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = generate(model, PROMPTS, settings)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert generate(model, PROMPTS, settings) == first
    assert generate(model, PROMPTS, replace(settings, seed=1)) != first
    drawn = SETTINGS["drawn"]
    assert generate(model, PROMPTS, drawn) != generate(model, PROMPTS, replace(drawn, seed=5))


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_ends_before_the_first_stop(beams: int) -> None:
    model = base(seed=1)
    whole = generate(model, PROMPTS, Writing(20, beams=1))
    for text, prompt in zip(whole, PROMPTS, strict=True):
        stop = (text[7:9], text[4:6])
        answer = generate(model, [prompt], Writing(20, stop=stop, beams=beams))[0]
        assert not any(s in answer for s in stop)
        if beams == 1:
            assert answer == text[: min(text.find(s) for s in stop)]


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        ("llama", PromptTuningConfig),
        ("llama", PrefixTuningConfig),
        ("llama", PromptEncoderConfig),
        ("gpt2", PromptTuningConfig),
        ("gpt2", PromptEncoderConfig),
    ],
)
def test_virtual_tokens_are_read_in_batches_too(arch: str, kind: Any) -> None:
    settings = {"encoder_hidden_size": 8} if kind is PromptEncoderConfig else {}
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=4, **settings)
    model: Any = stirred(lively(arch), config, std=0.5)
    tuned = base(arch, model=model)
    prompts = [*PROMPTS, "The", "cat"]
    together = generate(tuned, prompts, Writing(10, batch_size=6))
    assert together == [generate(tuned, [prompt], Writing(10))[0] for prompt in prompts]
    assert together != generate(base(arch), prompts, Writing(10))
    for prompt, answer in zip(prompts, together, strict=True):
        ids = prompt_tokens(tuned, prompt, Writing(10))
        with torch.no_grad():
            for _ in range(10):
                row = torch.tensor([ids])
                ids = [*ids, int(model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1].argmax())]
        new = ids[-10:]
        assert answer == tuned.tokenizer.decode(new[: new.index(2)] if 2 in new else new, skip_special_tokens=True)


def test_the_models_own_settings_have_no_say() -> None:
    model = base()
    plain = generate(model, PROMPTS, Writing(12))
    own: Any = model.model.generation_config
    own.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, min_new_tokens=12, num_beams=2)
    assert generate(model, PROMPTS, Writing(12)) == plain
    assert model.model.generation_config is own and own.temperature == 5.0


def test_a_chat_template_is_used_unless_raw() -> None:
    model = base(chat=True)
    asked = prompt_tokens(model, "Hi", Writing(4))
    assert model.tokenizer.decode(asked) == "u:Hi\na:"
    assert prompt_tokens(model, [{"role": "user", "content": "Hi"}], Writing(4)) == asked
    assert model.tokenizer.decode(prompt_tokens(model, "Hi", Writing(4, raw=True))) == "<s>Hi"
    with pytest.raises(BadInput, match="no chat template"):
        generate(base(), [[{"role": "user", "content": "Hi"}]], Writing(4))


def test_a_prompt_that_is_too_long_loses_its_beginning() -> None:
    model = base()
    ids = prompt_tokens(model, "ab" * 60, Writing(10))
    assert len(ids) == 54 and ids[0] == 1 and model.tokenizer.decode(ids[-4:]) == "abab"
    assert len(generate(model, ["ab" * 60], Writing(10))[0]) <= 10
    assert len(prompt_tokens(model, "ab" * 60, Writing())) == 32
    with pytest.raises(BadInput, match="max_new_tokens = 63 leaves no room"):
        generate(model, ["a"], Writing(63))


def test_a_prompt_of_nothing_needs_a_beginning() -> None:
    model = base()
    assert prompt_tokens(model, "", Writing(4)) == [1]
    model.tokenizer.bos_token = None
    with pytest.raises(BadInput, match="empty"):
        generate(Base(model.model, model.tokenizer, "x", ""), [""], Writing(4))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p"),
        ({"temperature": 1.0, "top_k": -1}, "top_k"),
        ({"top_p": 0.9}, "temperature"),
        ({"beams": 0}, "beams"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"stop": ("",)}, "empty"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        Writing(**wrong)


def test_prompts_come_from_files(tmp_path: Path) -> None:
    lines, records = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_text("One\n\nTwo\n")
    records.write_text(
        '{"prompt": "One", "completion": "x"}\n{"text": "Two"}\n{"messages": [{"role": "user", "content": "C"}]}\n'
    )
    assert read_prompts(lines) == ["One", "Two"]
    assert read_prompts(records) == ["One", "Two", [{"role": "user", "content": "C"}]]
    records.write_text('{"prompt": "One"}\n{"answer": "x"}\n')
    with pytest.raises(BadRecord, match="line 2"):
        read_prompts(records)
    lines.write_text("\n")
    with pytest.raises(BadInput, match="no prompt"):
        read_prompts(lines)


def test_an_alpaca_file_is_asked_as_it_was_taught(tmp_path: Path) -> None:
    record = {"instruction": "Name it.", "input": "a red ball"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
    (prompt,) = read_prompts(tmp_path / "a.jsonl")
    taught = parse({**record, "output": "ball"}, "a", 1)
    assert isinstance(taught, Completion) and prompt == taught.prompt and "a red ball" in str(prompt)


def test_a_classifier_writes_nothing() -> None:
    tiny = load_base("tiny")
    head = classifier(tiny.model, ["a", "b"])
    with pytest.raises(BadInput, match="tells labels"):
        generate(Base(head, tiny.tokenizer, "tiny", ""), ["Once"])


def test_an_adapter_on_an_encoder_decoder_answers() -> None:
    """PEFT's class for these takes its inputs by name alone."""
    pair = base("t5")
    adapted = Base(lora(pair.model, rank=2), pair.tokenizer, "", "")  # type: ignore[arg-type]
    tasks = [Completion("ab", ""), Completion("abc", "")]
    assert len(answers(adapted.model, adapted.tokenizer, tasks, max_new_tokens=3, stop=())) == 2
