"""The guide's prompts that are learnt: before the text, and in every layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.wrapping import task_type
from holdfast.llm.tuning.tuned import Tuned, Usual

WIDTH, DEPTH = Usual(768), Usual(12)
"""What the guide takes for granted; left alone, both stand for the model's own."""


class PromptTuning(Tuned):
    """A model that reads `num_virtual_tokens` learnt embeddings before every text; they are all that trains.

    `hidden_size` is the model's width: left alone (or None) it is taken from there, a number given instead has to be
    it. The prompt starts as embeddings of tokens drawn from the vocabulary, which learns better than noise. Logits are
    those of the text alone, and labels stand where the text stands.

    Raises BadInput for another width and for no tokens, Unsupported for an encoder without a task of its own. Lester
    et al. (2021), arXiv:2104.08691.
    """

    name = "prompt"

    def __init__(
        self,
        model: PreTrainedModel,
        num_virtual_tokens: int = 20,
        hidden_size: int | None = WIDTH,
        *,
        seed: int = 0,
    ):
        _check_task(model)
        _check("hidden_size", hidden_size, _text(model).hidden_size, "wide")
        super().__init__(model, {"tokens": num_virtual_tokens}, seed)

    @property
    def soft_prompts(self) -> nn.Parameter:
        """The embeddings, [num_virtual_tokens, hidden_size] (twice as many rows in an encoder-decoder)."""
        return _embedding(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """What the model answers to tokens [rows, length] behind the prompt; the mask is that of the text alone."""
        return self.adapted(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class PtuningV2(Tuned):
    """A model each layer of which attends to `num_virtual_tokens` learnt keys and values of its own.

    `num_layers` is the model's: left alone (or None) it is taken from there, a number given instead has to be it. The
    text keeps its length and its positions, so nothing has to be cut off again.

    Raises BadInput for another number of layers and for no tokens, Unsupported for an encoder without a task of its
    own. Liu et al. (2022), arXiv:2110.07602; Li and Liang (2021), arXiv:2101.00190.
    """

    name = "ptuning2"

    def __init__(
        self,
        model: PreTrainedModel,
        num_virtual_tokens: int = 20,
        num_layers: int | None = DEPTH,
        *,
        seed: int = 0,
    ):
        _check_task(model)
        _check("num_layers", num_layers, _text(model).num_hidden_layers, "layers deep")
        self.num_layers = int(_text(model).num_hidden_layers)
        super().__init__(model, {"tokens": num_virtual_tokens}, seed)

    @property
    def prompt_encoders(self) -> list[Tensor]:
        """Of each layer its keys and values, [num_virtual_tokens, 2 x width of all keys]: views of what trains."""
        weight = _embedding(self)
        return list(weight.view(len(weight), self.num_layers, -1).unbind(1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """What the model answers to tokens [rows, length]; the mask is that of the text alone."""
        return self.adapted(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def _embedding(tuned: Tuned) -> nn.Parameter:
    encoder: Any = tuned.adapted.prompt_encoder
    weight: nn.Parameter = encoder["default"].embedding.weight
    return weight


def _text(model: PreTrainedModel) -> Any:
    return model.config.get_text_config()


def _check(name: str, given: int | None, own: int, what: str) -> None:
    if given is not None and not isinstance(given, Usual) and given != own:
        raise BadInput(f"{name} = {given}, but this model is {own} {what}. Leave {name} away, or give {own}.")


def _check_task(model: PreTrainedModel) -> None:
    if task_type(model) is None:
        raise Unsupported(
            f"A {type(model).__name__} has no place for virtual tokens. Give a language model that writes, or make a "
            "classifier of it first (`holdfast.adapters.head.classifier`)."
        )
