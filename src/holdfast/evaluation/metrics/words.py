"""Words of an answer, in languages with blanks and without: what overlap and coverage are counted in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby, pairwise

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
_PIECES = re.compile(rf"{HAN.pattern}|[^\W_]+(?:['’][^\W_]+)*")
_ARTICLES = {"a", "an", "the"}

# Words that carry no point of an answer: articles, pronouns, prepositions, auxiliaries, conjunctions.
_STOPPED = """
    a about after again all also am an and any are as at be because been before being both but by can could did do
    does doing down each few for from further had has have having he her here hers him his how i if in into is it its
    itself just may me might more most must my no nor not of off on once one only or other our out over own same shall
    she should so some such than that the their them then there these they this those through to too under until up
    us very was we were what when where which while who whom why will with would you your
"""
STOPWORDS = frozenset(_STOPPED.split())
_PARTICLES = frozenset("的了着过是在有和与或及也都就还又很这那其之于以为而但被把将会能可吗呢吧啊我你他她它们个一不")


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation; of Han text, which has no blanks, single characters.

    >>> words("The cat's hat: 3.5, 猫在这")
    ['the', "cat's", 'hat', '3', '5', '猫', '在', '这']
    """
    return _PIECES.findall(unicodedata.normalize("NFKC", text).lower())


def normalised(text: str) -> list[str]:
    """Words as SQuAD compares answers: without articles (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    return [word for word in words(text) if word not in _ARTICLES]


def points(text: str) -> set[str]:
    """What a text is about: its words that are no stop words, and of Han text the pairs of neighbouring characters.

    Pairs serve retrieval in Chinese as well as segmented words do and need no dictionary (Nie et al. 2000,
    doi:10.1145/355214.355235); pairs with a particle are left out. A single character stands for itself.

    >>> sorted(points("The cells of plants store energy, 植物的细胞"))
    ['cells', 'energy', 'plants', 'store', '植物', '细胞']
    """
    return set(_points(words(text)))


def _points(found: list[str]) -> Iterator[str]:
    for kind, group in groupby(found, key=_kind):
        run = list(group)
        if kind == "word":
            yield from (word for word in run if word not in STOPWORDS)
        elif kind == "han":
            yield from (run if len(run) == 1 else map("".join, pairwise(run)))


def _kind(word: str) -> str:
    if not HAN.match(word):
        return "word"
    return "particle" if word in _PARTICLES else "han"
