"""The guide's two tasks: to tell texts apart, and to write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.adapters.head import classifier
from holdfast.base import Base, load_tokenizer
from holdfast.data.quiet import quiet
from holdfast.generation.prompts import encoded, is_pair
from holdfast.generation.settings import Writing
from holdfast.generation.writing import generate
from holdfast.llm.reading import longest
from holdfast.llm.tuning.batches import read
from holdfast.llm.tuning.methods import AdapterModel, LoRAModel
from holdfast.llm.tuning.stepping import Maker, made_optimizer
from holdfast.llm.tuning.training import DataProcessor, TrainingPipeline


class TextClassificationFinetuning:
    """LoRA on a model's backbone and a new head as wide as the model, which learn to tell `num_classes` classes apart.

    The base is an encoder, a language model or a classifier of so many classes; its backbone is not copied. `names`
    are those of the classes ("0", "1", … unless told), `pad_id` fills batches up (the model's own unless told), and
    head and factors are drawn from `seed`. `optimizer` makes one of what trains (AdamW at the method's usual rate
    unless given). Raises BadInput for fewer than two classes, and as `holdfast.adapters.head.classifier`.
    """

    def __init__(
        self,
        base_model: PreTrainedModel,
        num_classes: int,
        *,
        names: Sequence[str] | None = None,
        pad_id: int | None = None,
        rank: int = 4,
        optimizer: Maker | None = None,
        seed: int = 0,
    ):
        self.names = [str(i) for i in range(num_classes)] if names is None else list(names)
        if num_classes < 2 or len(set(self.names)) != num_classes:
            raise BadInput(
                f"A classifier has two classes or more, each with a name of its own: {num_classes}, {names}."
            )
        pad = _pad_id(base_model) if pad_id is None else pad_id
        self.model = LoRAModel(classifier(base_model, self.names, pad_id=pad, seed=seed), rank, seed=seed)
        self.optimizer = made_optimizer(self.model, optimizer)
        self._pipeline = TrainingPipeline(self.model, self.optimizer, None)

    def train_step(self, batch: Any) -> float:
        """One step on a batch; its mean cross-entropy in nats.

        A batch is (inputs, labels), with tokens [rows, length] or a mapping for the inputs and classes [rows]; what
        `DataProcessor` makes of texts with labels; or a mapping with `labels`. Raises as `TrainingPipeline`.
        """
        self.model.train()
        return self._pipeline.train_step(batch)

    def predict(self, inputs: Any) -> Tensor:
        """The likeliest class of each row, int64 [rows], for tokens [rows, length] or a mapping with their mask."""
        rows = len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)
        batch = read(self.model, (inputs, torch.zeros(rows, dtype=torch.int64)))
        with quiet(self.model):
            logits: Tensor = self.model(**batch).logits
        return logits.argmax(-1)


class TextGenerationFinetuning:
    """Bottleneck adapters (`AdapterModel`) on a language model, which learns to write and writes.

    `tokenizer` is the one that the model's folder or name has unless given; `optimizer` makes one of what trains
    (AdamW at the method's usual rate unless given). Raises as `AdapterModel`.
    """

    def __init__(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        hidden_dim: int = 64,
        optimizer: Maker | None = None,
        seed: int = 0,
    ):
        self.model = AdapterModel(base_model, hidden_dim, seed=seed)
        self.optimizer = made_optimizer(self.model, optimizer)
        self._tokenizer = tokenizer
        self._pipeline = TrainingPipeline(self.model, self.optimizer, None)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What reads and writes text; raises BadInput where the model says nothing of where to find it."""
        if self._tokenizer is None:
            if not (name := self.model.base_model.name_or_path):
                raise BadInput("This model does not say where its tokenizer is. Give one: `tokenizer=`.")
            self._tokenizer = load_tokenizer(name)
        return self._tokenizer

    def train_step(self, batch: Any) -> float:
        """One step on texts, or on a batch as for `TrainingPipeline`; its mean loss in nats per token."""
        texts = [batch] if isinstance(batch, str) else batch
        if isinstance(texts, list | tuple) and texts and isinstance(texts[0], str):
            texts = DataProcessor(self.tokenizer, max_length=longest(self.model)).prepare_dataset(texts).tensors
        self.model.train()
        return self._pipeline.train_step(texts)

    def generate(
        self,
        prompt: str,
        max_length: int = 100,
        *,
        num_beams: int = 4,
        temperature: float = 0.7,
        top_p: float = 0.9,
        seed: int = 0,
    ) -> str:
        """The prompt and how the model goes on from it, `max_length` tokens together; of an encoder-decoder the answer.

        Beams of drawn tokens: each of the `num_beams` draws at `temperature` from the fewest tokens whose probabilities
        sum to `top_p`, by `seed`; at temperature 0 the likeliest. Raises BadInput for a prompt that leaves no room.
        """
        base = Base(self.model.adapted, self.tokenizer, "", "")  # type: ignore[arg-type]
        drawn = {"temperature": temperature, "top_p": top_p if temperature else 1.0, "seed": seed}
        settings = Writing(max_new_tokens=1, beams=num_beams, raw=True, **drawn)  # type: ignore[arg-type]
        read = 0 if is_pair(base.model) else len(encoded(base, prompt, settings)[0])
        if max_length <= read:
            raise BadInput(f"The prompt has {read} tokens, so max_length = {max_length} leaves nothing to write.")
        settings = Writing(max_new_tokens=max_length - read, beams=num_beams, raw=True, **drawn)  # type: ignore[arg-type]
        (answer,) = generate(base, [prompt], settings)
        return answer if is_pair(base.model) else prompt + answer


def _pad_id(model: PreTrainedModel) -> int:
    """What fills a batch up, as `DataProcessor` does with the tokenizer of the same model."""
    config = model.config.get_text_config()
    named = (getattr(config, f"{name}_token_id", None) for name in ("pad", "eos", "bos"))
    return next((int(token) for token in named if isinstance(token, int)), 0)
