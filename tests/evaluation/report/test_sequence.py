"""The page about sequences: the matrix as it was written, references, and the mean over seeds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from holdfast._errors import BadInput
from holdfast.evaluation.matrix import Matrix, items, over_seeds
from holdfast.evaluation.report import is_sequence, read_sequences, render_sequences, write_sequence_report
from holdfast.evaluation.report.sequence import forgotten
from tests.evaluation.report.runs import SHAPES, certificate

TASKS = ("colours", "sizes <b>")


def write(folder: Path, seed: int) -> Path:
    """An invented sequence: answers drawn by chance, no measurement of anything."""
    random = np.random.default_rng(seed)
    shares = {(0, 0): 0.3, (0, 1): 0.4, (1, 0): 0.9, (1, 1): 0.5, (2, 0): 0.7, (2, 1): 0.8}
    cells = {at: items(torch.tensor(random.random(80) < share).double()) for at, share in shares.items()}
    rises = [{"mean": x, "low": x - 0.01, "high": x + 0.01, "upper": x + 0.008} for x in (0.0, 0.1, 0.3)]
    told = {
        "ended": True,
        "seed": seed,
        "metrics": dict.fromkeys(TASKS, "choice_accuracy"),
        "accuracy": Matrix(TASKS, cells).told(),
        "general": {"tiny/stories": rises},
        "references": {"joint": {"accuracy": {"tasks": {}, "mean": 0.8125}}},
        "runs": ["1-colours", "2-sizes"],
    }
    folder.mkdir(parents=True)
    (folder / "matrix.json").write_text(json.dumps(told), "utf-8")
    (folder / "certificate.json").write_text(json.dumps(certificate(SHAPES["plain"])), "utf-8")
    return folder


@pytest.fixture
def sequences(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"seed-{seed}", seed) for seed in range(3)]


def test_the_page_holds_the_matrix_its_figures_and_the_references(sequences: list[Path], tmp_path: Path) -> None:
    page = write_sequence_report(sequences[:1], tmp_path / "one.html").read_text("utf-8")
    (record,) = read_sequences(sequences[:1])
    for row in record.matrix["accuracy"]["cells"]:
        assert all(f"{entry['mean']:.4f}" in page for entry in row)
    assert all(f"{figure['mean']:.4f}".lstrip("-") in page for figure in record.matrix["accuracy"]["figures"].values())
    assert "0.8125" in page and "after colours" in page and "1-colours/report.html" in page
    assert "<b>" not in page.replace('<b class="', "").replace("sizes &lt;b&gt;", "")
    assert page.count("<svg") >= 2


def test_the_matrix_is_a_heat_map_of_what_was_forgotten(sequences: list[Path], tmp_path: Path) -> None:
    (record,) = read_sequences(sequences[:1])
    lost = forgotten(record.matrix["accuracy"])
    means = [[cell["mean"] for cell in row] for row in record.matrix["accuracy"]["cells"]]
    assert lost[:2] == [[0.0, 0.0], [0.0, 0.0]] and lost[2] == [pytest.approx(means[1][0] - means[2][0]), 0.0]
    page = write_sequence_report(sequences[:1], tmp_path / "one.html").read_text("utf-8")
    assert page.count('style="--depth:') == 1 and f"forgot {lost[2][0]:.4f}" in page


def test_what_is_not_measured_is_not_forgotten() -> None:
    cells = [[{"mean": 0.5}, None], [{"mean": 0.75}, {"mean": 0.5}], [None, {"mean": 1.0}], [{"mean": 0.25}, None]]
    matrix = {"tasks": ["a", "b"], "higher": True, "cells": cells}
    assert forgotten(matrix) == [[0, 0], [0, 0], [0, 0], [0.5, 0]]
    assert forgotten({**matrix, "higher": False}) == [[0, 0], [0.25, 0], [0, 0.5], [0, 0]]


def test_several_seeds_have_their_mean_with_students_interval(sequences: list[Path], tmp_path: Path) -> None:
    page = write_sequence_report(sequences, tmp_path / "all.html").read_text("utf-8")
    means = [record.figure("accuracy", "accuracy")["mean"] for record in read_sequences(sequences)]
    whole = over_seeds(means)
    assert "mean of 3" in page and f"{whole.mean:.4f}" in page and f"[{whole.low:.4f}, {whole.high:.4f}]" in page


@pytest.mark.slow
def test_the_same_sequences_give_the_same_page(sequences: list[Path], tmp_path: Path) -> None:
    one, two = (write_sequence_report(sequences, tmp_path / f"{name}.html").read_text("utf-8") for name in "ab")
    assert one == two


def test_the_terminal_has_a_column_per_sequence(sequences: list[Path]) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_sequences(sequences))
    told = console.export_text()
    assert all(name in told for name in ("seed-0", "seed-2", "backward transfer", "certificate"))


def test_a_folder_without_a_matrix_is_no_sequence(sequences: list[Path], tmp_path: Path) -> None:
    assert is_sequence(sequences[0]) and not is_sequence(tmp_path)
    with pytest.raises(BadInput, match="no sequence"):
        read_sequences([tmp_path])
