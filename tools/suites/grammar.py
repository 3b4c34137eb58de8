"""Minimal pairs of English grammar in the words of children's stories: a right sentence, and one with a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from items import BOYS, GIRLS, PEOPLE, Item, sentence, words

EACH = 16
"""Pairs of each phenomenon."""

BEINGS = words("dog cat bird bear rabbit frog girl boy duck farmer")
THINGS = words("ball box toy cake hat boat book flower kite car")
MOODS = words("happy sad tired hungry scared proud angry sick")
LOOKS = words("big small red old little blue pretty green")
WHERE = [
    "in the park",
    "near the pond",
    "in the garden",
    "under the tree",
    "by the house",
    "in the forest",
    "on the hill",
]
ACTS = words("play run sing jump swim walk dance sleep")
PAST = {
    "went": ("go", "goed", "to the park"),
    "ran": ("run", "runned", "to the house"),
    "saw": ("see", "seed", "a big bird"),
    "ate": ("eat", "eated", "the cake"),
    "came": ("come", "comed", "to the garden"),
    "gave": ("give", "gived", "the toy to a friend"),
    "took": ("take", "taked", "the red ball"),
    "sat": ("sit", "sitted", "under the tree"),
    "flew": ("fly", "flied", "over the hill"),
    "swam": ("swim", "swimmed", "in the pond"),
    "found": ("find", "finded", "a nice toy"),
    "slept": ("sleep", "sleeped", "in a warm bed"),
    "fell": ("fall", "falled", "into the water"),
    "sang": ("sing", "singed", "a happy song"),
}

Pair = tuple[str, str]
Phenomenon = Callable[[Random], Pair]


def swap(frame: str, good: str, bad: str) -> Pair:
    """The sentence of a frame with the one and with the other in its gap `_`."""
    return sentence(frame.replace("_", good)), sentence(frame.replace("_", bad))


def either(random: Random, frame: str, one: str, other: str) -> Pair:
    """The singular or the plural of a frame `singular/plural`, with the verb that agrees and the one that does not."""
    plural = random.random() < 0.5
    return swap(frame.split("/")[plural], *((other, one) if plural else (one, other)))


def agreement(random: Random) -> Pair:
    look, being, mood = random.choice(LOOKS), random.choice(BEINGS), random.choice(MOODS)
    rest = f"_ very {mood} {random.choice(WHERE)}"
    return either(random, f"the {look} {being} {rest}/the {look} {being}s {rest}", "was", "were")


def across(random: Random) -> Pair:
    being, thing, rest = random.choice(BEINGS), random.choice(THINGS), f"_ {random.choice(MOODS)} that day"
    return either(random, f"the {being} with the {thing}s {rest}/the {being}s with the {thing} {rest}", "was", "were")


def present(random: Random) -> Pair:
    being, act, where = random.choice(BEINGS), random.choice(ACTS), random.choice(WHERE)
    return either(random, f"every day the {being} _ {where}/every day the {being}s _ {where}", act + "s", act)


def there(random: Random) -> Pair:
    being, where, look = random.choice(BEINGS), random.choice(WHERE), random.choice(LOOKS[:2])
    return either(random, f"there _ a {look} {being} {where}/there _ two {look} {being}s {where}", "was", "were")


def determiner(random: Random) -> Pair:
    few, many = random.choice([("this", "these"), ("that", "those"), ("one", "many"), ("one", "two")])
    being = random.choice(BEINGS)
    frame = f"{random.choice(PEOPLE)} saw {{}} _ {random.choice(WHERE)}"
    return either(random, f"{frame.format(few)}/{frame.format(many)}", being, being + "s")


def article(random: Random) -> Pair:
    name, where = random.choice(PEOPLE), random.choice(WHERE)
    vowels = ["apple", "egg", "owl", "old hat", "orange ball", "animal", "umbrella", "ugly toy"]
    if random.random() < 0.5:
        return swap(f"{name} found _ {random.choice(vowels)} {where}", "an", "a")
    return swap(f"{name} found _ {random.choice(LOOKS[:3])} {random.choice(THINGS)} {where}", "a", "an")


def reflexive(random: Random) -> Pair:
    girl, frame = random.random() < 0.5, random.choice(REFLEXIVE)
    name = random.choice([*GIRLS, "the little girl"] if girl else [*BOYS, "the little boy"])
    return swap(f"{name} {frame}", *(("herself", "himself") if girl else ("himself", "herself")))


REFLEXIVE = ["saw _ in the water", "was very proud of _", "made a big cake for _", "fell down and hurt _",
             "looked at _ and smiled", "washed _ in the pond"]  # fmt: skip


def reflexive_number(random: Random) -> Pair:
    being, frame = random.choice(BEINGS[:6]), random.choice(REFLEXIVE)
    return either(random, f"the {being} {frame}/the {being}s {frame}", "itself", "themselves")


def polarity(random: Random) -> Pair:
    being, thing, where = random.choice(BEINGS), random.choice(THINGS), random.choice(WHERE)
    good, bad = random.choice([("never", "always"), ("nobody", "somebody"), ("no", "this"), ("not one", "the old")])
    if good == "never":
        return swap(f"the {being} _ had any {thing}s {where}", good, bad)
    if good == "nobody":
        return swap(f"_ {where} had ever seen a {being}", good, bad)
    return swap(f"_ {being} {where} had ever seen a {thing}", good, bad)


def irregular(random: Random) -> Pair:
    good = random.choice(list(PAST))
    _, bad, more = PAST[good]
    return swap(f"one day {random.choice(PEOPLE)} _ {more}", good, bad)


def infinitive(random: Random) -> Pair:
    bad = random.choice(list(PAST))
    good, _, more = PAST[bad]
    helper = random.choice(["wanted to", "could not", "did not", "had to", "tried to"])
    return swap(f"{random.choice(PEOPLE)} {helper} _ {more}", good, bad)


def case(random: Random) -> Pair:
    thing, name = random.choice(THINGS), random.choice(PEOPLE)
    good, bad = random.choice([("she", "her"), ("he", "him"), ("they", "them"), ("we", "us")])
    if random.random() < 0.5:
        return swap(f"one day _ wanted to give {name} a {thing}", good, bad)
    return swap(f"one day {name} wanted to give _ a {thing}", bad, good)


def adjective(random: Random) -> Pair:
    look, thing = random.choice(LOOKS), random.choice(THINGS)
    frame = f"{random.choice(PEOPLE)} played with the _ {random.choice(WHERE)}"
    return swap(frame, f"{look} {thing}", f"{thing} {look}")


def question(random: Random) -> Pair:
    being, ask, act = random.choice(BEINGS), random.choice(["why", "where", "when", "how"]), random.choice(ACTS)
    good, bad = swap(f"{ask} _ {act}", f"did the {being}", f"the {being} did")
    return good[:-1] + "?", bad[:-1] + "?"


def negation(random: Random) -> Pair:
    helper, act = random.choice(["did", "could", "would", "should"]), random.choice(ACTS)
    frame = f"the {random.choice(BEINGS)} _ {act} {random.choice(WHERE)}"
    return swap(frame, f"{helper} not", f"not {helper}")


def comparison(random: Random) -> Pair:
    one, other = random.sample(BEINGS, 2)
    look = random.choice(["big", "small", "fast", "old", "kind", "loud"])
    more = {"big": "bigger"}.get(look, look + "er")
    if random.random() < 0.5:
        return swap(f"the {one} was _ than the {other}", more, look)
    return swap(f"the {one} was as _ as the {other}", look, more)


def preposition(random: Random) -> Pair:
    where, act = random.choice(WHERE), random.choice(ACTS)
    first, second, third = where.split()
    return swap(f"{random.choice(PEOPLE)} liked to {act} _", where, f"{second} {first} {third}")


PHENOMENA: tuple[Phenomenon, ...] = (
    agreement, across, present, there, determiner, article, reflexive, reflexive_number, polarity, irregular,
    infinitive, case, adjective, question, negation, comparison, preposition,
)  # fmt: skip


def grammar(random: Random) -> Iterator[Item]:
    """As many pairs of each phenomenon, no two alike."""
    for phenomenon in PHENOMENA:
        found: set[Pair] = set()
        while len(found) < EACH:
            pair = phenomenon(random)
            if pair not in found:
                found.add(pair)
                yield Item("", pair[0], (pair[1],))
