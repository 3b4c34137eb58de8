"""What is noted of a run: statistics against numpy, movements that stayed, a log of bounded length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from holdfast.llm.record import Record
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_statistics_are_numpys_over_the_window(metrics: list[float]) -> None:
    record = Record(10, 5, "adaptive")
    for metric in metrics:
        record.observe(metric)
    last = np.array(metrics[-5:])
    slope = np.polyfit(range(len(last)), last, 1)[0] if len(last) > 1 else 0.0
    assert record.statistics() == pytest.approx(
        {
            "current_performance": last[-1],
            "average_performance": last.mean(),
            "performance_trend": slope,
            "performance_std": last.std(),
        },
        abs=1e-9,
    )


def test_without_a_metric_every_statistic_is_nan() -> None:
    record = Record(10, 5, "adaptive")
    record.observe(None)
    assert len(record.statistics()) == 4 and all(math.isnan(value) for value in record.statistics().values())


def stepped(record: Record, steps: int, frozen: list[str]) -> Run:
    model = nn.Linear(2, 2)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), [Frozen(frozen), record])
    run.begin()
    for step in range(steps):
        record.observe(0.5 + 0.1 * step)
        run.advance(gradients={"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    return run


def test_only_what_really_moved_is_noted() -> None:
    record = Record(100, 5, "gradual")
    run = stepped(record, 3, [])
    assert record.counts == {"weight": 3} and list(record.moved) == ["weight"]  # a gradient of zero moves no bias
    entry = record.history[-1]
    assert entry.movement == pytest.approx(0.2) and entry.learning_rate == 0.1 and entry.strategy == "gradual"
    assert entry.new_value == pytest.approx(float(run.model.get_parameter("weight").detach().norm()))
    assert [e.new_value for e in record.history][:-1] == [e.old_value for e in record.history][1:]
    changes = [e.performance_change for e in record.history]
    assert math.isnan(changes[0]) and changes[1:] == pytest.approx([0.1, 0.1])
    held = Record(100, 5, "gradual")
    stepped(held, 3, ["weight"])
    assert not held.counts and not held.history


def test_the_log_is_bounded_and_goes_on_where_counts_go_back() -> None:
    record = Record(4, 3, "adaptive")
    run = stepped(record, 3, [])
    snapshot = run.snapshot()
    for _ in range(3):
        record.observe(0.0)
        run.advance(gradients={"weight": torch.ones(2, 2)})
    assert record.counts == {"weight": 6} and len(record.history) == 4
    run.restore(snapshot)
    assert record.counts == {"weight": 3} and list(record.metrics) == pytest.approx([0.5, 0.6, 0.7])
    assert len(record.history) == 4
