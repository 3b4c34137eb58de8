"""Rows of tokens: how records become what a model learns from, and how rows become batches."""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadCheckpoint, BadInput
from holdfast.data.chat import chat
from holdfast.data.formats import Chat, Completion, Record, Text
from holdfast.data.packing import IGNORED as IGNORED
from holdfast.data.packing import Row as Row
from holdfast.data.packing import packed, windows

logger = logging.getLogger(__name__)

Rows = list[Row]
Batch = dict[str, Tensor]

TOGETHER = 1024
"""Texts that are encoded at once: what a tokenizer notes about each is far larger than its tokens."""

ANSWERS = ("labels", "target", "label")
"""Keys of what is learnt of a row: its own tokens, those of another text (`pairs`), its class (`classes`)."""


def rows(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    pack: bool = True,
    overlap: int = 0,
    separator: Sequence[int] | None = None,
) -> Rows:
    """Records as rows of at most `length` tokens.

    Texts are packed: one stream, cut into rows of exactly `length` tokens, each of which starts with BOS where the
    tokenizer has one, because some bases are lost without it. Between two documents stands `separator`: by default
    EOS, and BOS after it, as in pre-training; without it a model would learn that stories run into each other. A row
    sees the end of the document before (no block mask), as in pre-training too. Unpacked, each text has rows of its
    own and nothing between them.

    A row that begins inside a text says BOS where no text begins, and the base is wrong there (on the embedded model 14
    nats for the first token, 3.3 for the next seven, against 1.4). So its first token bears no loss, and `overlap`
    repeats so many tokens of the row before as context without loss: costly in training, right in a probe.

    Completions and chats stand in a row each. Truncation: a prompt loses its beginning, then a completion its end;
    a chat loses its end; texts lose nothing but, packed, the last part of a row. How many were cut, and how many rows
    had nothing left to learn and were dropped, is logged as a warning.

    Raises BadInput for lengths that leave no room, and for chats where the tokenizer has no chat template.
    """
    if not 0 <= overlap < length - 1:
        raise BadInput(f"Rows need at least 2 tokens and an overlap below that; length {length}, overlap {overlap}.")
    texts = [record for record in records if isinstance(record, Text)] if pack else []
    between = separation(tokenizer) if separator is None else list(separator)
    documents = all_tokens(tokenizer, [text.text for text in texts])
    made = packed(documents, start(tokenizer), between, length=length, overlap=overlap) if texts else []
    pairs = iter(completions([record for record in records if isinstance(record, Completion)], tokenizer))
    cut = 0
    for i, record in enumerate(records):
        if isinstance(record, Completion):
            row, shortened = _answered(*next(pairs), tokenizer, length=length, ending=True)
            made.append(row)
            cut += shortened
        elif not (pack and isinstance(record, Text)):
            encoded, shortened = encode(record, tokenizer, length=length, overlap=overlap)
            made.extend(
                {**row, "document": [i] * len(row["input_ids"])} if len(encoded) > 1 else row for row in encoded
            )
            cut += shortened
    kept = [row for row in made if learnt(row)]
    if cut or len(kept) < len(made):
        logger.warning(
            "%d of %d records were longer than %d tokens and were cut; %d rows had nothing to learn and were dropped.",
            cut, len(records), length, len(made) - len(kept),
        )  # fmt: skip
    return kept


def encode(
    record: Record, tokenizer: PreTrainedTokenizerBase, *, length: int, overlap: int = 0, ending: bool = True
) -> tuple[Rows, bool]:
    """The rows of one record, unpacked, and whether it was cut; with `ending`, a completion ends with a learnt EOS."""
    if isinstance(record, Text):
        return windows(tokens(tokenizer, record.text), start(tokenizer), length=length, overlap=overlap), False
    if isinstance(record, Chat):
        ids, labels = chat(record, tokenizer)
        return [{"input_ids": ids[:length], "labels": labels[:length]}], len(ids) > length
    row, cut = _answered(*completion(record, tokenizer), tokenizer, length=length, ending=ending)
    return [row], cut


def _answered(
    context: list[int], answer: list[int], tokenizer: PreTrainedTokenizerBase, *, length: int, ending: bool
) -> tuple[Row, bool]:
    """The row of a prompt and its completion, and whether it was cut."""
    begin, end = start(tokenizer), tokenizer.eos_token_id
    answer = [*answer, end] if ending and end is not None else answer
    room = length - len(begin)
    whole, answer = len(context) + len(answer), answer[:room]
    context = [*begin, *context[len(context) - min(len(context), room - len(answer)) :]]
    return {"input_ids": context + answer, "labels": [IGNORED] * len(context) + answer}, whole > room


