"""What a model would recommend: to a user of its catalogue, after items, or after titles that nobody numbered."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from holdfast._errors import BadInput
from holdfast.items.catalogue import SPLITS, Interaction, one_line
from holdfast.items.decoding import recommend
from holdfast.recipe.catalogue import HISTORY
from holdfast.recipe.recommender import Recommended, Recommender

BY_TITLES = "titles_to_id"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Query:
    """Somebody to recommend something to: a name to print, the history, and the task whose words ask.

    The history is of item ids; `titles` says that it is of titles, of the catalogue or not.
    """

    name: str
    history: tuple[str, ...]
    task: str = HISTORY
    titles: bool = False


def recommend_items(
    recommender: Recommender,
    queries: Sequence[Query],
    *,
    k: int = 10,
    beams: int = 50,
    exclude_seen: bool = False,
    batch_size: int | None = None,
    say: Say = lambda line: None,
) -> list[list[Recommended]]:
    """What the model would recommend to each, the likeliest first; see `of_user`, `of_items` and `of_titles`.

    Raises BadInput for a task that the model did not learn, or a last item whose words do not fit.
    """
    if k < 1:
        raise BadInput(f"At least one item is recommended, not {k}.")
    items = recommender.catalogue
    titled = [query.history for query in queries if query.titles]
    prompts, told = recommender.titled(titled)
    histories = iter(told)
    texts, gone = [], []
    for query in queries:
        history = next(histories) if query.titles else query.history
        texts.append(recommender.prompt(query.task, Interaction(query.name, history, ""), prompts))
        gone.append({item for item in history if item in items.tokens} if exclude_seen else set())
    lists = [one[:k] for one in likeliest(recommender, texts, k, beams, gone, batch_size, say)]
    return [
        [
            Recommended(rank, item, items.title(item), items.sid(item), math.exp(score))
            for rank, (item, score) in enumerate(one, start=1)
        ]
        for one in lists
    ]


def of_user(recommender: Recommender, user: str, task: str | None = None) -> Query:
    """The history of a user as it stands at their last row of the last split that has one, its target included.

    Asked in the words of `task`, by default the first that was learnt. Raises BadInput for a user of whom there is no
    row, and as `Recommender.check_task`.
    """
    items = recommender.catalogue
    of_them = [row for split in SPLITS for row in items.splits.get(split, ()) if row.user == user]
    if not of_them:
        some = list(dict.fromkeys(row.user for rows in items.splits.values() for row in rows))[:3]
        raise BadInput(
            f"There is no user {user!r} in {items.name!r}; users are like {', '.join(map(repr, some))}. Give a "
            "history instead: --items 12,55,7."
        )
    return Query(f"user {user}", (*of_them[-1].history, of_them[-1].target), recommender.asking(task))


def of_items(recommender: Recommender, items: Sequence[str], task: str | None = None) -> Query:
    """A history of item ids, oldest first, asked in the words of `task` (as `of_user`).

    Raises BadInput for none, and for one that is not there.
    """
    if not items:
        raise BadInput("A history has at least one item: --items 12,55,7.")
    known = recommender.catalogue.items
    for item in items:
        if item not in known:
            some = ", ".join(map(repr, list(known)[:3]))
            raise BadInput(
                f"There is no item {item!r} in {recommender.catalogue.name!r}; its {len(known):,} items are called "
                f"{some} and so on."
            )
    return Query(f"items {', '.join(items)}", tuple(items), recommender.asking(task))


def of_titles(recommender: Recommender, titles: Sequence[str]) -> Query:
    """A history of titles, oldest first, of the catalogue or not; raises BadInput where the model learnt none."""
    recommender.check_task(BY_TITLES)
    said = tuple(filter(None, map(one_line, titles)))
    if not said:
        raise BadInput('A history has at least one title: --titles "red cup | blue plate".')
    return Query(" | ".join(said), said, BY_TITLES, titles=True)


def likeliest(
    recommender: Recommender,
    prompts: Sequence[str],
    k: int,
    beams: int,
    exclude: Sequence[Collection[str]] | None,
    batch_size: int | None,
    say: Say,
) -> list[list[tuple[str, float]]]:
    """The items of the `k` likeliest IDs after each prompt with their log-probabilities: `k` items or more.

    Of items that share an ID, and so a probability, the most often chosen comes first.
    """
    found = recommend(
        recommender.base.model,
        recommender.base.tokenizer,
        prompts,
        recommender.trie,
        k=k,
        beams=beams,
        batch_size=batch_size,
        exclude=exclude,
        by_id=True,
        progress=_Tenths(say),
    )
    counts = recommender.counts
    return [sorted(one, key=lambda pair: (-pair[1], -counts.get(pair[0], 0))) for one in found]


class _Tenths:
    """Tells how far it is, not more often than each tenth of the way."""

    def __init__(self, say: Say):
        self.say, self.told = say, 0

    def __call__(self, done: int, whole: int) -> None:
        if done * 10 // whole > self.told or done == whole:
            self.told = done * 10 // whole
            self.say(f"recommending, {done:,} of {whole:,} cases")
