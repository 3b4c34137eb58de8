"""What a user likes, said in words by a rule: the brands, kinds and words that mark the items chosen before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from holdfast.data.splitting import words
from holdfast.items.catalogue import Catalogue, Interaction


class Preferences:
    """Preferences of users of one catalogue; MiniOneRec has a large language model write them, here a rule does.

    Brands and categories are named that come up most among the items chosen before, then the title words that mark
    them: count in the history times log(items / items whose title has the word) (tf-idf; Spärck Jones 1972,
    doi:10.1108/eb026526). Of equals the more recent comes first. Where the data bring a preference, it is taken.
    """

    def __init__(self, catalogue: Catalogue, *, names: int = 2, marks: int = 4):
        self.catalogue, self.names, self.marks = catalogue, names, marks
        self._spread = Counter(word for item in catalogue.items for word in self._words(item))

    def told(self, row: Interaction) -> str:
        """One line of words for one user, made from the history alone (never the target), or the data's own.

        >>> from holdfast.items.catalogue import Item
        >>> titles = {"1": "blue wool hat", "2": "blue silk scarf", "3": "tin cup"}
        >>> catalogue = Catalogue("shop", {k: Item(k, title, brand="Lily") for k, title in titles.items()})
        >>> Preferences(catalogue, marks=2).told(Interaction("ann", ("1", "2"), "3"))
        'Lily: silk, scarf'
        """
        if row.preference:
            return row.preference
        items = [self.catalogue.items[item] for item in reversed(row.history)]
        brands = _most((item.brand for item in items), self.names)
        kinds = _most((item.categories[-1] for item in items if item.categories), self.names)
        return ": ".join(", ".join(part) for part in (brands, kinds, self._marks(row.history)) if part)

    def _marks(self, history: Sequence[str]) -> list[str]:
        """The words that mark the titles of a history most."""
        counts = Counter(word for item in reversed(history) for word in self._words(item))
        weights = {word: n * math.log(len(self.catalogue.items) / self._spread[word]) for word, n in counts.items()}
        ranked = sorted((word for word in weights if weights[word] > 0), key=lambda word: -weights[word])
        return ranked[: self.marks]

    def _words(self, item: str) -> list[str]:
        """Each word of an item's title once; short ones and numbers say little of what somebody likes."""
        return list(dict.fromkeys(w for w in words(self.catalogue.items[item].title) if len(w) > 2 and w.isalpha()))


def _most(names: Iterable[str], count: int) -> list[str]:
    """The most frequent names that are not empty, of equals the first."""
    return [name for name, _ in Counter(name for name in names if name).most_common(count)]
