"""A small catalogue made up by rule: things of a few kinds, and users whose next choice follows from the last."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from operator import itemgetter

from holdfast._errors import BadInput
from holdfast.items.catalogue import SPLITS, Catalogue, Interaction, Item

GOES_WITH = {
    "hat": "scarf",
    "scarf": "coat",
    "coat": "hat",
    "cup": "plate",
    "plate": "spoon",
    "spoon": "cup",
    "book": "pen",
    "pen": "lamp",
    "lamp": "book",
    "ball": "boat",
    "boat": "kite",
    "kite": "ball",
}
"""Each kind of thing and the kind that is bought with it: of three that belong together, the next."""

GROUPS = ("to wear", "for the table", "for the desk", "to play with")
"""What each three kinds are."""

SIZES = ("tiny", "small", "big", "huge")
BRANDS = ("Lily", "Tom", "Bright Star", "Old Mill", "Blue Door", "Happy Fox")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "pink", "brown")
SERIES = 7
"""Pairs of brand and colour in which each kind comes, in each size."""

NEXT_SIZE, WITH_IT, OTHER_COLOUR = 0.4, 0.3, 0.1
"""Chances of how the next choice follows from the last; what is left of 1 is a choice by taste alone."""

HISTORY = 10
"""Items of a history at most, as in the published data."""

TRAINING, VALIDATION = 0.8, 0.9
"""When, of the time in which it all happens, training and validation end."""

COLD = 20
"""One item in so many is sold only after training has ended."""


def made_up(*, users: int = 600, seed: int = 0, identifiers: bool = True) -> Catalogue:
    """A catalogue of 336 items and the choices of `users` users, the same for the same seed; nothing in it is real.

    Each kind of thing in `GOES_WITH` comes in seven series (brand and colour) of four sizes. After an item a user takes
    with chance 0.4 the next size of its series, 0.3 what goes with it in the same series and size, 0.1 the same in
    another series, else anything: popular things before others (Zipf's law), and those of the favourite kind. So what
    followed an item says far more than what is popular, and titles say it too. Rows are split by time, 8:1:1, across
    all users; one item in twenty is sold only after training has ended.

    With `identifiers` each item has the tokens of its kind, series and size, `<a_1><b_2><c_3>`: unique, and as close to
    the meaning as can be. Raises BadInput for fewer than 20 users.
    """
    if users < 20:
        raise BadInput(f"There are at least 20 users, so that every split gets rows, not {users}.")
    shop = Shop(seed)
    events = sorted((pair for user in range(users) for pair in shop.chosen(f"u{user}")), key=itemgetter(0))
    ends = (0.0, TRAINING, VALIDATION, 1.0)
    splits = {
        split: tuple(row for when, row in events if ends[i] <= when < ends[i + 1]) for i, split in enumerate(SPLITS)
    }
    tokens = {
        item: (f"<a_{kind}>", f"<b_{series}>", f"<c_{size}>") for item, (kind, series, size) in shop.places.items()
    }
    return Catalogue(
        "made-up", shop.items(), tokens if identifiers else {}, splits, f"made up by rule (seed {seed}, {users} users)"
    )


class Shop:
    """The items of a made-up catalogue and the rules by which users choose."""

    def __init__(self, seed: int):
        self.seed = seed
        chance = random.Random(seed)
        self.kinds = list(GOES_WITH)
        self.series = chance.sample(list(product(BRANDS, COLOURS)), SERIES)
        places = product(range(len(self.kinds)), range(SERIES), range(len(SIZES)))
        self.places = {str(number): place for number, place in enumerate(places)}
        self.numbers = {place: item for item, place in self.places.items()}
        order = chance.sample(list(self.places), len(self.places))
        self.popular = {item: 1 / rank for rank, item in enumerate(order, start=1)}
        self.cold = set(chance.sample(list(self.places), len(self.places) // COLD))

    def items(self) -> dict[str, Item]:
        """All items in words."""
        return {item: self._item(item) for item in self.places}

    def chosen(self, user: str) -> Iterator[tuple[float, Interaction]]:
        """What a user chose, with the time, from 0 to below 1."""
        chance = random.Random(f"{self.seed} {user}")
        favourite = chance.randrange(len(self.kinds))
        when, had = chance.uniform(-0.1, 1), [self._by_taste(favourite, 0, chance)]
        for _ in range(chance.randint(4, 14)):
            when += chance.expovariate(50)
            item = self._next(had[-1], favourite, when, chance)
            if 0 <= when < 1:
                yield when, Interaction(user, tuple(had[-HISTORY:]), item)
            had.append(item)

    def _next(self, last: str, favourite: int, when: float, chance: random.Random) -> str:
        kind, series, size = self.places[last]
        drawn = chance.random()
        if drawn < NEXT_SIZE and size + 1 < len(SIZES):
            place = kind, series, size + 1
        elif drawn < NEXT_SIZE + WITH_IT:
            place = self.kinds.index(GOES_WITH[self.kinds[kind]]), series, size
        elif drawn < NEXT_SIZE + WITH_IT + OTHER_COLOUR:
            place = kind, chance.randrange(SERIES), size
        else:
            return self._by_taste(favourite, when, chance)
        item = self.numbers[place]
        return item if self._sold(item, when) else self._by_taste(favourite, when, chance)

    def _by_taste(self, favourite: int, when: float, chance: random.Random) -> str:
        sold = [item for item in self.places if self._sold(item, when)]
        weights = [self.popular[item] * (10 if self.places[item][0] == favourite else 1) for item in sold]
        return chance.choices(sold, weights)[0]

    def _sold(self, item: str, when: float) -> bool:
        return item not in self.cold or when >= TRAINING

    def _item(self, item: str) -> Item:
        kind, series, size = self.places[item]
        (brand, colour), name = self.series[series], self.kinds[kind]
        description = (
            f"A {SIZES[size]} {colour} {name} made by {brand}.",
            f"It goes well with a {GOES_WITH[name]}.",
        )
        group = GROUPS[kind // 3]
        return Item(item, f"{brand} {SIZES[size]} {colour} {name}", description, brand, (group, name))
