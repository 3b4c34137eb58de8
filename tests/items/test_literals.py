"""Literals: what Python writes is read back the same, and nothing but a list of texts or numbers is read at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.items.literals import LONGEST, listed, literal, read_texts, strings

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(TEXTS) | st.lists(st.integers(-(10**17), 10**17)))
def test_what_python_writes_is_read_as_python_reads_it(values: list[str] | list[int]) -> None:
    assert listed(repr(values)) == ast.literal_eval(repr(values)) == values


@given(TEXTS | st.text("[]'\"\\,nxuU0123456789abN{} \n-.ef()"))
def test_what_is_read_is_what_python_would_read_and_all_else_is_a_value_error(cell: str) -> None:
    try:
        found = listed(cell)
    except ValueError:
        return
    assert found == ast.literal_eval(cell.strip())


@pytest.mark.parametrize(
    "cell",
    [
        "__import__('os').system('touch {canary}')",
        "[__import__('os').system('touch {canary}')]",
        "[open('{canary}', 'w')]",
        "['a', open('{canary}', 'w').close()]",
        '[f\'{{open("{canary}", "w")}}\']',
        "[open('{canary}', 'w') for _ in range(1)]",
        "[x for x in [1]]",
        "['a' 'b']",
        "['a', name]",
        "[True]",
        "[None]",
        "[1.5]",
        "[0x10]",
        "[1_000]",
        "[1, 'a']",
        "[b'a']",
        "[['a']]",
        "[('a',)]",
        "('a',)",
        "{{'a'}}",
        "{{'a': 1}}",
        "'a'",
        "['a'",
        "['a",
        "['a']]",
        "[,]",
        "['a',,'b']",
        "['\\N{{BULLET}}']",
        "['\\ud800']",
        "['\\q']",
        "[99999999999999999999999]",
        "",
        "nan",
    ],
)
def test_code_and_all_that_is_no_list_is_refused_and_never_run(cell: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(ValueError, match="it "):
        listed(cell.format(canary=canary))
    assert not canary.exists()


@pytest.mark.parametrize("cell", ["[" * 100_000 + "]" * 100_000, "['" + "a" * LONGEST + "']", "['" + "\\'" * 100_000])
def test_what_is_huge_is_refused_at_once(cell: str) -> None:
    with pytest.raises(ValueError, match=r"characters|no list"):
        listed(cell)


def test_texts_are_texts() -> None:
    assert strings("['1', '2']") == ["1", "2"]
    assert strings(literal(("it's", 'a "b"', ""))) == ["it's", 'a "b"', ""]
    with pytest.raises(ValueError, match="numbers, where texts belong"):
        strings("[1]")


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("['a', \"it's\"]", ("a", "it's")),
        (["a", "b"], ("a", "b")),
        (" plain ", ("plain",)),
        ("['cut short, as th", ("['cut short, as th",)),
        ("[__import__('os')]", ("[__import__('os')]",)),
        ("", ()),
        (None, ()),
        (7, ()),
    ],
)
def test_texts_come_as_a_list_or_the_string_of_one_or_one_text(value: object, texts: tuple[str, ...]) -> None:
    assert read_texts(value) == texts
