"""Constraints on an answer that a program can check, as in IFEval: so many words, this phrase, valid JSON."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from holdfast._errors import BadInput, UnknownName
from holdfast._registry import Registry

Constraint = Callable[..., bool]

constraints: Registry[Constraint] = Registry("constraint")
"""All constraints by name: (text, **knobs) -> bool. After Zhou et al. (2023), arXiv:2311.07911."""

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{HAN}]|(?:(?![{HAN}])\w)+(?:['’-](?:(?![{HAN}])\w)+)*")
_SHORTENED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e)\.")
_ENDED = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？…]+[”’」』）]*|\n+")
_BULLET = re.compile(r"^[ \t]*[-*•·][ \t]+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^[ \t]*\d+[.)、．][ \t]*\S", re.MULTILINE)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_QUOTES = ('""', "“”", "「」")


def holds(text: str, constraint: Mapping[str, Any]) -> bool:
    """Whether an answer keeps a constraint: `{"name": "max_words", "n": 20}`.

    An answer of blanks alone keeps none, also not `max_words`: it follows nothing. Raises UnknownName for a constraint
    or a knob that does not exist, BadInput for a knob that is missing or cannot be used.
    """
    knobs = dict(constraint)
    name = knobs.pop("name", None)
    if not isinstance(name, str):
        raise BadInput(f"A constraint needs a `name`, one of {', '.join(constraints.names())}; this has none: {knobs}.")
    function = constraints[name]
    parameters = dict(list(inspect.signature(function, eval_str=True).parameters.items())[1:])
    for key, value in knobs.items():
        if key not in parameters:
            raise UnknownName(f"knob of constraint {name!r} called", key, parameters)
        if not _fits(value, parameters[key].annotation):
            raise BadInput(f"The knob {key!r} of constraint {name!r} cannot be {value!r}.")
    if missing := [key for key, p in parameters.items() if p.default is p.empty and key not in knobs]:
        raise BadInput(f"The constraint {name!r} needs {', '.join(missing)}.")
    kept = function(text.strip(), **knobs)
    return bool(text.strip()) and kept


def words(text: str) -> list[str]:
    """The words of a text; Chinese is counted by characters, of which each is one."""
    return _WORD.findall(text)


@constraints.register("min_words")
def min_words(text: str, *, n: int) -> bool:
    """At least `n` words; in Chinese, characters without punctuation."""
    return len(words(text)) >= n


@constraints.register("max_words")
def max_words(text: str, *, n: int) -> bool:
    """At most `n` words; in Chinese, characters without punctuation."""
    return len(words(text)) <= n


@constraints.register("sentences")
def sentences(text: str, *, least: int = 1, most: int | None = None) -> bool:
    """So many sentences: what ends in a mark or a line, where `Dr.` and `3.5` end nothing."""
    parts = _ENDED.split(_SHORTENED.sub("", text))
    return _between(sum(bool(words(part)) for part in parts), least, most)


@constraints.register("lines")
def lines(text: str, *, least: int = 1, most: int | None = None) -> bool:
    """So many lines that are not empty."""
    return _between(sum(bool(line.strip()) for line in text.splitlines()), least, most)


@constraints.register("paragraphs")
def paragraphs(text: str, *, least: int = 1, most: int | None = None) -> bool:
    """So many parts with an empty line between each two."""
    return _between(sum(bool(part.strip()) for part in re.split(r"\n[ \t]*\n", text)), least, most)


@constraints.register("bullets")
def bullets(text: str, *, least: int = 1, most: int | None = None) -> bool:
    """So many lines that begin with `-`, `*` or `•` and a blank."""
    return _between(len(_BULLET.findall(text)), least, most)


@constraints.register("numbered")
def numbered(text: str, *, least: int = 1, most: int | None = None) -> bool:
    """So many lines that begin with a number, as in `1.`, `1)` or `1、`."""
    return _between(len(_NUMBERED.findall(text)), least, most)


@constraints.register("contains")
def contains(text: str, *, phrase: str) -> bool:
    """The phrase occurs, as whole words and in any case."""
    return _count(text, phrase) > 0


@constraints.register("excludes")
def excludes(text: str, *, phrase: str) -> bool:
    """The phrase does not occur as whole words, in any case."""
    return _count(text, phrase) == 0


@constraints.register("repeats")
def repeats(text: str, *, phrase: str, times: int) -> bool:
    """The phrase occurs exactly so many times, as whole words and in any case."""
    return _count(text, phrase) == times


@constraints.register("without_letter")
def without_letter(text: str, *, letter: str) -> bool:
    """The letter (or character) occurs nowhere, in any case."""
    return letter.casefold() not in text.casefold()


@constraints.register("starts_with")
def starts_with(text: str, *, phrase: str) -> bool:
    """The answer begins with the phrase, in any case."""
    return text.lstrip().casefold().startswith(phrase.casefold())


@constraints.register("ends_with")
def ends_with(text: str, *, phrase: str) -> bool:
    """The answer ends with the phrase, in any case; blanks after it do not count."""
    return text.rstrip().casefold().endswith(phrase.casefold())


@constraints.register("lowercase")
def lowercase(text: str) -> bool:
    """There are letters that have a case, and all are small."""
    return text.islower()


@constraints.register("uppercase")
def uppercase(text: str) -> bool:
    """There are letters that have a case, and all are capital."""
    return text.isupper()


@constraints.register("quoted")
def quoted(text: str) -> bool:
    """The whole answer stands in double quotation marks, straight or curved, or in corner brackets."""
    return len(text) > 2 and text[0] + text[-1] in _QUOTES


@constraints.register("no_commas")
def no_commas(text: str) -> bool:
    """Neither `,` nor the Chinese `，`; the mark between listed things, `、`, is none."""
    return not {",", "，"} & set(text)


@constraints.register("json")
def json_(text: str, *, key: str | None = None) -> bool:
    """The whole answer is JSON, bare or in one code fence; with `key`, an object that has it."""
    fenced = _FENCE.match(text.strip())
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return False
    return key is None or (isinstance(value, dict) and key in value)


@constraints.register("language")
def language(text: str, *, code: str, least: float = 0.7) -> bool:
    """At least this share of the letters is Han for `zh`, Latin for `en`."""
    scripts = {"zh": rf"[{HAN}]", "en": r"[A-Za-z]"}
    if code not in scripts:
        raise UnknownName("language with a script to count called", code, scripts)
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and len(re.findall(scripts[code], text)) >= least * len(letters)


def _between(count: int, least: int, most: int | None) -> bool:
    return least <= count and (most is None or count <= most)


def _count(text: str, phrase: str) -> int:
    """How often a phrase occurs; the edge of a word is asked for where it begins or ends with a Latin letter or digit.

    So `cat` is not in `concatenate`, but it is in `一只cat`.
    """
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", phrase) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]\Z", phrase) else ""
    return len(re.findall(before + re.escape(phrase) + after, text, re.IGNORECASE))


def _fits(value: object, annotation: object) -> bool:
    """Whether a knob has the type of its annotation; numbers are not negative, and texts not empty."""
    kinds = get_args(annotation) or (annotation,)
    if value is None:
        return type(None) in kinds
    if isinstance(value, str):
        return str in kinds and bool(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 0 and (float in kinds or (int in kinds and isinstance(value, int)))
