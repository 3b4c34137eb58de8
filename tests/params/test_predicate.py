"""Predicates: what each one names on real inventories, how they combine, and that they are values."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.params.inventory import Param, inventory
from holdfast.params.predicate import Both, Component, Either, Everything, Layers, Not, Path, Select
from holdfast.params.select import component, layers, parse, path
from tests.models import build

LLAMA, T5 = (inventory(build(arch)) for arch in ("llama", "t5"))


def paths(select: Select, params: list[Param] = LLAMA) -> list[str]:
    return [param.path for param in params if select(param)]


def blocks(select: Select, n_layers: int) -> list[int]:
    """The block numbers that a range names in a stack of `n_layers`."""
    param = next(p for p in LLAMA if p.layer == 0)
    stack = [Param(**{**vars(param), "layer": i, "n_layers": n_layers}) for i in range(n_layers)]
    return [p.layer for p in stack if p.layer is not None and select(p)]


@settings(deadline=None)
@given(st.integers(-12, 12), st.none() | st.integers(-12, 12), st.integers(1, 10))
def test_block_ranges_count_as_slices_do(start: int, stop: int | None, n_layers: int) -> None:
    assert blocks(layers(start, stop), n_layers) == list(range(n_layers))[start:stop]


@pytest.mark.parametrize(
    ("text", "n_layers", "expected"),
    [
        ("layers(50%)", 4, [0, 1]),
        ("layers(50%)", 5, [0, 1]),
        ("layers(30%)", 10, [0, 1, 2]),
        ("layers(29%)", 100, list(range(29))),
        ("layers(25%:75%)", 8, [2, 3, 4, 5]),
        ("layers(75%:)", 8, [6, 7]),
        ("layers(33.3%:)", 3, [0, 1, 2]),
        ("layers(0:6)", 8, [0, 1, 2, 3, 4, 5]),
        ("layers(-2:)", 8, [6, 7]),
        ("layers(:-2)", 4, [0, 1]),
        ("layers(50%:-1)", 6, [3, 4]),
        ("layers(:)", 3, [0, 1, 2]),
    ],
)
def test_ranges_of_blocks(text: str, n_layers: int, expected: list[int]) -> None:
    assert blocks(parse(text), n_layers) == expected


def test_shares_next_to_each_other_part_the_blocks() -> None:
    for n_layers, (a, b) in itertools.product(range(1, 12), [(0, 30), (30, 70), (70, 100)]):
        parts = [blocks(parse(f"layers({low}%:{high}%)"), n_layers) for low, high in [(0, a), (a, b), (b, 100)]]
        assert [*itertools.chain(*parts)] == list(range(n_layers))


def test_blocks_of_both_stacks() -> None:
    lowest = paths(layers(0, 1), T5)
    assert {name.split(".")[0] for name in lowest} == {"encoder", "decoder"}
    assert set(paths(layers(0, 1) & path("decoder.*"), T5)) == {n for n in lowest if n.startswith("decoder.")}


def test_a_tied_embedding_is_the_head_as_well() -> None:
    assert paths(component("head")) == paths(component("embedding")) == ["model.embed_tokens.weight"]
    assert paths(path("lm_head.weight")) == ["model.embed_tokens.weight"]
    untied = inventory(build("llama", tied=False))
    assert paths(component("head"), untied) == ["lm_head.weight"]


def test_globs_match_whole_names_and_tell_capitals_apart() -> None:
    assert paths(Path("model.norm.weight")) == ["model.norm.weight"]
    assert paths(Path("model.norm")) == paths(Path("MODEL.norm.weight")) == []
    assert len(paths(Path("model.layers.[02].*.?_proj.*"))) == 2 * 4
    assert len(paths(Path("model.layers.0*proj*"))) == 7


def test_combining_makes_values() -> None:
    a, b = Component("norm"), Path("*.bias")
    assert (a & b, a | b, ~a) == (Both(a, b), Either(a, b), Not(a))
    assert len({a & b, Both(a, b), b & a}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.name = "head"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("select", "text"),
    [
        (Everything(), "everything"),
        (~(Component("norm") | Component("head")), "~(norm | head)"),
        (~Component("norm") | Component("head"), "~norm | head"),
        ((Component("mlp") | Component("norm")) & Layers(0, 2), "(mlp | norm) & layers(0:2)"),
        (Component("mlp") | Component("norm") & Layers(0, None), "mlp | norm & layers(0:)"),
        (Component("mlp") & (Component("norm") & Component("head")), "mlp & (norm & head)"),
        (Path('a"b\\c'), '"a\\"b\\\\c"'),
        (layers("12.5%"), "layers(12.5%)"),
        (layers("25%", "75%"), "layers(25%:75%)"),
    ],
)
def test_text_needs_no_more_parentheses_than_it_must(select: Select, text: str) -> None:
    assert str(select) == text
