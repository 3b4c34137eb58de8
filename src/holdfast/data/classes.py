"""Texts that each belong to one class, and the rows that a classifier learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput, BadRecord, UnknownName
from holdfast.data.formats import Completion, Fields
from holdfast.data.rows import Rows
from holdfast.data.sources import Source, raw

TEXTS, LABELS = ("text", "sentence"), ("label_text", "label")
"""Fields that hold the text and its label; of several, the first that a record has."""


def labelled(
    source: Source,
    *,
    split: str = "train",
    mapping: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
) -> list[Completion]:
    """The records of `source` (see `formats.read`), each with its label as the completion.

    A record has `text` (or `sentence`) and `label` (or, before that, `label_text`): a string or an integer. `mapping`
    says which field of the data stands for which of these: `{"text": "prompt", "label": "answer"}`. `names` are the
    labels there may be, where they are known.

    Raises BadRecord, with file and line, for a record without text or label, for an empty one, for a label that is
    neither string nor integer, and for one that is not among `names`; BadInput for a source that cannot be read.
    """
    for name in mapping or {}:
        if name not in (*TEXTS, *LABELS):
            raise UnknownName("field of a labelled text called", name, (*TEXTS, *LABELS))
    found = []
    for file, line, fields in raw(source, split):
        try:
            record = _labelled(_mapped(fields, mapping or {}))
        except ValueError as error:
            raise BadRecord(file, line, str(error)) from error
        if names is not None and record.completion not in names:
            raise BadRecord(file, line, f"the label {record.completion!r} is none of {', '.join(names)}.")
        found.append(record)
    if not found:
        raise BadInput(f"{source} is empty: there is no record to read in it.")
    return found


def is_labelled(source: Source, split: str = "test") -> bool:
    """Whether the first record of `source` has a text and a label; raises BadInput for a source that cannot be read."""
    first = next(iter(raw(source, split)), None)
    return first is not None and all(any(key in first.fields for key in keys) for keys in (TEXTS, LABELS))


def class_names(records: Sequence[Completion], given: Sequence[str] | None = None) -> list[str]:
    """The labels of records: in the order given, else sorted (integers by size).

    Raises BadInput where there is only one, where one is given twice, or where no record has one of them.
    """
    held = {record.completion for record in records}
    names = list(given) if given is not None else sorted(held, key=_order(held))
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"A classifier tells at least two labels apart, each named once; there are {names}.")
    if empty := [name for name in names if name not in held]:
        raise BadInput(f"No record has the label {', '.join(empty)}, so it cannot be learnt. Give some, or leave it.")
    return names


def class_rows(
    records: Sequence[Completion], names: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, length: int
) -> Rows:
    """One row a record: `input_ids`, with the special tokens that the tokenizer puts around a text, and its `label`.

    A text of more than `length` tokens loses its end, or its beginning where the tokenizer truncates on the left.
    """
    places = {name: i for i, name in enumerate(names)}
    texts = [record.prompt for record in records]
    encoded = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    return [
        {"input_ids": list(ids), "label": [places[record.completion]]}
        for ids, record in zip(encoded, records, strict=True)
    ]


def shares(records: Sequence[Completion], names: Sequence[str]) -> list[float]:
    """What part of the records has each label, in the order of `names`."""
    counts = Counter(record.completion for record in records)
    return [counts[name] / len(records) for name in names]


def balanced(records: Sequence[Completion], names: Sequence[str]) -> list[float]:
    """A weight for each label, n / (classes x records of the label), so that all labels count alike.

    King & Zeng (2001), Logistic regression in rare events data; scikit-learn's `compute_class_weight("balanced")`.
    """
    return [1 / (len(names) * share) for share in shares(records, names)]


def _mapped(fields: Fields, mapping: Mapping[str, str]) -> Fields:
    if missing := [theirs for theirs in mapping.values() if theirs not in fields]:
        raise ValueError(f"the mapping asks for {', '.join(missing)}; the fields are {', '.join(fields)}.")
    return {**fields, **{ours: fields[theirs] for ours, theirs in mapping.items()}}


def _labelled(fields: Fields) -> Completion:
    text, label = (_first(fields, keys) for keys in (TEXTS, LABELS))
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the text is empty." if text == "" or isinstance(text, str) else f"the text is {text!r}.")
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise ValueError(f"the label {label!r} is a {type(label).__name__}; a label is a string or an integer.")
    if not str(label).strip():
        raise ValueError("the label is empty.")
    return Completion(text, str(label).strip())


def _first(fields: Fields, keys: Sequence[str]) -> Any:
    for key in keys:
        if fields.get(key) is not None:
            return fields[key]
    what = "text" if keys is TEXTS else "label"
    raise ValueError(f"there is no `{what}` among its fields ({', '.join(fields)}). Name it in a `mapping`.")


def _order(names: set[str]) -> Any:
    """Integers by size, words by the alphabet."""
    return int if all(name.removeprefix("-").isdecimal() for name in names) else str
