"""Alarms, forecasts and the cost of watching, in words."""

from __future__ import annotations

import math
from pathlib import Path

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.watchfulness import forecast, forecasts, monitored, monitoring, warnings_section
from tests.evaluation.report.pages import marked_up, shown


def test_alarms_are_listed_with_what_raised_them(records: list[RunRecord]):
    text = shown(warnings_section, records).replace("\xa0", " ")
    alarms = records[1].lines("alarm")
    assert text.count("<tr>") == 1 + len(alarms) and f">{alarms[0]['step']}<" in text
    assert "+5.13 %" in text and "+3.15 %" in text and "99 % sure" in text and "governed" not in text


def test_the_last_forecast_of_each_text_counts(records: list[RunRecord]):
    said = {text: sentence.replace("\xa0", " ") for text, sentence in forecasts(records[1]).items()}
    assert said == {
        "tiny/stories": "By the forecast of step 300, tiny/stories passes its budget of 2.00 % at step 333, between "
        "step 320 and step 351 with 95 %.",
        "self": "By the forecast of step 300, self: nothing foretells that it passes its budget of 2.00 %.",
    }


def test_a_forecast_may_be_open_at_its_end():
    line = {"kind": "forecast", "text": "x", "step": 5, "crossing": 9, "low": 7, "high": math.inf}
    assert forecast(line).endswith("at step 9, between step 7 and the end with 95\xa0%.")
    assert forecast({**line, "high": None}).endswith("at step 9.")
    bare = {"kind": "forecast", "text": "x", "step": 5, "slope": 0.01, "slope_low": -0.01, "slope_high": 0.03}
    said = forecast({**bare, "crossing": None, "budget": None}).replace("\xa0", " ")
    assert said == (
        "By the forecast of step 5, x changes by +1.01 % [−1.00, +3.05] % in 100 steps: it has no budget to pass."
    )
    assert "in 100 steps and passes its budget at step 9" in forecast({**line, **bare, "high": None})


def test_runs_without_alarms_have_no_such_section(records: list[RunRecord]):
    assert warnings_section(records[:1]).blocks == []


def test_what_watching_cost_is_said_where_it_was_measured(records: list[RunRecord]):
    said = marked_up(*monitored(records)).replace("\xa0", " ")
    assert "plain: watching took 6.3 % of the time (2.5 s for 15 looks, 10 % was stated)." in said
    assert monitoring({}) == monitoring({"monitoring": {"share": None}}) == ""
    assert monitored([RunRecord("run", Path("run"))]) == []
