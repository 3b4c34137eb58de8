"""A Trainer that reads text: data sets of records become rows, batches are padded, and rules have their say."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase, TrainingArguments

from holdfast._errors import BadInput
from holdfast.data.rows import Row, padding
from holdfast.llm.reading import batch_of, longest, rows_of, rows_of_each, tokenised
from holdfast.training import Trainer


class TextTrainer(Trainer):
    """`holdfast.Trainer` with the arguments that transformers' Trainer had and has.

    `tokenizer` is another name for `processing_class`. A data set of texts or records is read as rows of at most
    `length` tokens (None: what the model reads, at most 512); one of tokens is taken as it is and padded, its own
    `labels` or all of it learnt. A `data_collator` of one's own gets the items of tokens untouched. Any `rules` may be
    given. Raises BadInput for two different tokenizers and for data that cannot be read.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        processing_class: Any = None,
        data_collator: Any = None,
        length: int | None = None,
        **kwargs: Any,
    ):
        if None is not tokenizer is not processing_class is not None:
            raise BadInput("`tokenizer` and `processing_class` are two names for one thing; give one of them.")
        self._tokenizer: Any = tokenizer if processing_class is None else processing_class
        self._length = length or longest(model)
        self.pad_id = 0 if self._tokenizer is None else padding(self._tokenizer)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._readable(train_dataset),
            eval_dataset=self._readable(eval_dataset),
            processing_class=self._tokenizer,
            data_collator=data_collator or partial(batch_of, pad_id=self.pad_id),
            **kwargs,
        )

    def rows(self, dataset: Any) -> list[Row]:
        """A data set as this trainer reads it, in rows of tokens."""
        return rows_of(dataset, self._tokenizer, self._length)

    def rows_of_each(self, dataset: Any) -> list[list[Row]]:
        """The rows of each item of a data set."""
        return rows_of_each(dataset, self._tokenizer, self._length)

    def _readable(self, dataset: Any) -> Any:
        """Tokens as they are, text as rows; of several evaluation sets, each."""
        if isinstance(dataset, dict):
            return {name: self._readable(one) for name, one in dataset.items()}
        if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            return dataset
        return dataset if tokenised(dataset) else self.rows(dataset)
