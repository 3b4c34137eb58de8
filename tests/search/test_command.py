"""`holdfast search` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.recipe import load
from holdfast.search import runner
from tests.search.conftest import small


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small(tmp_path)))
    return path


@pytest.mark.slow
def test_three_trials_and_what_is_said_of_them(file: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("methods: [full, lora]\nrate: [0.5, 2]\n", "utf-8")
    asked = ["search", str(file), "train.max_steps=3", "--trials", "3", "--space", str(space), "--seed", "1"]
    told = CliRunner().invoke(app, [*asked, "--folder", str(tmp_path / "search")])
    assert told.exit_code == 0, told.output
    assert "trial 0, 3 steps: gain" in told.output and "3 recipes tried" in told.output
    assert "best.yaml" in told.output and load(tmp_path / "search" / "best.yaml").train["max_steps"] == 3
    assert (tmp_path / "search" / "front.png").is_file()


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "carried_out", interrupted)
    told = CliRunner().invoke(app, ["search", str(file), "--trials", "2", "--folder", str(tmp_path / "search")])
    assert told.exit_code == 130 and "--resume" in told.output
