"""Rows for encoder-decoder models: a prompt that the encoder reads, and the completion that the decoder writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.data.formats import Completion, Record
from holdfast.data.rows import Row, Rows

logger = logging.getLogger(__name__)


def pair_rows(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, *, length: int) -> Rows:
    """One row a record: `input_ids` of the prompt and `target`, the completion with EOS; each at most `length` tokens.

    Both are encoded as texts of their own, with the special tokens that the tokenizer puts around one, so the blank
    between prompt and completion belongs to neither. Raises BadInput for records that are no prompt with a completion.
    """
    rows = [_pair(record, i, tokenizer) for i, record in enumerate(records)]
    cut = sum(max(map(len, row.values())) > length for row in rows)
    if cut:
        logger.warning("%d of %d records were longer than %d tokens and were cut.", cut, len(rows), length)
    return [{key: ids[:length] for key, ids in row.items()} for row in rows]


def source_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a prompt as an encoder reads them."""
    ids: list[int] = tokenizer(text.strip(" "), verbose=False)["input_ids"]
    return ids


def _pair(record: Record, place: int, tokenizer: PreTrainedTokenizerBase) -> Row:
    if not isinstance(record, Completion) or not record.completion.strip():
        kind = "prompt alone" if isinstance(record, Completion) else type(record).__name__.lower()
        raise BadInput(
            f"An encoder-decoder learns from a prompt and a completion; record {place + 1} is a {kind}. Give records "
            "with `prompt` and `completion` (or `answer`), or say in a `mapping` which fields these are."
        )
    target: list[int] = tokenizer(text_target=record.completion.strip(" "), verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None and target[-1:] != [end]:
        target = [*target, end]
    return {"input_ids": source_tokens(record.prompt, tokenizer), "target": target}
