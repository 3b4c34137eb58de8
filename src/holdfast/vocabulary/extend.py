"""New tokens for a model and its tokenizer: where they begin, which were there already, how their rows start."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput, Unsupported
from holdfast.vocabulary.index import read_index
from holdfast.vocabulary.initialise import Known, Side, initialisers
from holdfast.vocabulary.rows import check_rows, embedding_of, is_tied, lay, sides

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extension:
    """The new tokens of a vocabulary: their ids are `boundary`, `boundary` + 1, …, in the order of `tokens`.

    Everything below `boundary` is old. `present` are tokens that were asked for and are old already; they keep their
    ids and rows. `added` counts the last of `tokens`, those that this extension brought.
    """

    boundary: int
    tokens: tuple[str, ...]
    present: tuple[str, ...]
    added: int

    @property
    def last(self) -> int:
        """The highest new id."""
        return self.boundary + len(self.tokens) - 1


class TokenExtender:
    """The tokens of an index of semantic IDs, `data_path`/`dataset``index_file`; see `read_index` for errors.

    >>> import json, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "toys.index.json").write_text(json.dumps({"0": ["<a_1>", "<b_0>"], "1": ["<a_0>", "<b_0>"]}))
    >>> TokenExtender(str(folder), "toys").get_new_tokens()
    ['<a_0>', '<a_1>', '<b_0>']
    """

    def __init__(self, data_path: str, dataset: str, index_file: str = ".index.json"):
        self.data_path, self.dataset, self.index_file = data_path, dataset, index_file
        self.indices: dict[str, list[str]] | None = None
        self.new_tokens: list[str] | None = None

    def _load_data(self) -> None:
        """Read the index; raises BadInput."""
        found = read_index(Path(self.data_path) / f"{self.dataset}{self.index_file}", self.dataset)
        self.indices = {item: list(tokens) for item, tokens in found.items()}

    def get_new_tokens(self) -> list[str]:
        """All different tokens of the index, sorted; raises BadInput."""
        if self.new_tokens is None:
            if self.indices is None:
                self._load_data()
            assert self.indices is not None
            self.new_tokens = sorted({token for tokens in self.indices.values() for token in tokens})
        return self.new_tokens


def extend(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Iterable[str],
    *,
    initialise: str | Mapping[str, Any] = "normal",
    texts: Mapping[str, Sequence[str]] | None = None,
    vectors: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Extension:
    """Give a tokenizer new tokens and a model their rows, which lie over the matrix and are all that comes to train.

    Ids only ever grow: tokens that the tokenizer knows keep theirs, others follow after its last one in the order
    given, also where an earlier extension stands. The matrix keeps its size, padding rows included. `initialise` is
    one of `initialisers`, by its name or with its settings; `texts` describe tokens, `vectors` place them. Without a
    token that is new, nothing changes.

    Raises BadInput for tokens that are none, twice there or blank, and for a tokenizer that has more tokens than the
    model has rows; Unsupported for a tokenizer that does not read the new tokens as they are, and for a model whose
    embedding or head takes no rows.
    """
    wanted = list(tokens)
    _check_tokens(wanted)
    _check_fit(tokenizer, embedding_of(model) or model.get_input_embeddings())
    known = tokenizer.get_vocab()
    laid = embedding_of(model)
    boundary = laid.boundary if laid is not None else len(tokenizer)
    before = [] if laid is None else tokenizer.convert_ids_to_tokens(list(range(boundary, boundary + laid.count)))
    fresh = [token for token in wanted if token not in known]
    made = Extension(
        boundary, (*before, *fresh), tuple(t for t in wanted if t in known and t not in set(before)), len(fresh)
    )
    if made.present:
        logger.warning("%d tokens are in the vocabulary already and keep their rows: %s", *_counted(made.present))
    if fresh:
        described = {token: _read(tokenizer, list((texts or {}).get(token, ()))) for token in fresh}
        known_of = Known(tuple(fresh), described, vectors or {}, first=boundary + len(before))
        rows = _rows(model, known_of, boundary, initialise, seed)
        check_rows(model, *rows)
        _add(copy.deepcopy(tokenizer), fresh, known_of.first)  # what raises leaves the tokenizer as it was
        _add(tokenizer, fresh, known_of.first)
        lay(model, boundary, *rows)
    return made


def _rows(
    model: Any, known: Known, boundary: int, initialise: str | Mapping[str, Any], seed: int
) -> tuple[Tensor, Tensor | None]:
    """New rows of embedding and untied head, behind those that an earlier extension laid."""
    name, knobs = _said(initialise)

    def of(side: Any, what: Side) -> Tensor:
        matrix = side.weight.detach()[:boundary]
        fresh: Tensor = initialisers.build(
            name, {"matrix": matrix, "known": replace(known, side=what), "seed": seed, **knobs}
        )
        return fresh if embedding_of(model) is None else torch.cat([side.new_rows.detach().to(fresh), fresh])

    into, head = sides(model)
    return of(into, "input"), None if is_tied(model) else of(head, "output")


def _said(initialise: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    named = {initialise: {}} if isinstance(initialise, str) else dict(initialise)
    if len(named) != 1:
        raise BadInput(f"An initialiser is its name, or one name and its settings, not {initialise!r}.")
    ((name, knobs),) = named.items()
    return name, dict(knobs or {})


def _add(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], first: int) -> None:
    """Add tokens that are read as they are wherever they stand; raises Unsupported where they are not."""
    whole = [AddedToken(t, single_word=False, lstrip=False, rstrip=False, normalized=False) for t in tokens]
    tokenizer.add_tokens(whole)
    ids = list(range(first, first + len(tokens)))
    read = tokenizer("".join(tokens), add_special_tokens=False, verbose=False)["input_ids"]
    if tokenizer.convert_tokens_to_ids(list(tokens)) != ids or list(read) != ids:
        raise Unsupported(
            f"This tokenizer does not read {tokens[0]} and its like as tokens of their own that follow its last id. "
            "Choose tokens in another form, such as <a_1>."
        )


def _read(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]) if texts else []


def _check_tokens(tokens: Sequence[str]) -> None:
    if odd := [token for token in tokens if not isinstance(token, str) or not token.strip() or token != token.strip()]:
        raise BadInput(f"A token is a text without blanks around it, not {odd[0]!r}.")
    if len(set(tokens)) < len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise BadInput(f"The token {twice!r} is given twice.")


def _check_fit(tokenizer: PreTrainedTokenizerBase, into: Any) -> None:
    """That every token has a row, and that new ids can follow the last one."""
    if (last := max(tokenizer.get_vocab().values())) != len(tokenizer) - 1:
        raise Unsupported(
            f"The ids of this tokenizer's {len(tokenizer):,} tokens go up to {last:,}, with gaps between: new tokens "
            "would fall on old ids. Take a tokenizer whose ids follow each other."
        )
    rows = getattr(into, "width", None) or len(into.weight)
    if len(tokenizer) > rows:
        raise BadInput(
            f"The tokenizer has {len(tokenizer):,} tokens and the model rows for {rows:,}: they do not fit "
            "each other. Give the tokenizer that the model was trained with."
        )


def _counted(tokens: Sequence[str]) -> tuple[int, str]:
    more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
    return len(tokens), ", ".join(tokens[:3]) + more
