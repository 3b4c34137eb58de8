"""Probes: parts of one text, real or self-made, that share nothing and say where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.base import Base, load_base
from holdfast.data.probes import Probe, probes
from holdfast.data.rows import digest
from holdfast.data.splitting import words

SHARES = {"audit": 1 / 3, "control": 1 / 3, "replay": 1 / 3}


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def test_parts_of_real_text_share_no_row_and_no_window(base: Base) -> None:
    parts = probes("tiny/stories", base, SHARES, length=128)
    texts = {
        name: [words(base.tokenizer.decode(row["input_ids"], skip_special_tokens=True)) for row in probe.rows]
        for name, probe in parts.items()
    }
    seen = {name: {tuple(t[i : i + 13]) for t in found for i in range(1, len(t) - 13)} for name, found in texts.items()}
    ids = {name: {tuple(row["input_ids"]) for row in probe.rows} for name, probe in parts.items()}
    for a, b in [("audit", "control"), ("audit", "replay"), ("control", "replay")]:
        assert not seen[a] & seen[b]
        assert not ids[a] & ids[b]
    assert all(len(probe.rows) > 200 for probe in parts.values())
    assert all(len(row["input_ids"]) <= 128 for probe in parts.values() for row in probe.rows)
    assert "part 'audit'" in parts["audit"].source
    assert "seed 0" in parts["audit"].source


def test_parts_of_self_made_text(base: Base) -> None:
    parts = probes("self", base, SHARES, n=30, length=20, seed=4, cache=False)
    rows = [tuple(row["input_ids"]) for probe in parts.values() for row in probe.rows]
    assert len(rows) == len(set(rows)) <= 30
    sizes = [len(probe.rows) for probe in parts.values()]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) > 20
    assert parts["audit"].source == "sampled from the base model tiny, seed 4, part 'audit'"
    again = probes("self", base, SHARES, n=30, length=20, seed=4, cache=False)
    assert {k: p.digest for k, p in parts.items()} == {k: p.digest for k, p in again.items()}


def test_task_files_are_probed_on_their_answers(base: Base, tmp_path: Path) -> None:
    lines = [
        f'{{"prompt": "What comes after {i}?", "answer": "{i + 1}", "choices": ["{i}", "{i + 1}"]}}' for i in range(40)
    ]
    (tmp_path / "sums.test.jsonl").write_text("\n".join(lines))
    parts = probes(str(tmp_path), base, {"audit": 0.5, "control": 0.5}, dataset_split="test")
    assert [len(probe.rows) for probe in parts.values()] == [20, 20]
    for row in parts["audit"].rows:
        asked, answer = base.tokenizer.decode(row["input_ids"]).split("?")
        taught = base.tokenizer.decode([t for t in row["labels"] if t != -100], skip_special_tokens=True)
        assert taught.strip() == answer.replace("</s>", "").replace("<s>", "").strip()
        assert int(asked.split()[-1]) + 1 == int(taught)


def test_an_empty_probe_is_refused() -> None:
    with pytest.raises(BadInput, match="The probe 'x' has no rows"):
        Probe("x", [], "nowhere")
    row = {"input_ids": [1, 2], "labels": [1, 2]}
    assert Probe("x", [row], "here").digest == digest([row])
