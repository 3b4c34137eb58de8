"""The mock says that it is one; what stands around it is real."""

from __future__ import annotations

import torch

from holdfast.llm import create_llm, create_llm_config
from holdfast.llm.backends.mock import WORDS, MockLLM


def mock() -> MockLLM:
    made = create_llm(create_llm_config("mock", "my_model"))
    assert isinstance(made, MockLLM)
    return made


def test_it_says_that_it_is_a_mock() -> None:
    assert (MockLLM.__doc__ or "").startswith("A mock, not a language model")
    assert mock().generate("请解释什么是机器学习").text.startswith("[mock] ")


def test_its_tensors_have_as_many_elements_as_the_gradients_of_the_guide() -> None:
    values = mock().get_parameters()
    assert list(values) == ["embedding_weights", "attention_weights", "output_weights"]
    assert {tuple(t.shape) for t in values.values()} == {(3,)}


def test_answers_are_the_same_until_a_weight_moves() -> None:
    llm = mock()
    first = llm.generate("hello")
    assert llm.generate("hello") == first == mock().generate("hello")
    assert llm.generate("hello", seed=1).text != first.text
    llm.update_parameters({"output_weights": [1.0, -1.0, 1.0]}, learning_rate=0.5)
    assert llm.generate("hello").confidence != first.confidence


def test_the_confidence_is_the_mean_probability_of_its_words() -> None:
    llm = mock()
    answer = llm.generate("hello", do_sample=False, max_length=5)
    said = answer.text.split()[1:]
    assert len(said) == 5
    likeliest = []
    for start in range(len(WORDS)):
        words, chances = [start], []
        for _ in said:
            odds = llm.model(torch.tensor([words]))[0, -1].softmax(-1)
            words.append(int(odds.argmax()))
            chances.append(float(odds.max().detach()))
        if [WORDS[i] for i in words[1:]] == said:
            likeliest.append(sum(chances) / len(chances))
    assert any(abs(found - (answer.confidence or 0.0)) < 1e-6 for found in likeliest)


def test_it_has_gradients() -> None:
    model = mock().model
    model(torch.tensor([[0, 1, 2, 3]])).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
