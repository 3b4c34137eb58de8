"""The demos of the guide run, part by part, and what they print was computed and is what they promise."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def full() -> ModuleType:
    return loaded("frozen_adaptive")


def printed(module: ModuleType, demo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a demo says when it is run from the command line."""
    monkeypatch.setattr(sys, "argv", ["demo", "--demo", demo])
    module.main()
    told = capsys.readouterr().out
    assert told.startswith(f"\n== {demo}: ") and told.count("\n== ") == 1
    return told


def figures(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_the_parts_are_those_of_the_guide(full: ModuleType) -> None:
    assert list(full.DEMOS) == ["basic", "importance", "strategies", "monitoring", "rollback", "manager"]


def test_basic(full: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(full, "basic", monkeypatch, capsys)
    assert "31 tensors moved; of 16 frozen ones 16 are bit-identical" in told
    assert "reads back equal: True" in told
    assert 0 < figures(r"probability ([\d.]+)", told)[0] < 1


def test_importance(full: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(full, "importance", monkeypatch, capsys)
    found = figures(r"sensitivity ([\d.]+)", told)
    assert found == sorted(found, reverse=True) and len(set(found)) == 8
    assert sum(int(n) for n in re.findall(r": (\d+)[,}]", told)) == 47


@pytest.mark.slow
def test_strategies(full: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(full, "strategies", monkeypatch, capsys)
    learnt = {
        name: (float(gain), int(moved)) for name, gain, moved in re.findall(r"(\w+) +([-+.\d]+) +\S+ +(\d+)\n", told)
    }
    assert list(learnt) == ["frozen", "adaptive", "selective", "incremental", "gradual"]
    assert learnt.pop("frozen") == (0.0, 0)
    assert all(gain < -0.2 for gain, _ in learnt.values())
    assert learnt["selective"][1] < learnt["adaptive"][1] == 47


@pytest.mark.slow
def test_monitoring(full: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(full, "monitoring", monkeypatch, capsys)
    losses, rates = figures(r"loss ([\d.]+)", told), figures(r"learning rate (\d\S+)", told)
    assert losses == sorted(losses, reverse=True) and rates == sorted(rates) and rates[0] < rates[-1]


@pytest.mark.slow
def test_rollback(full: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(full, "rollback", monkeypatch, capsys)
    best, worse, back = figures(r"(?:loss|uphill|back) (\d\.\d+)", told)[:3]
    assert best == back < worse and "bit-identical: True" in told
    assert "went back by itself" in told


@pytest.mark.slow
def test_manager(full: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(full, "manager", monkeypatch, capsys)
    assert "conservative: 19 tensors frozen" in told and "balanced: 1 tensors frozen" in told
    assert told.endswith("removed: True | left: ['conservative']\n")


@pytest.mark.slow
@pytest.mark.parametrize("demo", ["basic", "rollback"])
def test_the_simple_one(demo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(loaded("frozen_adaptive_simple"), demo, monkeypatch, capsys)
    if demo == "basic":
        before, after = figures(r"loss ([\d.]+)", told)
        assert after < before - 0.5 and "bit-identical: True" in told
    else:
        saved, spoilt, back = figures(r"loss ([\d.]+)", told)[:3]
        assert saved == back < spoilt
        assert "rolled back: True" in told and told.count(", rolled back\n") == 2
