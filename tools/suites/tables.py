"""Items from the tables beside this file, whose wrong answers are right ones of other lines under the same heading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from items import Item

TABLES = Path(__file__).parent / "tables"


def blocks(name: str) -> Iterator[tuple[str, list[str]]]:
    """Each heading of a table with its lines."""
    for block in (TABLES / f"{name}.txt").read_text("utf-8").strip().split("\n\n"):
        heading, *lines = block.splitlines()
        yield heading.removeprefix("# "), lines


def relations(random: Random, name: str, *, wrong: int = 3, end: str = "") -> Iterator[Item]:
    """`slot = answer` under a heading with a place for the slot.

    Every answer is right as often as it is wrong on the average, so neither its length nor its frequency tells.
    """
    for heading, lines in blocks(name):
        pairs = [line.split(" = ") for line in lines]
        answers = sorted({answer for _, answer in pairs})
        for slot, answer in pairs:
            others = [other for other in answers if other != answer]
            prompt = heading.format(slot)
            yield Item(prompt[0].upper() + prompt[1:] + end, answer, tuple(random.sample(others, wrong)))


def pairs(name: str) -> Iterator[Item]:
    """`good | bad` sentences, without a prompt."""
    for _, lines in blocks(name):
        for line in lines:
            good, bad = line.split(" | ")
            yield Item("", good, (bad,))


def senses(name: str) -> Iterator[Item]:
    """`word | field = meaning | …`: each meaning is right for its own field, and wrong for the others."""
    for line in (TABLES / f"{name}.txt").read_text("utf-8").splitlines():
        word, *rest = line.split(" | ")
        fields = dict(part.split(" = ") for part in rest)
        for field, meaning in fields.items():
            others = tuple(other for other in fields.values() if other != meaning)
            yield Item(f'{field}, what people call "{word}"', meaning, others)


UNSAID = "the text does not say"


def grounded(name: str) -> Iterator[Item]:
    """Questions on a text: `question = right | wrong`, or `question ? unsaid | unsaid` where it gives no answer."""
    for text, lines in blocks(name):
        for line in lines:
            answered = " = " in line
            question, _, given = line.partition(" = " if answered else "? ? ")
            first, second = given.split(" | ")
            right, wrong = (first, (second, UNSAID)) if answered else (UNSAID, (first, second))
            yield Item(f"{text}\nQuestion: {question.rstrip('?')}?\nAnswer:", right, wrong)
