"""How a model writes: greedily, drawn, or by beams, and where it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast._errors import BadInput

LONGEST = 128
"""Tokens of an answer unless told, where the model has twice the room."""


@dataclass(frozen=True)
class Writing:
    """Settings of generation; all of them are checked when they are set.

    At `temperature` 0 the likeliest token is taken, above 0 it is drawn from softmax(logits / temperature), of the
    `top_k` likeliest tokens (0: all) and of the fewest whose probabilities sum to `top_p` (Holtzman et al. 2020,
    arXiv:1904.09751). With `beams` above 1 the likeliest of so many continuations is sought, at a temperature above 0
    among drawn ones. `repetition_penalty` divides the logits of tokens that stand there already (Keskar et al. 2019,
    arXiv:1909.05858). `stop` are strings that end an answer and are cut from it. `max_new_tokens` is 128 unless told,
    or half of the model's positions where those are fewer. `raw` continues a prompt as it stands, though the tokenizer
    has a chat template. `batch_size` changes no answer.

    Raises BadInput for what is out of range, and for top_p and top_k where nothing is drawn.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    beams: int = 1
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 8
    raw: bool = False

    def __post_init__(self) -> None:
        """Refuse what no model can do."""
        whole = {"max_new_tokens": self.max_new_tokens, "beams": self.beams, "batch_size": self.batch_size}
        for name, value in whole.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is at least 1, not {value}.")
        if not 0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is 0 (the likeliest token) or above it (drawn), not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is a share of the probability, above 0 and at most 1, not {self.top_p}.")
        if self.top_k < 0:
            raise BadInput(f"top_k is a number of tokens, or 0 for all of them, not {self.top_k}.")
        if not 0 < self.repetition_penalty < math.inf:
            raise BadInput(f"repetition_penalty is above 0 (1 changes nothing), not {self.repetition_penalty}.")
        if any(not text for text in self.stop):
            raise BadInput("A stop string is empty, and would end every answer before it begins. Leave it away.")
        if not self.drawn and (self.top_p < 1 or self.top_k):
            raise BadInput(
                "top_p and top_k say which tokens are drawn from, and nothing is. Add a temperature, such as 0.7."
            )

    @property
    def drawn(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0
