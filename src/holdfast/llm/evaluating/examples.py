"""What the guide calls an evaluation data set, as examples: a record, and where there are any, a label and targets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from holdfast._errors import BadInput
from holdfast.data.formats import Completion, Record, Text, parse

logger = logging.getLogger(__name__)

NAMES = {"text": ("text", "texts"), "labels": ("labels", "label"), "target_texts": ("target_texts", "target_text")}
"""What is asked of an item, and the names under which it is found, as a key or as an attribute."""


@dataclass(frozen=True)
class Example:
    """A record with its label, None where it has none, and the texts that count as right after it.

    `choices` are the labels of this example alone, where it brings a closed set of its own.
    """

    record: Record
    label: Any = None
    targets: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def prompt(self) -> str | None:
        """What stands before the label or the target; None for a conversation."""
        if isinstance(self.record, Completion):
            return self.record.prompt
        return self.record.text if isinstance(self.record, Text) else None


def examples_of(dataset: Any, most: int) -> list[Example]:
    """The first `most` examples of a data set.

    Items are texts, mappings with `text`, `labels` and `target_texts`, objects with such attributes, or records of any
    known format. They stand in a list, a `datasets.Dataset` or anything else that has a length or can be read through;
    labels and targets may be columns of the data set itself. Items without text are left out. Raises BadInput for a
    data set of which nothing is left, BadRecord for an item of no known format.
    """
    items = _items(dataset, most)
    columns = {name: _column(dataset, name, len(items)) for name in ("labels", "target_texts")}
    found = [_example(_fields(item), {k: c[i] for k, c in columns.items() if c}, i) for i, item in enumerate(items)]
    kept = [example for example in found if example is not None]
    if len(kept) < len(found):
        logger.warning("%d of %d items have no text and were left out.", len(found) - len(kept), len(found))
    if not kept:
        raise BadInput("The data set is empty, or none of its items has a text: there is nothing to measure on.")
    return kept


def label_names(dataset: Any) -> Sequence[str] | None:
    """The names of numbered labels where a `datasets.Dataset` tells them."""
    features = getattr(dataset, "features", None) or {}
    known = [getattr(features.get(name), "names", None) for name in NAMES["labels"]]
    return next((names for names in known if names), None)


def _items(dataset: Any, most: int) -> list[Any]:
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping | str):
        return [dataset[i] for i in range(min(len(dataset), most))]
    if (texts := _of(dataset, "text")) is not None and not isinstance(texts, str):
        return list(islice(texts, most))
    if not isinstance(dataset, Iterable) or isinstance(dataset, Mapping | str):
        raise BadInput(f"A data set is a sequence of texts or of items with a `text`, not a {type(dataset).__name__}.")
    return list(islice(dataset, most))


def _column(dataset: Any, name: str, least: int) -> Sequence[Any]:
    """What the data set itself says of each item; nothing where it does not."""
    column = None if isinstance(dataset, list | tuple) else _of(dataset, name)
    if column is None or isinstance(column, str) or not hasattr(column, "__getitem__"):
        return ()
    if len(column) < least:
        raise BadInput(f"The data set has {len(column)} `{name}` for {least} items; give one for each.")
    return column  # type: ignore[no-any-return]


def _of(thing: Any, name: str) -> Any:
    """What a thing says under one of the names, as a key or as an attribute; None where it does not."""
    for known in NAMES[name]:
        value = thing.get(known) if isinstance(thing, Mapping) else getattr(thing, known, None)
        if value is not None and not callable(value):
            return value
    return None


def _fields(item: Any) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if isinstance(item, Mapping):
        return {key: value for key, value in item.items() if value is not None}
    found = {name: _of(item, name) for name in NAMES}
    return {name: value for name, value in found.items() if value is not None}


def _example(fields: Mapping[str, Any], beside: Mapping[str, Any], i: int) -> Example | None:
    text, label, targets = (_of(fields, name) for name in NAMES)
    label = _plain(beside.get("labels") if label is None else label)
    targets = beside.get("target_texts", ()) if targets is None else targets
    given = (targets,) if isinstance(targets, str) else tuple(map(str, targets))
    if isinstance(text, str):
        return Example(Text(text), label, given) if text.strip() else None
    if not fields.keys() - {"labels", "label", "target_texts", "target_text"}:
        return None
    record = parse(fields, "the data set", i + 1)
    if not isinstance(record, Completion):
        return Example(record, label, given)
    if record.choices:
        return Example(record, record.completion.strip(), given, tuple(choice.strip() for choice in record.choices))
    right = record.references or ((record.completion,) if record.completion.strip() else ())
    return Example(record, label, given or tuple(answer.strip() for answer in right))


def _plain(label: Any) -> Any:
    """A label as plain Python: numbers of torch and NumPy have an `item`."""
    single = hasattr(label, "item") and getattr(label, "ndim", 0) == 0
    return label.item() if single else label
