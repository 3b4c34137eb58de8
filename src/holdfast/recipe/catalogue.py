"""The items that a recipe learns to recommend: which catalogue, under which IDs, and what is asked about it."""

from __future__ import annotations

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
from holdfast.items.tasks import FIVE, TASKS, Prompts
from holdfast.recipe.schema import Learn, Recipe, Vocabulary
from holdfast.vocabulary.index import Index, read_index

MADE_UP = "tiny/items"
"""The name of a catalogue that is made up by rule, for where there is no other."""

HISTORY = "history"
"""The task that measures the learning where it is taught: what comes next after a history of IDs."""

Stamps = tuple[tuple[str, int, int], ...]
"""Of each file of a catalogue its path, when it was last changed (nanoseconds) and its size (bytes)."""


def catalogue(recipe: Recipe) -> Catalogue | None:
    """The catalogue that a recipe learns from, under the IDs of its vocabulary; None for any other data."""
    if not has_items(recipe.learn.data):
        if recipe.learn.tasks is not None or recipe.learn.templates:
            raise BadInput(
                f"`learn.tasks` are asked about items, and {recipe.learn.data} holds none. Name a folder with an "
                ".item.json or .index.json, or leave them away."
            )
        return None
    if recipe.learn.task == "classify":
        raise BadInput(
            f"{recipe.learn.data} holds items, and `learn.task: classify` tells labels of texts apart. Leave `task` "
            "away: what is asked about items stands under `learn.tasks`."
        )
    wanted = recipe.vocabulary or Vocabulary()
    found = _loaded(recipe.learn.data, wanted.dataset)
    return found if wanted.items is None else found.with_tokens(indexed(wanted))


def indexed(wanted: Vocabulary) -> Index:
    """The semantic IDs that a recipe names; empty where it names none."""
    if wanted.items is None:
        return {}
    if not has_items(wanted.items):
        return read_index(wanted.items, wanted.dataset)
    if wanted.items != MADE_UP:
        files = find(wanted.items, wanted.dataset).files
        if not {"item", "info"} & files.keys() and "index" in files:  # as `holdfast sid build` leaves it
            return read_index(files["index"], wanted.dataset)
    found = _loaded(wanted.items, wanted.dataset)
    if not found.tokens:
        raise without_ids(wanted.items)
    return dict(found.tokens)


def without_ids(place: str, asking: str = "") -> BadInput:
    """Items that have no semantic IDs yet; `asking` is who needs them."""
    return BadInput(
        f"The items in {place} have no semantic IDs yet{asking}. Build them first: holdfast sid build {place} "
        "--output DIR, and name them in the recipe: `vocabulary: {items: DIR}`."
    )


def titles(wanted: Vocabulary, data: str) -> dict[str, list[str]]:
    """Of each token, the titles of the items that it names, as the catalogue in `data` has them."""
    found: dict[str, list[str]] = {}
    items = _loaded(data, wanted.dataset)
    for item, named in indexed(wanted).items():
        for token in named:
            found.setdefault(token, []).append(items.title(item))
    return found


def histories(
    items: Catalogue, learn: Learn, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[list[Record], list[Record], str]:
    """The records to learn from, those that measure it, and in words where the latter come from.

    What measures it are the rows of `valid` (without them, of `test`), asked as `measuring` says. Raises BadInput for a
    catalogue without such a split, and for tasks about IDs where the items have none.
    """
    _check_ids(items, learn)
    prompts = prompted(items, learn, tokenizer)
    split = next((name for name in ("valid", "test") if items.splits.get(name)), None)
    if split is None or not items.splits.get(learn.split):
        raise BadInput(
            f"{learn.data} needs a split {learn.split!r} to learn from and one to measure on, such as valid."
        )
    asked = measuring(learn)
    measured = prompts.mixture(split, dict.fromkeys(asked, 1.0), seed=seed)
    source = f"{learn.data}, its {split} users"
    if TASKS[asked[0]].of_items:
        source = f"{learn.data}, its items, of which no part is held back"
    told = source if asked == (HISTORY,) else f"{source}; {', '.join(asked)}"
    return [*prompts.mixture(learn.split, learn.tasks, seed=seed)], [*measured], told


def measuring(learn: Learn) -> tuple[str, ...]:
    """The tasks that measure the learning: `history` where it is taught, else all that are taught about histories.

    Items by themselves are in no split, so a task about them measures only where nothing else is taught.
    """
    taught = tuple(learn.tasks or FIVE)
    if HISTORY in taught:
        return (HISTORY,)
    return tuple(name for name in taught if name in TASKS and not TASKS[name].of_items) or taught


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


def has_items(name: str) -> bool:
    """Whether data of this name are a catalogue of items."""
    folder = Path(name).expanduser()
    return name == MADE_UP or (folder.is_dir() and holds_items(folder))


def _check_ids(items: Catalogue, learn: Learn) -> None:
    """Raise BadInput where items without semantic IDs are asked about by them."""
    taught = learn.tasks or FIVE
    asking = [
        name for name in taught if name in TASKS and (TASKS[name].given in ("id", "ids") or TASKS[name].answer == "id")
    ]
    if asking and not items.tokens:
        raise without_ids(learn.data, f", which {', '.join(asking)} ask about (titles_to_title does not)")


def _loaded(folder: str, dataset: str | None) -> Catalogue:
    """Read once for tokens, titles and records, and again where a file has changed since."""
    if folder == MADE_UP:
        return _made_up()
    files = find(Path(folder).expanduser(), dataset).files.values()
    stats = [(str(path.resolve()), path.stat()) for path in files]
    return _read(folder, dataset, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=2)
def _read(folder: str, dataset: str | None, stamps: Stamps) -> Catalogue:
    return load(Path(folder).expanduser(), dataset)


@lru_cache(maxsize=1)
def _made_up() -> Catalogue:
    return made_up()
