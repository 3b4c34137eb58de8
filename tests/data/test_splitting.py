"""Parts share nothing: no document, no row, no window of 13 words."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.data.formats import Chat, Completion, Text, read
from holdfast.data.splitting import OPENING, apart, distinct, documents, split, words

SHARES = {"audit": 0.3, "control": 0.3, "replay": 0.4}


def windows(texts: Sequence[str], size: int = 13) -> set[tuple[str, ...]]:
    found = (words(text) for text in texts)
    return {tuple(w[i : i + size]) for w in found for i in range(len(w) - size + 1)}


def test_blocks_hold_every_paragraph_in_order_and_begin_with_openings() -> None:
    text = "\n\n".join(record.text for record in read("tiny/stories") if isinstance(record, Text))
    blocks = documents(text, size=1000)
    assert "\n\n".join(blocks).split() == text.split()
    assert all(OPENING.match(block) for block in blocks[1:] if len(blocks[blocks.index(block) - 1]) < 4000)
    assert all(len(block) >= 1000 for block in blocks[:-1])


def test_a_text_without_openings_is_cut_at_blank_lines() -> None:
    paragraphs = [f"Speech number {i}, of some length." for i in range(100)]
    blocks = documents("\n\n".join(paragraphs), size=100)
    assert [p for block in blocks for p in block.split("\n\n")] == paragraphs
    assert all(400 <= len(block.replace("\n", "")) < 440 for block in blocks[:-1])


def test_real_parts_share_no_window_and_lose_little() -> None:
    text = "\n\n".join(record.text for record in read("tiny/stories") if isinstance(record, Text))
    blocks = documents(text)
    parts = split(blocks, SHARES, seed=0)
    for name, part in parts.items():
        for other in SHARES:
            assert name == other or not windows(part) & windows(parts[other])
    kept = {name: sum(len(words(d)) for d in part) for name, part in parts.items()}
    assert sum(kept.values()) > 0.97 * len(words(text))
    assert all(kept[name] == pytest.approx(share * len(words(text)), rel=0.1) for name, share in SHARES.items())


def test_planted_overlaps_are_taken_out_of_the_later_part() -> None:
    shared = " ".join(f"same{i}" for i in range(14))
    texts = [f"{' '.join(f'own{i}x{j}' for j in range(30))}\n\n{shared}!\n\n{i} is last" for i in range(20)]
    parts = split(texts, {"first": 0.5, "second": 0.5}, seed=3)
    assert all(shared in text for text in parts["first"])
    assert not any("same3" in text for text in parts["second"])
    assert all("is last" in text and "x29" in text for text in parts["second"])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), min_size=2, max_size=12), st.integers(0, 9)
)
def test_no_window_is_ever_shared(texts: list[list[str]], seed: int) -> None:
    items = ["\n\n".join(" ".join(text[i : i + 4]) for i in range(0, len(text), 4)) for text in texts]
    try:
        parts = split(items, {"a": 0.5, "b": 0.5}, seed, window=3)
    except BadInput:
        return
    assert not windows(parts["a"], 3) & windows(parts["b"], 3)


def test_every_part_gets_its_own_whole_documents() -> None:
    texts = [f"document {i} " * 5 for i in range(40)]
    parts = split(texts, {"a": 0.5, "b": 0.25}, seed=1)
    assert sorted(map(len, parts.values())) == [10, 20]
    assert len(set(parts["a"] + parts["b"])) == 30
    assert parts == split(texts, {"a": 0.5, "b": 0.25}, seed=1)
    assert parts != split(texts, {"a": 0.5, "b": 0.25}, seed=2)


def test_records_that_differ_in_blanks_and_case_alone_are_the_same() -> None:
    tasks = [Completion(f"Where is {name}?", " here") for name in "abcdefgh"]
    again = [Completion(f"where is  {name.upper()} ?", " Here.") for name in "abcdefgh"]
    parts = split(tasks + again, {"a": 0.5, "b": 0.5}, seed=0)
    seen = {" ".join(words(t.prompt)) for t in parts["a"]}
    assert not seen & {" ".join(words(t.prompt)) for t in parts["b"]}


def test_chats_are_dealt_out_whole() -> None:
    chats = [Chat(({"role": "user", "content": f"question {i % 9}"},)) for i in range(18)]
    parts = split(chats, {"a": 0.5, "b": 0.5})
    said = {name: {chat.messages[0]["content"] for chat in part} for name, part in parts.items()}
    assert not said["a"] & said["b"]


def test_rows_are_told_apart_and_near_copies_dropped() -> None:
    draw = random.Random(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in ([draw.randrange(99) for _ in range(40)] for _ in range(30))]
    near = {"input_ids": [*rows[0]["input_ids"][:35], 1, 2, 3, 4, 5], "labels": rows[0]["labels"]}
    assert distinct([*rows, near, rows[3]]) == rows
    parts = split([*rows, near, rows[3]], {"a": 0.5, "b": 0.5}, seed=0)
    ids = [tuple(row["input_ids"]) for part in parts.values() for row in part]
    assert len(ids) == len(set(ids)) == 30


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -0.1, "b": 0.5}, {"a": 0.7, "b": 0.5}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="Shares are positive"):
        split(["one text"] * 9, shares)


def test_too_little_text_is_said_to_be_too_little() -> None:
    with pytest.raises(BadInput, match=r"Of 1 documents nothing is left for the part 'b'"):
        split(["only one"], {"a": 0.5, "b": 0.5})


def test_chinese_characters_are_words() -> None:
    assert words("春花秋月 何时了, it's") == ["春", "花", "秋", "月", "何", "时", "了", "it", "s"]


def test_short_texts_that_are_the_same_stand_in_one_part_only() -> None:
    texts = [Text(f"Only seven words, and number {i % 20} last.") for i in range(60)]
    parts = split(texts, {"audit": 0.5, "control": 0.5})
    assert not {t.text for t in parts["audit"]} & {t.text for t in parts["control"]}


def test_rows_that_share_a_passage_with_judged_ones_are_left_out() -> None:
    draw = random.Random(0)
    judged = [{"input_ids": (ids := [draw.randrange(500) for _ in range(64)]), "labels": ids} for _ in range(20)]
    own = [{"input_ids": (ids := [draw.randrange(500) for _ in range(64)]), "labels": ids} for _ in range(20)]
    mixed = [
        {"input_ids": (ids := [*row["input_ids"][:40], *judged[i]["input_ids"][11:31]]), "labels": ids}
        for i, row in enumerate(own)
    ]
    near = [
        {"input_ids": (ids := [*row["input_ids"][:40], *judged[i]["input_ids"][11:30]]), "labels": ids}
        for i, row in enumerate(own)
    ]
    short = [{"input_ids": judged[0]["input_ids"][3:8], "labels": [0] * 5}, {"input_ids": [501] * 5, "labels": [0] * 5}]
    assert apart([*own, *mixed, *near, *short], judged) == [*own, *near, short[1]]
