"""What a run recommends, in a report: the model beside baselines, and the language that it kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.evaluation.report import read_runs, write_report
from holdfast.evaluation.report.items import items_section
from holdfast.evaluation.report.records import RunRecord
from tests.evaluation.report.pages import shown


def ranking(hits: float) -> dict[str, Any]:
    entry = {"mean": hits, "low": hits - 0.02, "high": hits + 0.02}
    return {"cases": 90, "users": 40, "valid": 1.0, "by_item": {"hr@10": entry, "ndcg@10": entry, "hr@50": entry}}


TOLD: dict[str, Any] = {
    "split": "test",
    "ks": [10, 50],
    "items": {"name": "shop", "source": "made up by rule"},
    "rankings": {"popularity": ranking(0.2), "model": ranking(0.31), "successor": ranking(0.4)},
    "language": {
        "old_row": 0.0,
        "texts": [
            {
                "text": "tiny/stories",
                "certificate": {"rise": 0.0421},
                "old_tokens": {"rise": 0.0, "logit": 0.0, "new_mass": 0.041, "overtaken": 0.0075},
            }
        ],
    },
    "examples": [{"history": ["red cup"], "target": "blue <plate>", "recommended": ["a", "b"]}],
}


def test_the_model_stands_first_and_baselines_by_what_they_find(records: list[RunRecord]) -> None:
    text = shown(items_section, [replace(records[0], recommendations=TOLD)]).replace("\xa0", " ")
    assert 0 < text.index("0.310") < text.index("0.400") < text.index("0.200")
    assert "HR@10" in text and "NDCG@10" in text and "HR@50" not in text and "[0.290, 0.330]" in text
    assert "90 cases of 40 users" in text and "made up by rule" in text and "100% of what" in text
    told = ("+0.042 nats", "+0.000 nats", "4.10%", "0.75%", "blue &lt;plate&gt;")
    assert all(figure in text for figure in told)


def test_runs_that_recommend_nothing_have_no_such_section(records: list[RunRecord]) -> None:
    assert not items_section(records).blocks


def test_a_file_that_is_no_evaluation_is_said(records: list[RunRecord]) -> None:
    for odd in ({"rankings": []}, {"rankings": {"model": {}}}, {"ks": "ten", "rankings": {"model": ranking(0.1)}}):
        assert "cannot be read" in shown(items_section, [replace(records[0], recommendations=odd)])


def test_the_page_and_the_figures_hold_it(folders: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(folders[0], tmp_path / "plain")
    (run / "recommendations.json").write_text(json.dumps(TOLD))
    assert read_runs([run])[0].recommendations == TOLD
    write_report([run], tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["recommendations"]["plain"]["split"] == "test"
    write_report([run], tmp_path / "report.html")
    assert "Recommendations" in (tmp_path / "report.html").read_text()
