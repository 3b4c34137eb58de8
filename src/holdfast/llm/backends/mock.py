"""A mock: three tensors of three numbers that babble a few words, for trying the interface without a model."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.llm.backends.base import BaseLLM, LLMConfig, LLMResponse, asked, backends

WORDS = (
    "model",
    "data",
    "learns",
    "from",
    "examples",
    "and",
    "keeps",
    "what",
    "it",
    "knew",
    "模型",
    "学习",
    "保持",
    ".",
)


class _Layer(nn.Module):
    """A scale for three numbers; `weights` is shared with the mock, which knows it by the name that the guide uses."""

    def __init__(self, weights: nn.Parameter):
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.weights)


class MockModule(nn.Module):
    """A recurrent next-word model of nine weights: `embedding_weights` in layer `embedding`, `attention_weights` in
    `encoder`, `output_weights` in `decoder`. Input: word numbers [rows, length]; output: logits [rows, length, words].
    """

    features: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding_weights = nn.Parameter(torch.tensor([0.9, -0.6, 0.3]))
        self.attention_weights = nn.Parameter(torch.tensor([0.5, 0.8, -0.4]))
        self.output_weights = nn.Parameter(torch.tensor([2.0, 1.0, 1.5]))
        self.embedding = _Layer(self.embedding_weights)
        self.encoder = _Layer(self.attention_weights)
        self.decoder = _Layer(self.output_weights)
        angles = torch.arange(1, len(WORDS) + 1)[:, None] * torch.tensor([1.0, 2.3, 3.7])
        self.register_buffer("features", torch.sin(angles), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        state = torch.zeros(input_ids.shape[0], 3)
        states = []
        for x in self.embedding(self.features[input_ids]).unbind(1):
            state = self.encoder(x + state)
            states.append(state)
        logits: Tensor = 3 * self.decoder(torch.stack(states, 1)) @ self.features.T
        return logits


@backends.register("mock")
class MockLLM(BaseLLM):
    """A mock, not a language model: it answers any prompt with a dozen words drawn from its nine weights.

    Everything around it is real: its tensors can be frozen, updated and rolled back, the same prompt gets the same
    answer as long as they do not change, and the confidence is the mean probability of the words.
    """

    def __init__(self, config: LLMConfig):
        super().__init__(config)
        self._model = MockModule()

    @property
    def model(self) -> nn.Module:
        return self._model

    @torch.no_grad()
    def generate(self, prompt: str, **kwargs: Any) -> LLMResponse:
        """A dozen words, at most `max_length`; the prompt chooses the first one and seeds the drawing."""
        settings = asked(self.config, kwargs)
        seed = int.from_bytes(hashlib.sha256(f"{settings['seed']}/{prompt}".encode()).digest()[:7], "little")
        source = torch.Generator().manual_seed(seed)
        said, chances = [seed % len(WORDS)], []
        with self.lock.reading():
            for _ in range(min(12, settings["max_length"])):
                odds = self._model(torch.tensor([said]))[0, -1].softmax(-1)
                tempered = (odds.log() / settings["temperature"]).softmax(-1)
                drawn = torch.multinomial(tempered, 1, generator=source) if settings["do_sample"] else odds.argmax()
                said.append(int(drawn))
                chances.append(float(odds[said[-1]]))
        text = "[mock] " + " ".join(WORDS[i] for i in said[1:])
        return LLMResponse(text, sum(chances) / len(chances), metadata={"backend": "mock", "tokens": len(chances)})
