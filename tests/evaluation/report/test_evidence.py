"""Samples side by side, and certificates in full with every figure they hold."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.evidence import certificates_section, samples_section
from tests.evaluation.report.pages import shown
from tests.evaluation.report.runs import SHAPES, certificate


def test_the_answers_to_a_prompt_stand_together(records: list[RunRecord]):
    text = shown(samples_section, records)
    assert text.count('class="sample"') == 3
    assert text.count(">base</span>") == 3
    assert (
        text.index("On the new text") < text.index("ROMEO:") < text.index("On the old text") < text.index("从前有一个")
    )
    for name in SHAPES:
        assert f"What light is this, that {name} doth\nbreak?" in text


def test_a_run_without_samples_is_named(records: list[RunRecord]):
    silent = replace(records[1], samples=(), missing={"samples.json": "There is no samples.json in its folder."})
    text = shown(samples_section, [records[0], silent])
    assert "remedies: There is no samples.json in its folder." in text
    assert "What light is this, that plain" in text
    assert "have written no samples" in shown(samples_section, [RunRecord("run", Path("run"))])


def test_samples_are_escaped(records: list[RunRecord]):
    evil = {"about": "old", "prompt": "<b>", "base": "<i>&", "tuned": "</p><script>alert(1)</script>"}
    text = shown(samples_section, [replace(records[0], samples=(evil,))])
    assert "<script" not in text
    assert html.escape(evil["tuned"]) in text


def test_a_certificate_is_shown_in_full(records: list[RunRecord]):
    text = shown(certificates_section, records[2:])
    found = certificate(SHAPES["governed"])
    for entry in (*found["kept"], *found["learnt"]):
        for key in ("text", "source"):
            assert html.escape(entry[key]) in text
        for key in ("n", "tokens"):
            assert f"{entry[key]:,}" in text
    for entry in found["kept"]:
        for key in ("rise", "low", "high", "upper"):
            assert f"+{entry[key]:.3f}" in text
        assert f"{entry['ratio']:.4f}" in text
        assert f"bound {entry['ratio_upper']:.4f}" in text
    assert f"{found['learnt'][0]['loss']:.4f}" in text
    told = (
        found["base"]["digest"],
        found["date"],
        "torch 2.13.0",
        "<dt>seed</dt><dd>0</dd>",
        "<dt>steps</dt><dd>300</dd>",
    )
    for said in told:
        assert said in text
    assert "output: runs/governed" in text


def test_an_undecided_text_says_how_many_sequences_it_needs(records: list[RunRecord]):
    shape = replace(SHAPES["governed"], verdict="undecided")
    assert "needs 1,234" in shown(certificates_section, [replace(records[2], certificate=certificate(shape))])


def test_a_certificate_with_holes_is_still_shown(records: list[RunRecord]):
    for found in ({}, {"kept": [{"text": "self"}], "learnt": [{}], "base": None, "versions": []}, {"kept": "x"}):
        text = shown(certificates_section, [replace(records[0], certificate=found, recipe=None)])
        assert "nan" not in text
        assert "This run has no recipe." in text
