"""Where a model comes from: the run's folder says it, and a checkpoint has no certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.recipe.origin import Origin, origin


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, as far as it says where its model comes from."""
    for name in ("final", "checkpoint-4"):
        (tmp_path / name).mkdir()
    (tmp_path / "certificate.json").write_text('{"verdict": "holds", "base": {"name": "begun-with"}}')
    (tmp_path / "recipe.yaml").write_text("base: tiny\n")
    return tmp_path


def test_a_run_and_its_last_model_have_the_runs_certificate(run: Path) -> None:
    assert origin(run) == origin(run / "final")
    assert origin(run).certificate == {"verdict": "holds", "base": {"name": "begun-with"}}
    assert origin(run).base == "tiny" and origin(run).checkpoint is None


def test_a_checkpoint_has_the_recipe_alone(run: Path) -> None:
    assert origin(run / "checkpoint-4") == Origin(None, "base: tiny\n", "checkpoint-4")


def test_without_a_recipe_the_certificate_names_the_base(run: Path) -> None:
    (run / "recipe.yaml").unlink()
    assert origin(run).base == "begun-with"


def test_other_models_come_from_nowhere(tmp_path: Path) -> None:
    assert origin("tiny") == origin(tmp_path) == Origin()
    assert origin("tiny").base is None


def test_a_damaged_certificate_is_told(run: Path) -> None:
    (run / "certificate.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        origin(run)
