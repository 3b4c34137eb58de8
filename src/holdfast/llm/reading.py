"""What the guides call a data set, as rows of tokens: texts, records of any known format, or ready tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.data.formats import Record, parse
from holdfast.data.rows import Batch, Row, collate, encode, learnt

logger = logging.getLogger(__name__)

LENGTH = 512
"""Most tokens of a row where the model reads more."""

MARK = "data_type"
"""The key by which a `ReplayDataset` says whose an item is; no part of a record."""


def longest(model: nn.Module) -> int:
    """How many tokens a row may have: what the model has positions for, at most `LENGTH`."""
    config: Any = getattr(model, "config", None)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    return min(int(positions or LENGTH), LENGTH)


def tokenised(dataset: Any) -> bool:
    """Whether the items of a data set are tokens already; raises BadInput for one that is empty."""
    if not len(dataset):
        raise BadInput("The data set is empty: there is nothing to learn from or to measure on.")
    first = dataset[0]
    return isinstance(first, Mapping) and "input_ids" in first


def rows_of(dataset: Any, tokenizer: PreTrainedTokenizerBase | None, length: int) -> list[Row]:
    """The rows of a data set, each at most `length` tokens, in its order; see `rows_of_each`.

    Raises BadInput for an empty data set, and for one of which nothing can be learnt.
    """
    found = [row for rows in rows_of_each(dataset, tokenizer, length) for row in rows]
    if not found:
        raise BadInput("Nothing can be learnt from this data set: its items have one token at most, or no labels.")
    return found


def rows_of_each(dataset: Any, tokenizer: PreTrainedTokenizerBase | None, length: int) -> list[list[Row]]:
    """The rows of each item, none where nothing can be learnt of it.

    Any sequence of texts or mappings will do, so a list, a `datasets.Dataset` and a torch `Dataset` do. A long text
    gives several rows, a longer completion or chat is cut; tokens lose their pads. Raises BadInput for an empty data
    set and for text without a tokenizer, BadRecord for a record of no known format.
    """
    if tokenised(dataset):
        ready = ({key: ids[:length] for key, ids in as_row(item).items()} for item in _items(dataset))
        return [[row] if learnt(row) else [] for row in ready]
    if tokenizer is None:
        raise BadInput("This data set holds text, and there is no tokenizer to read it: give `tokenizer=`.")
    encoded = [encode(record, tokenizer, length=length) for record in records_of(dataset)]
    if cut := sum(shortened for _, shortened in encoded):
        logger.warning("%d of %d items were longer than %d tokens and were cut.", cut, len(encoded), length)
    return [[_marked(row, i, len(rows)) for row in rows if learnt(row)] for i, (rows, _) in enumerate(encoded)]


def records_of(dataset: Any) -> list[Record]:
    """The records of a data set that holds text; raises BadRecord for one of no known format."""
    return [parse(_fields(item), "the data set", i) for i, item in enumerate(_items(dataset), start=1)]


def as_row(item: Mapping[str, Any]) -> Row:
    """An item of tokens as a row: without pads, and all of it learnt where it says nothing else."""
    ids = _numbers(item["input_ids"])
    labels = ids if item.get("labels") is None else _numbers(item["labels"])
    mask = [1] * len(ids) if item.get("attention_mask") is None else _numbers(item["attention_mask"])
    if not len(ids) == len(labels) == len(mask):
        raise BadInput(f"An item has {len(ids)} tokens, {len(labels)} labels and a mask of {len(mask)}; give as many.")
    kept = [(token, label) for token, label, seen in zip(ids, labels, mask, strict=True) if seen]
    return {"input_ids": [token for token, _ in kept], "labels": [label for _, label in kept]}


def batch_of(items: Sequence[Mapping[str, Any]], pad_id: int) -> Batch:
    """Items of tokens as one batch; see `holdfast.data.rows.collate`."""
    return collate([as_row(item) for item in items], pad_id)


def _marked(row: Row, item: int, of: int) -> Row:
    """Rows of one item belong together, where there are several."""
    return {**row, "document": [item] * len(row["input_ids"])} if of > 1 else row


def _items(dataset: Any) -> Iterator[Any]:
    return (dataset[i] for i in range(len(dataset)))


def _fields(item: Any) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if not isinstance(item, Mapping):
        raise BadInput(f"An item of a data set is a text or a mapping of fields, not a {type(item).__name__}.")
    return {key: value for key, value in item.items() if key != MARK and value is not None}


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values]
