"""The dial on finished runs: what it chooses, what it writes, and that others find the same figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.dial import dial, render_dialled
from holdfast.dial.measuring import bisected
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.report import read_run
from holdfast.recipe import load
from holdfast.recipe.texts import Texts

BUDGET = 0.8


def told(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "dial.json").read_text("utf-8"))
    return read


def test_the_chosen_model_is_inside_the_budget_and_certified_on_audit_text(whole: Path, tmp_path: Path) -> None:
    found = dial(whole, budget=BUDGET, points=2, output=tmp_path / "dial")
    assert found.chosen is not None and found.certificate is not None and found.verdict == "holds"
    assert 0 < found.chosen.setting <= 1
    left = {path.name for path in found.folder.iterdir()}
    assert left == {"dial.json", "frontier.png", "final", "certificate.json", "recipe.yaml"}
    base, tuned = load_base("tiny"), load_base(found.folder / "final")
    texts = Texts(load(whole / "recipe.yaml"), base)
    for entry in found.certificate["kept"]:
        rows = texts.guarded[entry["text"]].audit.rows
        rise = sequence_losses(tuned.model, rows).mean() - sequence_losses(base.model, rows).mean()
        assert entry["rise"] == pytest.approx(rise, abs=1e-6) and entry["budget"] == BUDGET
        assert entry["upper"] <= math.log1p(BUDGET)
    assert read_run(found.folder).verdict == "holds"
    assert "chosen" in str(render_dialled(found).title)


def test_the_frontier_begins_at_the_base_and_ends_at_the_runs_own_certificate(whole: Path, tmp_path: Path) -> None:
    found = dial(whole, budget=BUDGET, points=2, output=tmp_path / "dial")
    start, _, end = found.frontiers["together"]
    assert start.gain.mean == 0 and start.worst.mean == 0
    own = json.loads((whole / "certificate.json").read_text("utf-8"))
    assert end.gain.mean == pytest.approx(own["learnt"][0]["gain"], abs=1e-6)
    assert end.rises[own["kept"][0]["text"]].mean == pytest.approx(own["kept"][0]["rise"], abs=1e-6)
    assert told(found.folder)["frontiers"]["together"][2]["gain"]["mean"] == pytest.approx(end.gain.mean)


def test_without_a_budget_there_is_a_frontier_and_no_model(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "final").symlink_to(whole / "final")
    text = (whole / "recipe.yaml").read_text("utf-8")
    (copy / "recipe.yaml").write_text(text.replace("budget: 0.9", "budget: null"), "utf-8")
    found = dial(copy, points=1)
    assert found.chosen is None and found.certificate is None and found.folder == copy / "dial"
    assert {path.name for path in found.folder.iterdir()} == {"dial.json", "frontier.png"}


@pytest.mark.slow
def test_an_adapter_is_left_with_its_products_scaled(adapter: Path, tmp_path: Path) -> None:
    found = dial(adapter, budget=BUDGET, points=1, layers=True, output=tmp_path / "dial")
    assert found.chosen is not None and found.fractions is not None and found.verdict == "holds"
    assert set(found.frontiers) == {"together", "in turn"}
    before, after = (dict(load_adapted(place / "final").model.named_parameters()) for place in (adapter, found.folder))
    for name, value in before.items():
        if "lora_A" in name:
            assert torch.equal(after[name], value)
        if "lora_B" in name:
            block = next(b for b in found.fractions if f".{b}." in name)
            torch.testing.assert_close(after[name], found.fractions[block] * value)
    base, tuned = load_base("tiny"), load_adapted(found.folder / "final")
    rows = Texts(load(adapter / "recipe.yaml"), base).learn[1].rows
    gain = sequence_losses(base.model, rows).mean() - sequence_losses(tuned.model, rows).mean()
    assert found.chosen.gain.mean == pytest.approx(gain, abs=1e-4)


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no finished run"):
        dial(tmp_path)


def test_a_budget_that_cannot_be_resolved_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be told from chance"):
        dial(whole, budget=0.001, output=tmp_path / "dial")
    assert not (tmp_path / "dial").exists()


@pytest.mark.parametrize(("edge", "found"), [(2.0, 1.0), (0.3, 0.3), (-1.0, 0.0)])
def test_bisection_ends_inside(edge: float, found: float) -> None:
    place = bisected(lambda setting: setting <= edge)
    assert place == pytest.approx(found, abs=1e-3) and (place <= edge or edge < 0)


@pytest.mark.parametrize("method", ["bottleneck", "prompt", "qlora"])
def test_what_is_no_difference_of_weights_has_no_line(tmp_path: Path, method: str) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "recipe.yaml").write_text(f"base: tiny\nlearn: tiny/shakespeare\nmethod: {method}\n", "utf-8")
    with pytest.raises(Unsupported, match="no line to go back along"):
        dial(tmp_path, budget=0.1)
