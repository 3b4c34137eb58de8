"""The items that a recipe learns to recommend: which catalogue, under which IDs, and what is asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.data.formats import Record
from holdfast.items.catalogue import Catalogue
from holdfast.items.finding import find, holds_items
from holdfast.items.index_files import read_ids
from holdfast.items.made_up import made_up
from holdfast.items.reading import load
from holdfast.items.tasks import Prompts
from holdfast.recipe.schema import Learn, Recipe, Vocabulary
from holdfast.vocabulary.index import Index, read_index

MADE_UP = "tiny/items"
"""The name of a catalogue that is made up by rule, for where there is no other."""

HISTORY = "history"
"""The task that measures the learning: what comes next after a history of IDs."""


def catalogue(recipe: Recipe) -> Catalogue | None:
    """The catalogue that a recipe learns from, under the IDs of its vocabulary; None for any other data."""
    if not _has_items(recipe.learn.data):
        if recipe.learn.tasks is not None or recipe.learn.templates:
            raise BadInput(
                f"`learn.tasks` are asked about items, and {recipe.learn.data} holds none. Name a folder with an "
                ".item.json or .index.json, or leave them away."
            )
        return None
    wanted = recipe.vocabulary or Vocabulary()
    found = _loaded(recipe.learn.data, wanted.dataset)
    return found if wanted.items is None else found.with_tokens(indexed(wanted))


def indexed(wanted: Vocabulary) -> Index:
    """The semantic IDs that a recipe names; empty where it names none."""
    if wanted.items is None:
        return {}
    if _has_items(wanted.items):
        return dict(_loaded(wanted.items, wanted.dataset).tokens)
    return read_index(wanted.items, wanted.dataset)


def titles(wanted: Vocabulary, data: str) -> dict[str, list[str]]:
    """Of each token, the titles of the items that it names, as the catalogue in `data` has them."""
    found: dict[str, list[str]] = {}
    for item, named in indexed(wanted).items():
        for token in named:
            found.setdefault(token, []).append(_loaded(data, wanted.dataset).title(item))
    return found


def histories(
    items: Catalogue, learn: Learn, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[list[Record], list[Record], str]:
    """The records to learn from, those that measure it, and in words where the latter come from."""
    prompts = prompted(items, learn, tokenizer)
    split = next((name for name in ("valid", "test") if items.splits.get(name)), None)
    if split is None or not items.splits.get(learn.split):
        raise BadInput(
            f"{learn.data} needs a split {learn.split!r} to learn from and one to measure on, such as valid."
        )
    measured: Sequence[Record] = prompts.records(HISTORY, split)
    return [*prompts.mixture(learn.split, learn.tasks, seed=seed)], [*measured], f"{learn.data}, its {split} users"


def prompted(items: Catalogue, learn: Learn, tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """The records of a catalogue as a recipe puts them; training and evaluation ask in the same words."""
    return Prompts(items, templates=learn.templates, tokenizer=tokenizer, max_tokens=learn.length)


def vectors(wanted: Vocabulary) -> dict[str, Tensor]:
    """Of each token, the vector of its codebook, which lies beside the index; raises BadInput where there is none."""
    if wanted.items is None or wanted.items == MADE_UP:
        raise BadInput("The initialiser `codebook` needs an index with codebooks, as `holdfast sid build` writes it.")
    index = Path(wanted.items).expanduser()
    if index.is_dir():
        index = find(index, wanted.dataset).files.get("index", index)
    return read_ids(index, duplicates="allow").token_vectors()


def _has_items(name: str) -> bool:
    folder = Path(name).expanduser()
    return name == MADE_UP or (folder.is_dir() and holds_items(folder))


@lru_cache(maxsize=2)
def _loaded(folder: str, dataset: str | None) -> Catalogue:
    """Read once for tokens, titles and records; it does not change."""
    if folder == MADE_UP:
        return made_up()
    return load(Path(folder).expanduser(), dataset)