def completion(record: Completion, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens of the prompt and of the completion, without BOS and EOS.

    Both are encoded as one text, so that no token stands there that running text would not have; a token across the
    border counts as completion.
    """
    return completions([record], tokenizer)[0]


def completions(records: Sequence[Completion], tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], list[int]]]:
    """`completion` of each."""
    prompts = all_tokens(tokenizer, [record.prompt for record in records])
    wholes = all_tokens(tokenizer, [record.prompt + record.completion for record in records])
    return [_parted(prompt, whole) for prompt, whole in zip(prompts, wholes, strict=True)]


def _parted(prompt: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
    border = sum(1 for _ in same)
    return whole[:border], whole[border:]


def tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text without special tokens around it, however long."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def all_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """`tokens` of each text; many at once cost a fraction of as many calls."""
    parts = (list(texts[i : i + TOGETHER]) for i in range(0, len(texts), TOGETHER))
    options: dict[str, bool] = {"add_special_tokens": False, "verbose": False, "return_attention_mask": False}
    return [ids for part in parts for ids in tokenizer(part, **options)["input_ids"]]


def start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a row starts with: BOS, or nothing."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def separation(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands between two documents: EOS, then BOS where that is another token."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return end if start(tokenizer) == end else end + start(tokenizer)


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to pad with; it is masked wherever it stands, so any will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((int(token) for token in known if token is not None), 0)


def answer(row: Row) -> list[int]:
    """What is learnt of a row: a label for each of its tokens, those of another text, or one for the whole."""
    return next(row[key] for key in ANSWERS if key in row)


def learnt(row: Row) -> int:
    """How many tokens of a row bear loss; where each predicts the next, nothing predicts the first."""
    return sum(label != IGNORED for label in answer(row)["labels" in row :])


def documents(rows: Sequence[Row]) -> list[int]:
    """Of each row, the number of the text that it is from; a row that does not say is a text of its own."""
    known: dict[object, int] = {}
    marks = (row["document"][0] if row.get("document") else (i,) for i, row in enumerate(rows))
    return [known.setdefault(mark, len(known)) for mark in marks]


def in_turns(rows: Sequence[Row]) -> Rows:
    """One row of each document, then another of each: the first n rows are from as many documents as possible.

    Which of its rows comes first is left to chance (always the same), for openings are not like the rest of a text.
    """
    owners, seen = documents(rows), Counter[int]()
    turns = [0] * len(rows)
    for i in random.Random(0).sample(range(len(rows)), len(rows)):
        turns[i] = seen[owners[i]]
        seen[owners[i]] += 1
    return [rows[i] for i in sorted(range(len(rows)), key=turns.__getitem__)]


def collate(rows: Sequence[Row], pad_id: int) -> Batch:
    """A batch, int64 [rows, longest]: right-padded, with an `attention_mask` only where padding was needed.

    `labels` are as long as `input_ids`; those of another text [rows, longest of these], those of whole rows [rows].
    """
    lengths = [len(row["input_ids"]) for row in rows]
    batch = {
        "input_ids": _filled([row["input_ids"] for row in rows], pad_id),
        "labels": _filled([answer(row) for row in rows], IGNORED),
    }
    if "label" in rows[0]:
        batch["labels"] = batch["labels"][:, 0]
    if min(lengths) < max(lengths):
        batch["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return batch


def _filled(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def length_sorted_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most `batch_tokens` padded tokens (or one row), the longest first.

    Depends on the lengths alone, so two models scored on the same rows are scored in the same batches; and what does
    not fit into memory shows in the first batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        count = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:count]
        order = order[count:]


def same_rows(rows: Mapping[str, Sequence[Row]], digests: Mapping[str, str]) -> None:
    """Raise BadCheckpoint where a text's rows are not those whose digest was kept."""
    for name, found in rows.items():
        if digests.get(name) != digest(found):
            raise BadCheckpoint(
                f"The rows of {name} are not those that the run was measured on before, so nothing can be compared "
                "with that. Resume with the same text (for text that the model makes up: on the machine that made it)."
            )


def digest(rows: Sequence[Row]) -> str:
    """A short name for exactly these rows in this order (SHA-256, 16 hexadecimal digits)."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.asarray([len(row["input_ids"]), *row["input_ids"], *answer(row)], dtype=np.int64).tobytes())
    return sha.hexdigest()[:16]
