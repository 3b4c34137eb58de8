"""New tokens: ids that only grow, an explicit boundary, and rows that start where they are asked to."""

from __future__ import annotations

import gzip
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import holdfast.llm
from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.base import load_base
from holdfast.vocabulary import Known, TokenExtender, embedding_of, extend, initialisers, is_tied, new_rows, read_index
from tests.models import VOCABULARY, WIDTH, build

TOKENS = [f"<{level}_{i}>" for level in "abc" for i in range(4)]


def of_kind(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of 60 tokens as one family has them: bytes (GPT-2, Qwen, Llama 3) or pieces (Llama, T5)."""
    letters = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz_<>0123456789"]
    known = {token: i for i, token in enumerate([*letters, "Ġ", "▁", *(f"x{i}" for i in range(15))])}
    if kind == "bytes":
        made = Tokenizer(models.BPE(known, [], unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        made = Tokenizer(models.Unigram([(token, -float(i)) for token, i in known.items()], unk_id=3))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "t5"])
def test_new_ids_follow_the_tokenizer_s_last_one(kind: str, arch: str) -> None:
    """The matrix has padding rows beyond the tokens: neither shrunk nor taken for old tokens."""
    model, tokenizer = build(arch), of_kind(kind)
    first = len(tokenizer)
    assert first < VOCABULARY
    made = extend(model, tokenizer, TOKENS)
    assert (made.boundary, made.last, made.added, made.present) == (first, first + 11, 12, ())
    assert tokenizer.convert_tokens_to_ids(TOKENS) == list(range(first, first + 12))
    assert len(model.get_input_embeddings().weight) == VOCABULARY
    assert tokenizer("<a_1><b_2><c_3>", add_special_tokens=False)["input_ids"] == [first + 1, first + 6, first + 11]
    text = tokenizer("ab <a_1><b_2> cd")["input_ids"]
    assert [i for i in text if i >= first] == [first + 1, first + 6]


def test_a_grown_index_keeps_every_id_and_row() -> None:
    model, tokenizer = build("llama"), of_kind("bytes")
    extend(model, tokenizer, ["<a_1>", "<b_9>"])
    with torch.no_grad():
        embedding_of(model).new_rows.fill_(5.0)
    made = extend(model, tokenizer, ["<a_0>", "<a_1>", "<b_1>", "<b_9>"])
    assert made.tokens == ("<a_1>", "<b_9>", "<a_0>", "<b_1>") and made.added == 2 and made.present == ()
    assert tokenizer.convert_tokens_to_ids(["<a_1>", "<b_9>"]) == [made.boundary, made.boundary + 1]
    (rows,) = new_rows(model).values()
    assert rows.shape == (4, WIDTH) and (rows[:2] == 5).all() and (rows[2:] != 5).any()
    again = extend(model, tokenizer, ["<b_9>", "<a_0>"])
    assert again.added == 0 and again.tokens == made.tokens


def test_tokens_that_are_there_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = build("llama"), of_kind("bytes")
    made = extend(model, tokenizer, ["a", "<a_1>", "x3"])
    assert made.present == ("a", "x3") and made.tokens == ("<a_1>",)
    assert "2 tokens are in the vocabulary already" in caplog.text


def test_only_known_tokens_change_nothing() -> None:
    model, tokenizer = build("llama"), of_kind("bytes")
    made = extend(model, tokenizer, ["a", "b"])
    assert made.added == 0 and not new_rows(model) and len(tokenizer) == made.boundary


@pytest.mark.parametrize("tied", [True, False])
def test_every_initialiser(tied: bool) -> None:
    base = load_base("tiny")
    texts = {token: ["a little girl", "the red ball"][i % 2 :] for i, token in enumerate(TOKENS)}
    vectors = {token: torch.randn(8, generator=torch.Generator().manual_seed(i)) for i, token in enumerate(TOKENS)}
    for name in initialisers.names():
        model, tokenizer = build("llama", tied=tied, seed=3), of_kind("bytes")
        extend(model, tokenizer, TOKENS, initialise=name, texts=texts, vectors=vectors, seed=1)
        assert len(new_rows(model)) == (1 if is_tied(model) else 2)
        assert all(torch.isfinite(rows).all() for rows in new_rows(model).values())
    del base


MATRIX = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1


def test_initialisers_by_their_formulas() -> None:
    known = Known(("<a_0>", "<a_1>", "<b_0>"), {"<a_0>": [[1, 2], [3]], "<a_1>": [[4]], "<b_0>": [[]]})
    center, scatter = MATRIX.mean(0), MATRIX.std(0)
    many = Known(tuple(f"<a_{i}>" for i in range(500)))
    torch.testing.assert_close(initialisers["mean"](MATRIX, known), center.expand(3, 6))
    drawn = (initialisers["normal"](MATRIX, many, spread=0.5, seed=7) - center) / (0.5 * scatter)
    assert drawn.mean().abs() < 0.1 and drawn.std() == pytest.approx(1.0, abs=0.1)
    texts = initialisers["text"](MATRIX, known, spread=0.0)
    torch.testing.assert_close(texts[0], ((MATRIX[1] + MATRIX[2]) / 2 + MATRIX[3]) / 2)
    torch.testing.assert_close(texts[1:], torch.stack([MATRIX[4], center]))


@pytest.mark.parametrize("wide", [4, 6, 11])
def test_a_codebook_keeps_who_is_near(wide: int) -> None:
    """A projection with orthogonal columns keeps all distances where the model is wide enough."""
    points = torch.randn(20, wide, generator=torch.Generator().manual_seed(1))
    known = Known(tuple(f"<a_{i}>" for i in range(20)), vectors={f"<a_{i}>": p for i, p in enumerate(points)})
    flat = torch.randn(400, 6, generator=torch.Generator().manual_seed(2))
    flat = (flat - flat.mean(0)) / flat.std(0)
    rows = initialisers["codebook"](flat, known, spread=0.7, seed=3)
    assert rows.std() == pytest.approx(0.7, rel=0.1) and rows.mean(0).abs().max() < 0.3
    if wide <= 6:
        ratios = torch.pdist(rows) / torch.pdist(points)
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), atol=1e-4, rtol=1e-3)
    assert torch.equal(rows, initialisers["codebook"](flat, known, spread=0.7, seed=3))


def test_a_later_extension_and_another_side_draw_other_rows() -> None:
    model, tokenizer = build("llama", tied=False), of_kind("bytes")
    extend(model, tokenizer, ["<a_1>", "<a_2>"])
    extend(model, tokenizer, ["<b_1>", "<b_2>"])
    first, second = (rows.detach() for rows in new_rows(model).values())
    assert not torch.equal(first[:2], first[2:]) and not torch.equal(first, second)
    twin = build("llama", tied=False)
    extend(twin, of_kind("bytes"), ["<a_1>", "<a_2>"])
    assert all(torch.equal(a[:2], b) for a, b in zip((first, second), new_rows(twin).values(), strict=True))


def test_a_grown_codebook_goes_on_in_the_same_place() -> None:
    """A new token beside an old one starts beside it, also where it is the only new one of its level."""
    vectors = {f"<a_{i}>": torch.randn(8, generator=torch.Generator().manual_seed(i)) for i in range(6)}
    model, tokenizer = build("llama"), of_kind("bytes")
    extend(model, tokenizer, list(vectors)[:5], initialise="codebook", vectors=dict(vectors))
    vectors["<a_9>"] = vectors["<a_0>"] + 1e-3
    extend(model, tokenizer, ["<a_9>"], initialise="codebook", vectors=vectors)
    (rows,) = new_rows(model).values()
    far = torch.cdist(rows[-1:], rows[:5])[0]
    assert far.argmin() == 0 and far[0] < 0.3 * far[1:].min()


def test_what_fails_leaves_the_tokenizer_as_it_was() -> None:
    model, tokenizer = build("llama"), of_kind("bytes")
    before = len(tokenizer)
    for odd in ("codebook", "norml"):
        with pytest.raises(BadInput):
            extend(model, tokenizer, TOKENS, initialise=odd)
    assert len(tokenizer) == before and extend(model, tokenizer, TOKENS).added == len(TOKENS)


def test_ids_with_gaps_are_refused() -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1, "b": 5}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    with pytest.raises(Unsupported, match="with gaps between"):
        extend(build("llama"), tokenizer, TOKENS)
    assert len(tokenizer) == 3


def test_no_global_random_state_moves() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    extend(build("llama"), of_kind("bytes"), TOKENS, initialise={"normal": {"spread": 1.0}}, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("tokens", "told"),
    [(["<a_1>", "<a_1>"], "given twice"), ([" "], "without blanks"), (["<a_1> "], "without blanks"), ([3], "a text")],
)
def test_bad_tokens(tokens: list[Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        extend(build("llama"), of_kind("bytes"), tokens)


def test_a_tokenizer_of_another_model() -> None:
    tokenizer = of_kind("bytes")
    tokenizer.add_tokens([f"<more_{i}>" for i in range(60)])
    with pytest.raises(BadInput, match="they do not fit each other"):
        extend(build("llama"), tokenizer, TOKENS)


def test_bad_initialisers() -> None:
    def asked(**given: Any) -> None:
        extend(build("llama"), of_kind("bytes"), TOKENS, **given)

    with pytest.raises(UnknownName, match="normal"):
        asked(initialise="norml")
    with pytest.raises(UnknownName, match="spread"):
        asked(initialise={"normal": {"spreed": 1.0}})
    with pytest.raises(BadInput, match="needs descriptions"):
        asked(initialise="text")
    with pytest.raises(BadInput, match="<a_0> has none"):
        asked(initialise="codebook")
    with pytest.raises(BadInput, match="several widths"):
        asked(initialise="codebook", vectors={token: torch.zeros(3 + (token == "<a_0>")) for token in TOKENS})


# The guide's class ---------------------------------------------------------------------------------------------------


INDEX = {"0": ["<a_2>", "<b_1>"], "1": ["<a_10>", "<b_1>"]}


def test_token_extender_by_the_guide(tmp_path: Path) -> None:
    (tmp_path / "Toys.index.json").write_text(json.dumps(INDEX))
    assert list(inspect.signature(TokenExtender).parameters) == ["data_path", "dataset", "index_file"]
    assert inspect.signature(TokenExtender).parameters["index_file"].default == ".index.json"
    assert holdfast.llm.TokenExtender is TokenExtender
    extender = TokenExtender(str(tmp_path), "Toys")
    assert extender.indices is None and extender.new_tokens is None
    assert extender.get_new_tokens() == ["<a_10>", "<a_2>", "<b_1>"] == extender.new_tokens
    assert extender.indices == INDEX


def test_an_index_of_several_data_sets_and_a_packed_one(tmp_path: Path) -> None:
    whole = tmp_path / "all.index.json"
    whole.write_text(json.dumps({"Toys": INDEX, "Tools": {"9": ["<a_1>"]}}))
    assert read_index(whole, "Tools") == {"9": ("<a_1>",)}
    with pytest.raises(UnknownName, match="Did you mean 'Toys'"):
        read_index(whole, "Toy")
    with pytest.raises(UnknownName, match="Known: Tools, Toys"):
        read_index(whole)
    with gzip.open(tmp_path / "Toys.index.json.gz", "wt") as stream:
        json.dump(INDEX, stream)
    assert len(read_index(tmp_path / "Toys.index.json.gz")) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be read as an index"),
        ("[1, 2]", "is no index of IDs but a list"),
        ("{}", "it names no item"),
        ('{"0": "<a_1>"}', "item '0' has '<a_1>'"),
        ('{"0": []}', "item '0'"),
        ('{"0": ["<a_1>", 3]}', "item '0' has"),
    ],
)
def test_a_bad_index(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "Toys.index.json").write_text(text)
    with pytest.raises(BadInput, match=told):
        TokenExtender(str(tmp_path), "Toys").get_new_tokens()


def test_a_missing_index_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "Toys.index.json").write_text(json.dumps(INDEX))
    with pytest.raises(BadInput, match=r"there are: Toys\.index\.json"):
        TokenExtender(str(tmp_path), "Tools").get_new_tokens()
