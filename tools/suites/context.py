"""Long lists of notes with a question on an early, a middle or a late one; the wrong answers stand in other notes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from items import PEOPLE, Item, words

EACH = 40
NOTES = 18

ADJECTIVES = words("brass wooden silver broken striped round heavy tiny spotted folded dusty golden")
OBJECTS = words("key lamp clock mirror basket trumpet ladder blanket teapot camera helmet suitcase")
PLACES = words(
    "attic cellar garage kitchen hallway library greenhouse bathroom bakery chapel stable workshop tower harbour "
    "museum bedroom office cinema tunnel garden"
)
FOODS = words(
    "rice pasta soup bread cheese salad fish beans eggs pancakes noodles potatoes mushrooms tomatoes pears plums "
    "dumplings apples honey yogurt"
)
WORDS = words(
    "falcon river copper winter candle marble thunder velvet orange pepper island rocket summer button garlic anchor "
    "meadow violin pillow tiger"
)
JOBS = words(
    "baker pilot nurse judge farmer dentist plumber painter sailor tailor teacher miner singer lawyer potter gardener "
    "butcher banker florist driver"
)

KINDS = [
    (
        [
            "Somebody has put the {} in the {} again.",
            "You will find the {} in the {} today.",
            "Since Monday the {} has been in the {}.",
        ],
        "According to the notes, the {} is in the",
        PLACES,
    ),
    (
        [
            "At the party {} will only eat {}, please remember.",
            "The cook says that {} has asked for {}.",
            "For dinner {} would like a plate of {}.",
        ],
        "According to the notes, the food for {} is",
        FOODS,
    ),
    (
        [
            'The word that opens the {} box is "{}" this week.',
            'To open the {} box you have to say "{}".',
            'On the lid of the {} box stands the word "{}".',
        ],
        "According to the notes, the word for the {} box is",
        WORDS,
    ),
    (
        [
            "Last year {} began to work as a {} in town.",
            "They say that {} is the best {} around here.",
            "After school {} wants to become a {} like Grandfather.",
        ],
        "According to the notes, the job that goes with {} is",
        JOBS,
    ),
]


def context(random: Random) -> Iterator[Item]:
    """As many questions of each kind, and of each third of the list."""
    for kind, (frames, question, values) in enumerate(KINDS):
        for i in range(EACH):
            keys = _keys(random, kind)
            given = random.sample(values, NOTES)
            notes = [
                f"Note {n}. {random.choice(frames).format(key, value)}"
                for n, (key, value) in enumerate(zip(keys, given, strict=True), start=1)
            ]
            third = NOTES // 3
            asked = i % 3 * third + random.randrange(third)
            others = [value for value in given if value != given[asked]]
            prompt = f"{' '.join(notes)}\n{question.format(keys[asked])}"
            yield Item(prompt, given[asked], tuple(random.sample(others, 3)))


def _keys(random: Random, kind: int) -> list[str]:
    """What the notes are about: things, people or boxes, each once."""
    if kind in (1, 3):
        return random.sample(PEOPLE, NOTES)
    pairs = [f"{adjective} {thing}" for adjective in ADJECTIVES for thing in OBJECTS]
    return random.sample(pairs, NOTES)
