"""What every family of items shares: an item, its record with the answer in a balanced place, and some word lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, NamedTuple

Record = dict[str, Any]


def words(text: str) -> list[str]:
    """The words of a line, which is easier to read than a list of them."""
    return text.split()


NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
GIRLS = words("Lily Lucy Mia Sarah Amy Anna Sue Ella Jane Kate")
BOYS = words("Tim Tom Ben Max Jack Sam Bob Finn Paul Leo")
PEOPLE = [name for pair in zip(GIRLS, BOYS, strict=True) for name in pair]


class Item(NamedTuple):
    """A prompt, the right answer, and the wrong ones."""

    prompt: str
    right: str
    wrong: tuple[str, ...]


def records(items: Iterable[Item], random: Random) -> Iterator[Record]:
    """Records in any order, without doubles, whose right answer stands in each place equally often."""
    unique = list({(item.prompt, item.right): item for item in items}.values())
    random.shuffle(unique)
    places = [i % (len(item.wrong) + 1) for i, item in enumerate(unique)]
    random.shuffle(places)
    for item, place in zip(unique, places, strict=True):
        choices = random.sample(item.wrong, len(item.wrong))
        choices.insert(place, item.right)
        yield {"prompt": item.prompt, "answer": item.right, "choices": choices}


def number(random: Random, right: int, wrong: int) -> tuple[str, tuple[str, ...]]:
    """A number in words and others near it, among which it is the smallest as often as any other rank."""
    low = max(0, min(right - random.randint(0, wrong), len(NUMBERS) - 1 - wrong))
    return NUMBERS[right], tuple(NUMBERS[n] for n in range(low, low + wrong + 1) if n != right)


def sentence(text: str) -> str:
    """With a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
