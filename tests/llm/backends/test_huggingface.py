"""Answers of a real model: confidence against a second forward pass, each setting heard, nothing left changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.base import Base, load_base
from holdfast.llm import LLMConfig, create_llm, create_llm_config
from holdfast.llm.backends.huggingface import HuggingFaceLLM
from holdfast.tiny import MODEL
from tests.models import build

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def llm(base: Base, **settings: Any) -> HuggingFaceLLM:
    return HuggingFaceLLM(create_llm_config("huggingface", "tiny", max_length=24, **settings), base)


@pytest.mark.parametrize("drawing", [{"do_sample": False}, {"top_k": 1, "temperature": 5.0}])
def test_the_confidence_is_the_mean_probability_of_the_tokens(base: Base, drawing: dict[str, Any]) -> None:
    answer = llm(base, **drawing).generate(PROMPT)
    ids = [base.tokenizer.bos_token_id, *base.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]
    begun, chances = len(ids), []
    with torch.no_grad():
        while len(ids) < 24:
            odds = base.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            ids.append(int(odds.argmax()))
            chances.append(float(odds.max()))
    assert answer.text == base.tokenizer.decode(ids[begun:])
    assert answer.confidence == pytest.approx(sum(chances) / len(chances), rel=1e-4)
    assert answer.metadata == {"backend": "huggingface", "prompt_tokens": begun, "tokens": len(chances)}


def test_the_same_seed_gives_the_same_answers_and_the_next_one_differs(base: Base) -> None:
    first, second = (llm(base, seed=3, temperature=3.0, top_k=0, top_p=1.0) for _ in range(2))
    told = [first.generate(PROMPT).text for _ in range(2)]
    assert told == [second.generate(PROMPT).text for _ in range(2)]
    assert told[0] != told[1]
    assert llm(base, seed=4, temperature=3.0, top_k=0, top_p=1.0).generate(PROMPT).text != told[0]
    assert first.generate(PROMPT, seed=9).text == second.generate(PROMPT, seed=9).text


def test_no_random_state_and_no_mode_changes(base: Base) -> None:
    model = llm(base)
    base.model.train()
    state = torch.get_rng_state()
    model.generate(PROMPT)
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training for m in base.model.modules())
    base.model.eval()


def test_each_way_of_drawing_is_heard(base: Base) -> None:
    greedy = llm(base, do_sample=False).generate(PROMPT).text
    assert llm(base, top_k=1, seed=5).generate(PROMPT).text == greedy
    assert llm(base, top_p=1e-6, seed=5).generate(PROMPT).text == greedy
    assert llm(base, temperature=1e-4, seed=5).generate(PROMPT).text == greedy
    assert llm(base).generate(PROMPT, do_sample=False).text == greedy
    assert llm(base, temperature=5.0, top_k=0, top_p=1.0).generate(PROMPT).text != greedy
    assert llm(base, do_sample=False, use_cache=False).generate(PROMPT).text == greedy


def test_the_length_holds_for_prompt_and_answer_together(base: Base) -> None:
    for length in (6, 12, 40):
        told = llm(base).generate(PROMPT, max_length=length, do_sample=False).metadata
        assert told["prompt_tokens"] + told["tokens"] == length
    told = llm(base).generate(PROMPT * 200, max_length=5000).metadata
    assert told["prompt_tokens"] + told["tokens"] == base.model.config.max_position_embeddings


def test_a_chat_template_is_used_where_there_is_one(base: Base) -> None:
    chatty = load_base("tiny").tokenizer
    chatty.chat_template = "{% for m in messages %}Q: {{ m.content }}\nA:{% endfor %}"
    asked = llm(replace(base, tokenizer=chatty), do_sample=False).generate(PROMPT)
    bare = llm(base, do_sample=False).generate(f"Q: {PROMPT}\nA:", max_length=24)
    assert asked.metadata["prompt_tokens"] == bare.metadata["prompt_tokens"] - 1  # the template brings no BOS


def test_an_end_token_ends_the_answer(base: Base) -> None:
    usual = llm(base, do_sample=False).generate(PROMPT)
    stop = base.tokenizer(usual.text, add_special_tokens=False)["input_ids"][3]
    cut = llm(base, do_sample=False, eos_token_id=stop, pad_token_id=0).generate(PROMPT)
    assert cut.metadata["tokens"] < usual.metadata["tokens"]


def test_an_answer_of_nothing_has_no_confidence(base: Base) -> None:
    silent = llm(base, do_sample=False)
    with torch.no_grad():
        kept = base.model.model.norm.weight.clone()
        base.model.model.norm.weight.zero_()  # every token is as likely; the first one is taken, <unk>
        answer = silent.generate(PROMPT)
        base.model.model.norm.weight.copy_(kept)
    assert answer.text == "" and answer.confidence is None


def test_a_folder_a_path_and_the_embedded_model_are_the_same() -> None:
    configs = [
        create_llm_config("tiny", "whatever"),
        create_llm_config("huggingface", str(MODEL)),
        create_llm_config("huggingface", "no/such-model", model_path=str(MODEL)),
    ]
    answers = {create_llm(config).generate(PROMPT, max_length=16).text for config in configs}
    assert len(answers) == 1


def test_dtype_and_device_are_heard_and_wrong_ones_refused() -> None:
    coarse = create_llm(create_llm_config("tiny", torch_dtype="bfloat16", device="cpu"))
    assert {p.dtype for p in coarse.model.parameters()} == {torch.bfloat16}
    with pytest.raises(UnknownName, match="bfloat16"):
        create_llm(create_llm_config("tiny", torch_dtype="bfloat"))
    with pytest.raises(BadInput, match="no device"):
        create_llm(create_llm_config("tiny", device="gpu?"))


def test_an_encoder_decoder_answers_with_its_decoders_tokens(base: Base) -> None:
    t5 = build("t5")
    t5.resize_token_embeddings(len(base.tokenizer))
    t5.generation_config.decoder_start_token_id = 0
    answer = HuggingFaceLLM(LLMConfig(max_length=12), replace(base, model=t5)).generate("a")
    assert 1 <= answer.metadata["tokens"] <= 12


def test_a_model_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        create_llm(create_llm_config(model_path=str(tmp_path / "nothing")))


def test_unknown_settings_are_answered_with_the_nearest(base: Base) -> None:
    with pytest.raises(UnknownName, match="temperature"):
        llm(base).generate(PROMPT, temprature=1.0)
    with pytest.raises(UnknownName, match="max_length"):
        create_llm_config(max_lenght=3)
    with pytest.raises(UnknownName, match="mock"):
        create_llm_config("mok")
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_length": 1}):
        with pytest.raises(BadInput):
            create_llm_config(**wrong)  # type: ignore[arg-type]
