"""The same rules end at the same figures in transformers' Trainer, in TRL's SFTTrainer and in a plain loop."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from tests.guides.test_examples import figures, loaded


@pytest.mark.slow
def test_all_hosts_end_at_the_same_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module, told = loaded("hosts"), {}
    for host in module.HOSTS:
        if host != "trl" or find_spec("trl"):  # TRL is an optional extra
            monkeypatch.setattr(sys, "argv", ["hosts", host, "--steps", "10"])
            module.main()
            told[host] = figures(r"loss ([-+\d.]+) nats", capsys.readouterr().out)
    assert len(told) >= 2 and told["trainer"][0] < -0.5
    assert all(found == told["trainer"] for found in told.values())
