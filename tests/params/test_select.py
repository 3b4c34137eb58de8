"""Selections: what each form names, that text and value are two faces of one thing, and errors that show the way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config

from holdfast._errors import BadInput, UnknownName, UnmatchedSelect
from holdfast.params.inventory import COMPONENTS, Param, inventory
from holdfast.params.plan import from_config
from holdfast.params.select import Select, component, everything, layers, matched, parse, path
from tests.models import build

LLAMA, T5, LORA = (inventory(build(arch)) for arch in ("llama", "t5", "lora"))


def paths(select: Select, params: list[Param] = LLAMA) -> list[str]:
    return [param.path for param in params if select(param)]


bounds = st.one_of(
    st.integers(-12, 12),
    st.decimals(0, 100, places=1).map(lambda value: f"{value}%"),
    st.sampled_from(["0%", "50%", "100%", "33.3%"]),
)
globs = st.sampled_from(["*.q_proj.*", "lm_head.*", "*", "model.layers.[01].*", "*norm*"]) | st.text(max_size=8)
leaves = st.one_of(
    st.sampled_from([everything, *map(component, COMPONENTS)]),
    globs.map(path),
    st.builds(layers, bounds, st.none() | bounds),
)
selects = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda a: ~a),
        st.tuples(inner, inner).map(lambda ab: ab[0] & ab[1]),
        st.tuples(inner, inner).map(lambda ab: ab[0] | ab[1]),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(selects)
def test_the_text_of_a_selection_parses_back_to_it(select: Select) -> None:
    again = parse(str(select))
    assert again == select
    assert hash(again) == hash(select)
    for params in (LLAMA, T5, LORA):
        assert paths(again, params) == paths(select, params)


@settings(deadline=None)
@given(selects, selects)
def test_combinations_are_those_of_sets(a: Select, b: Select) -> None:
    every, in_a, in_b = set(paths(everything)), set(paths(a)), set(paths(b))
    assert set(paths(a & b)) == in_a & in_b
    assert set(paths(a | b)) == in_a | in_b
    assert set(paths(~a)) == every - in_a


def test_layers_in_python() -> None:
    assert layers("50%") == parse("layers(50%)") == layers(0, "50%")
    assert layers(-2) == layers(-2, None) == parse("layers(-2:)")
    assert layers(0, 6) == parse("layers(:6)")
    with pytest.raises(BadInput, match=r"'half' is no bound of layers"):
        layers("half")
    with pytest.raises(BadInput, match=r"'101%' is no bound"):
        layers(0, "101%")


def test_components_and_globs_in_text() -> None:
    assert paths(parse('"*.q_proj.*" & layers(1:2)')) == ["model.layers.1.self_attn.q_proj.weight"]
    assert paths(parse("'*.q_proj.*' & layers(1:2)")) == ["model.layers.1.self_attn.q_proj.weight"]
    assert len(paths(parse("adapter"), LORA)) == 3 * 3 * 2
    assert paths(parse("everything & ~adapter"), LORA) == [p.path for p in LORA if p.component != "adapter"]


def test_and_binds_before_or_and_not_before_both() -> None:
    a, b, c = component("embedding"), component("norm"), layers(0, 1)
    assert parse("embedding | norm & layers(0:1)") == a | (b & c) != (a | b) & c
    assert parse("~norm & layers(0:1)") == ~b & c != ~(b & c)
    assert parse(" ( embedding|norm )\n&\tlayers( 0 : 1 ) ") == (a | b) & c


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("", 1, "expected a component"),
        ("embedding |", 12, "expected a component"),
        ("embedding norm", 11, "expected & or |"),
        ("embedding & (norm | mlp", 24, r"expected \) here"),
        ("embedding)", 10, "expected & or |"),
        ("norm | atention", 8, "'atention' is no component .nearest is attention."),
        ("banana", 1, "there are embedding, attention, mlp, norm, head, adapter, other"),
        ("model.layers.*", 1, "written in quotes"),
        ("*.q_proj", 1, "expected a component"),
        ('"*.q_proj', 1, "expected a component"),
        ("layers", 7, r"expected \( here"),
        ("layers(3)", 9, "blocks are a range such as 0:6, 3:4 or -2:"),
        ("layers(0, 6)", 9, "blocks are a range"),
        ("layers()", 8, "blocks are a range"),
        ("layers(0:6", 11, r"expected \) here"),
        ("layers(120%)", 8, "a share from 0% to 100%"),
        ("layers(-5%:)", 8, "a share from 0% to 100%"),
        ("layers(1.5:)", 8, "a bound is a block number"),
        ("norm &\n& mlp", 8, "expected a component"),
    ],
)
def test_errors_point_at_the_column(text: str, column: int, why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        parse(text)
    heading, shown, pointer = str(caught.value).split("\n")
    assert f"at column {column}," in heading
    assert len(pointer) - 4 == column
    assert pointer.strip() == "^"
    assert shown[4:] == text.replace("\n", " ")


def test_an_unknown_component_in_python() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'attention'"):
        component("atention")


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ('"*.q_porj.*"', ['Did you mean "*.q_proj.*"? It matches 3', "model.layers.0.self_attn.q_proj.weight"]),
        ('"*.q_proj"', ['Did you mean "*.q_proj.*"?']),
        ('"q_proj.weight"', ['Did you mean "*q_proj.weight"?']),
        ('"down_proj"', ['Did you mean "*down_proj*"?']),
        ('"model.layer.0.*"', ['Did you mean "model.layers.0.*"?']),
        ('"xyzzy"', ["The nearest names are"]),
        ("layers(7:9)", ["matches none of the 29 parameters", "the blocks are 0 to 2"]),
        ("adapter", ["embedding (1), attention (12), mlp (9), norm (7), head (1)"]),
        ("embedding & layers(0:1)", ["the blocks are 0 to 2"]),
    ],
)
def test_a_selection_that_matches_nothing_names_the_nearest(text: str, hints: list[str]) -> None:
    with pytest.raises(UnmatchedSelect) as caught:
        matched(parse(text), LLAMA)
    assert text in str(caught.value)
    assert all(hint in str(caught.value) for hint in hints), str(caught.value)


@pytest.mark.parametrize("text", ['embedding | "*.q_porj.*"', '~"*.q_porj.*"', 'norm & (mlp | "*.q_porj.*")'])
def test_a_misspelt_pattern_does_not_hide_behind_what_matches(text: str) -> None:
    with pytest.raises(UnmatchedSelect, match=r'"\*.q_porj.\*" matches none'):
        matched(parse(text), LLAMA)


def test_each_side_of_an_or_has_to_match() -> None:
    with pytest.raises(UnmatchedSelect, match=r"layers\(7:9\) matches none"):
        matched(parse("embedding | layers(7:9)"), LLAMA)
    with pytest.raises(UnmatchedSelect, match=r"The selection adapter matches none"):
        matched(parse("adapter | embedding"), LLAMA)
    assert matched(parse("everything & ~adapter"), LLAMA) == LLAMA


@pytest.mark.parametrize("text", ["layers(0:9)", "norm | layers(1:4)", "~layers(4:)", "embedding | mlp & ~layers(2:7)"])
def test_a_bound_beyond_the_model_is_refused_with_the_number_of_blocks(text: str) -> None:
    with pytest.raises(UnmatchedSelect, match="which has 3 blocks"):
        matched(parse(text), LLAMA)


@pytest.mark.parametrize("text", ["layers(0:3)", "layers(-9:)", "layers(0%:100%)", "layers(0:)", "~layers(3:)"])
def test_bounds_at_the_end_and_from_the_top_and_shares_are_fine(text: str) -> None:
    assert matched(parse(text), LLAMA)


def test_a_bound_that_the_longer_stack_has_is_fine() -> None:
    size = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "vocab_size": 16}
    stacks = inventory(from_config(T5Config(num_layers=2, num_decoder_layers=4, architectures=None, **size)))
    assert {param.layer for param in matched(layers(0, 4), stacks)} == {0, 1, 2, 3}
    with pytest.raises(UnmatchedSelect, match="which has 4 blocks"):
        matched(layers(0, 5), stacks)


@pytest.mark.parametrize(
    ("text", "written"), [("*.q_proj.*", "*.q_proj.*"), ("norm | model.layers.*", "model.layers.*")]
)
def test_quotes_that_a_shell_took_away_are_shown_again(text: str, written: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert f"""'"{written}"'""" in str(caught.value)


def test_any_predicate_will_do() -> None:
    assert [p.path for p in matched(lambda p: p.numel == 16, LLAMA)] == paths(component("norm"))
    with pytest.raises(UnmatchedSelect):
        matched(lambda p: False, LLAMA)


def test_matched_keeps_the_order_of_the_model() -> None:
    assert [p.path for p in matched(parse("norm | embedding"), LLAMA)] == paths(
        component("embedding") | component("norm")
    )
