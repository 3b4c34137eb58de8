"""Tasks of several steps: filter, sort or add up, and then count or name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from items import NUMBERS, PEOPLE, Item, words

EACH = 40

COLOURS = words("red blue green")
GOODS = words("scarf kettle basket candle bucket carpet hammer pillow ribbon teapot violin wallet")
ANIMALS = words("goat mule hen pony lamb duck cow goose donkey pig")
HOMES = words("barn meadow")
TOWNS = words("Dale Holm Wick Ford")
RANKS = ["first", "second", "third"]


def price(random: Random) -> Item:
    """Keep a colour, sort by price, name the one at a rank."""
    goods, prices = random.sample(GOODS, 6), random.sample(range(3, 20), 6)
    colours, asked = _split(random, COLOURS, 6, 3)
    listed = ", ".join(f"a {c} {g} for {NUMBERS[p]} coins" for c, g, p in zip(colours, goods, prices, strict=True))
    kept = sorted((p, g) for c, g, p in zip(colours, goods, prices, strict=True) if c == asked)
    dear = random.random() < 0.5
    rank = random.randrange(3)
    order = "from the dearest to the cheapest" if dear else "from the cheapest to the dearest"
    named = [g for _, g in (reversed(kept) if dear else kept)]
    prompt = (
        f"The shop has {listed}. Take only the {asked} things and put them in order {order}. The {RANKS[rank]} is the"
    )
    return _named(random, prompt, named, rank, goods)


def alphabet(random: Random) -> Item:
    """Keep a town, sort by name, name the one at a rank."""
    people = random.sample(PEOPLE, 7)
    towns, asked = _split(random, TOWNS, 7, 3)
    listed = ", ".join(f"{name} in {town}" for name, town in zip(people, towns, strict=True))
    kept = sorted(name for name, town in zip(people, towns, strict=True) if town == asked)
    rank = random.randrange(3)
    prompt = (
        f"These people live here: {listed}. Write down everybody in {asked} in the order of the alphabet. "
        f"The {RANKS[rank]} name is"
    )
    return _named(random, prompt, kept, rank, people)


def count(random: Random) -> Item:
    """Keep a place and an age, and count: one, two, three or four of them, each as often."""
    animals, wanted = random.sample(ANIMALS, 8), random.randint(1, 4)
    kept = 0
    while kept != wanted:
        ages, homes = [random.randint(1, 9) for _ in animals], [random.choice(HOMES) for _ in animals]
        home, age, older = random.choice(HOMES), random.randint(3, 6), random.random() < 0.5
        kept = sum(h == home and (n > age if older else n < age) for n, h in zip(ages, homes, strict=True))
    listed = ", ".join(
        f"the {a} is {NUMBERS[n]} and lives in the {h}" for a, n, h in zip(animals, ages, homes, strict=True)
    )
    told = "older" if older else "younger"
    prompt = f"On the farm, {listed}. The number of animals in the {home} that are {told} than {NUMBERS[age]} is"
    return Item(prompt, NUMBERS[kept], tuple(NUMBERS[n] for n in range(1, 5) if n != kept))


def penalty(random: Random) -> Item:
    """Add what each was given, and name who comes in at a rank."""
    while True:
        people, times = random.sample(PEOPLE, 4), random.sample(range(5, 16), 4)
        extra = [random.choice([0, 2, 3, 4]) for _ in people]
        totals = [t + e for t, e in zip(times, extra, strict=True)]
        order = [name for _, name in sorted(zip(totals, people, strict=True))]
        # The sum has to matter: without it the order would be another, and with it no two may be level.
        if len(set(totals)) == 4 and order != [name for _, name in sorted(zip(times, people, strict=True))]:
            break
    listed = ". ".join(
        f"{name} ran for {NUMBERS[t]} minutes" + (f" and got {NUMBERS[e]} minutes on top for a mistake" if e else "")
        for name, t, e in zip(people, times, extra, strict=True)
    )
    rank = random.randrange(3)
    prompt = f"{listed}. After adding what they got on top, the shortest time wins. In place {NUMBERS[rank + 1]} is"
    return Item(prompt, order[rank], tuple(name for name in people if name != order[rank]))


def _split(random: Random, values: list[str], n: int, kept: int) -> tuple[list[str], str]:
    """`n` values of which one, which is told, occurs `kept` times."""
    asked, *others = random.sample(values, len(values))
    column = [asked] * kept + [random.choice(others) for _ in range(n - kept)]
    random.shuffle(column)
    return column, asked


def _named(random: Random, prompt: str, kept: list[str], rank: int, everything: list[str]) -> Item:
    """The right one, the others that were kept, and one that was not."""
    dropped = [name for name in everything if name not in kept]
    wrong = [name for i, name in enumerate(kept) if i != rank]
    return Item(prompt, kept[rank], (*wrong, random.choice(dropped)))


KINDS: tuple[Callable[[Random], Item], ...] = (price, alphabet, count, penalty)


def steps(random: Random) -> Iterator[Item]:
    """As many of each kind."""
    for kind in KINDS:
        for _ in range(EACH):
            yield kind(random)
