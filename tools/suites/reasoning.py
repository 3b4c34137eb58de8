"""Small inferences: who is tallest, what follows from all and none, sums in words, and if this then that."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from items import PEOPLE, Item, number, sentence, words

EACH = 50

SCALES = [
    ("taller", "shorter", "tallest", "shortest"), ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"), ("heavier", "lighter", "heaviest", "lightest"),
    ("stronger", "weaker", "strongest", "weakest"), ("richer", "poorer", "richest", "poorest"),
]  # fmt: skip

KINDS = words("zib lom tev dak wug fep gor nim pash rill sorn blick")

CAUSES = [
    ("the bell rings", "the bell does not ring"), ("it rains", "it does not rain"),
    ("the door opens", "the door does not open"), ("the sun shines", "the sun does not shine"),
    ("the fire burns", "the fire does not burn"), ("the clock stops", "the clock does not stop"),
    ("the wind blows", "the wind does not blow"), ("the train leaves", "the train does not leave"),
]  # fmt: skip

EFFECTS = [
    ("the dog barks", "the dog does not bark"), ("the cat sleeps", "the cat does not sleep"),
    ("the bird sings", "the bird does not sing"), ("the baby cries", "the baby does not cry"),
    ("the king laughs", "the king does not laugh"), ("the cook dances", "the cook does not dance"),
    ("the horse runs", "the horse does not run"), ("the frog jumps", "the frog does not jump"),
]  # fmt: skip


def comparison(random: Random) -> Item:
    """A chain of three or four, told in any order and from either end."""
    more, less, most, least = random.choice(SCALES)
    chain = random.sample(PEOPLE, random.choice([3, 4]))
    told = [
        f"{a} is {more} than {b}." if random.random() < 0.5 else f"{b} is {less} than {a}." for a, b in pairwise(chain)
    ]
    random.shuffle(told)
    asked, right = random.choice([(most, chain[0]), (least, chain[-1]), (f"second {most}", chain[1])])
    others = [name for name in chain if name != right]
    return Item(f"{' '.join(told)} The {asked} of them is", right, tuple(random.sample(others, 2)))


def syllogism(random: Random) -> Item:
    """From kinds with made-up names, so that nothing is known about them beforehand."""
    a, b, c, d, e = random.sample(KINDS, 5)
    name = random.choice(PEOPLE)
    shape = random.choice(["one step", "two steps", "either", "none"])
    if shape == "one step":
        told, right, wrong = [f"Every {a} is a {b}.", f"Every {c} is a {d}.", f"{name} is a {a}."], b, (c, d)
    elif shape == "two steps":
        told = [f"Every {a} is a {b}.", f"Every {b} is a {c}.", f"Every {d} is a {e}.", f"{name} is a {a}."]
        right, wrong = c, (d, e)
    elif shape == "either":
        told = [f"Every {a} is a {b} or a {c}.", f"No {d} is a {a}.", f"{name} is a {a}.", f"{name} is not a {b}."]
        right, wrong = c, (b, d)
    else:
        told = [f"No {a} is a {b}.", f"Every {c} is a {a}.", f"Every {d} is a {b}.", f"{name} is a {c}."]
        return Item(f"{_shuffled(random, told)} So {name} cannot be a", d, (a, c))
    return Item(f"{_shuffled(random, told)} So {name} must be a", right, wrong)


def arithmetic(random: Random) -> Item:
    """Sums, differences, products and two steps, no number above twenty."""
    name, other = random.sample(PEOPLE, 2)
    thing = random.choice(words("apples coins eggs stones books shells nuts pens"))
    a, b, c = random.randint(3, 9), random.randint(2, 6), random.randint(2, 4)
    stories = [
        (f"{name} had {{}} {thing} and found {{}} more. Now {name} has", (a, b), a + b),
        (f"{name} had {{}} {thing} and gave {{}} of them to {other}. Now {name} has", (a + b, b), a),
        (f"{name} has {{}} bags with {{}} {thing} in each. Together that makes", (c, b - 1), c * (b - 1)),
        (f"{name} had {{}} {thing}, lost {{}} and bought {{}}. Now {name} has", (a, 2, b), a - 2 + b),
        (f"{name} has {{}} {thing}. {other} has {{}} fewer. So {other} has", (a + b, b), a),
        (f"{name} shares {{}} {thing} equally between {{}} friends. Each friend gets", (c * (b - 1), c), b - 1),
    ]
    story, given, result = random.choice(stories)
    right, wrong = number(random, result, 2)
    return Item(story.format(*(number(random, n, 0)[0] for n in given)), right, wrong)


def condition(random: Random) -> Item:
    """Of three rules one applies: forwards from its cause, or backwards from what did not happen."""
    rules = list(zip(random.sample(CAUSES, 3), random.sample(EFFECTS, 3), strict=True))
    told = " ".join(sentence(f"if {cause}, {effect}") for (cause, _), (effect, _) in rules)
    one, *others = random.sample(rules, 3)
    if random.random() < 0.5:
        known, side = one[0][0], [effect for (_, (effect, _)) in (one, *others)]
    else:
        known, side = one[1][1], [no_cause for ((_, no_cause), _) in (one, *others)]
    return Item(f"{told} Now {known}. So we know that", side[0], tuple(side[1:]))


def _shuffled(random: Random, told: list[str]) -> str:
    return " ".join(random.sample(told, len(told)))


def reasoning(random: Random) -> Iterator[Item]:
    """As many of each kind, no two alike."""
    for kind in (comparison, syllogism, arithmetic, condition):
        found: dict[str, Item] = {}
        while len(found) < EACH:
            item = kind(random)
            found.setdefault(item.prompt, item)
        yield from found.values()
