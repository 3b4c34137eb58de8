"""Lists as Python writes them, read by their grammar alone: nothing in a cell is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 2**18
"""Characters of the longest cell that is read; histories of ten long titles have about two thousand."""

_BLANK = re.compile(r"[ \t\r\n]*")
_INTEGER = re.compile(r"-?[0-9]{1,18}(?![0-9A-Za-z_.])")
_STRING = re.compile(r"""'([^'\\\r\n]*(?:\\.[^'\\\r\n]*)*)'|"([^"\\\r\n]*(?:\\.[^"\\\r\n]*)*)\"""")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_PLAIN = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}


def listed(cell: str) -> list[str] | list[int]:
    r"""The list of strings or of integers that a cell holds, as `repr` writes it.

    The grammar is `[`, items of one kind with commas between, `]`; strings know the escapes that `repr` writes. So a
    call, a name, an f-string, a comprehension, a nested list or a number with a point is no list: ValueError, with
    the place. So is a cell above `LONGEST` characters.

    >>> listed("['a', \"it's\"]"), listed("[3, 14]"), listed("[]")
    (['a', "it's"], [3, 14], [])
    >>> listed("[__import__('os').getcwd()]")
    Traceback (most recent call last):
    ValueError: it is no list of strings or of whole numbers: '__import__(' at character 2
    """
    if len(cell) > LONGEST:
        raise ValueError(f"it has {len(cell):,} characters; a list of at most {LONGEST:,} is read")
    at = _past(cell, 0)
    if cell[at : at + 1] != "[":
        raise _no_list(cell, at)
    found: list[str | int] = []
    at = _past(cell, at + 1)
    while cell[at : at + 1] != "]":
        value, at = _item(cell, at)
        found.append(value)
        at = _past(cell, at)
        if cell[at : at + 1] == ",":
            at = _past(cell, at + 1)
        elif cell[at : at + 1] != "]":
            raise _no_list(cell, at)
    if (end := _past(cell, at + 1)) != len(cell):
        raise _no_list(cell, end)
    return _of_one_kind(found)


def strings(cell: str) -> list[str]:
    """The list of strings that a cell holds; ValueError as `listed`, and for numbers."""
    found = listed(cell)
    if any(isinstance(value, int) for value in found):
        raise ValueError(f"it is a list of numbers, where texts belong: {cell[:40]!r}")
    return [str(value) for value in found]


def read_texts(value: object) -> tuple[str, ...]:
    """Texts given as a list, as the string of one, or as one text; empty for anything else.

    Descriptions of the original were cut to a length as strings of lists, which then lack their end: such a one is the
    text that it is.
    """
    if isinstance(value, list):
        return tuple(map(str, value))
    text = value.strip() if isinstance(value, str) else ""
    if not text.startswith("["):
        return (text,) if text else ()
    try:
        return tuple(strings(text))
    except ValueError:
        return (text,)


def literal(values: Sequence[str]) -> str:
    """The cell that `listed` reads: texts as they are."""
    return repr(list(values))


def _item(cell: str, at: int) -> tuple[str | int, int]:
    if number := _INTEGER.match(cell, at):
        return int(number.group()), number.end()
    if text := _STRING.match(cell, at):
        inner = text[1] if text[1] is not None else text[2]
        return (_ESCAPE.sub(_character, inner) if "\\" in inner else inner), text.end()
    raise _no_list(cell, at)


def _character(escape: re.Match[str]) -> str:
    short, middle, long, plain = escape.groups()
    if plain is not None and plain not in _PLAIN:
        raise ValueError(f"it has an escape that is not known here: {escape.group()!r}")
    if plain is not None:
        return _PLAIN[plain]
    code = int(short or middle or long, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise ValueError(f"it has an escape that stands for no character: {escape.group()!r}")
    return chr(code)


def _of_one_kind(found: list[str | int]) -> list[str] | list[int]:
    numbers = [value for value in found if isinstance(value, int)]
    if numbers and len(numbers) < len(found):
        raise ValueError("it mixes numbers and texts")
    return numbers or [value for value in found if isinstance(value, str)]


def _past(cell: str, at: int) -> int:
    """The next position that is not blank."""
    blank = _BLANK.match(cell, at)
    return blank.end() if blank else at


def _no_list(cell: str, at: int) -> ValueError:
    near = cell[at : at + 11]
    place = f"{near!r} at character {at + 1}" if near else "it ends too early"
    return ValueError(f"it is no list of strings or of whole numbers: {place}")
