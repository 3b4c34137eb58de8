"""The whole page: well-formed, alone, true to the certificates, and there for any set of files."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.report import write_report
from holdfast.evaluation.report.records import FILES
from tests.evaluation.report.runs import SHAPES, certificate, write_run
from tests.models import quickly

FETCHING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
VOID = {"meta", "br", "hr", "img", "input", "link", "line"}


class Reader(HTMLParser):
    """Checks that elements close in order; keeps text, ids and attributes that could fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in FETCHING]


def _read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_needs_nothing_else(page: str):
    reader = _read(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not reader.tags & {"link", "img", "iframe", "object", "embed"}
    assert page.count("<script") == 1 and "<script>" in page
    assert all(link.startswith("#") for link in reader.links)
    assert not re.search(r"url\((?!#)|@import|https?:|[^:]//[a-z]|fetch|XMLHttp", page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)


def test_every_section_is_there(page: str):
    found = re.findall(r"<h2>(.*?)</h2>", page)
    assert found == [
        "Learning versus keeping",
        "Over the steps",
        "Alarms and forecasts",
        "Forgetting curves",
        "The governor&#x27;s decisions",
        "Movement per layer",
        "Samples",
        "The certificates in full",
        "How to read this page",
    ]
    assert "<h1>Three runs</h1>" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_figures_are_those_of_the_certificates(page: str):
    text = " ".join(_read(page).text).replace("\xa0", " ").replace("−", "-")
    for shape in SHAPES.values():
        found = certificate(shape)
        for entry in found["kept"]:
            change = 100 * math.expm1(entry["rise"])
            assert f"+{change:.{2 if change < 10 else 0}f} %" in text
            assert f"{entry['ratio_upper']:.4f}" in text
        assert f"+{found['learnt'][0]['gain']:.3f} nats" in text


def test_text_in_any_script_is_kept(page: str):
    assert "小女孩，她很喜欢在公园里玩。" in page
    assert '<meta charset="utf-8">' in page


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(folders: list[Path], tmp_path: Path):
    pages = [write_report(folders[:1], tmp_path / name).read_text("utf-8") for name in ("one.html", "two.html")]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_one_run_is_enough_and_nothing_is_left_beside_the_page(folders: list[Path], tmp_path: Path):
    target = write_report(folders[2:], tmp_path / "new" / "report.html")
    text = _read(target.read_text("utf-8")).text
    assert "governed" in text
    assert "remedies" not in text
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", quickly(FILES[:1], FILES))
def test_a_page_without_one_of_the_files_says_so(tmp_path: Path, name: str):
    folder = write_run(tmp_path / "run", SHAPES["plain"])
    (folder / name).unlink()
    page = write_report([folder], tmp_path / "report.html").read_text("utf-8")
    _read(page)
    assert f"There is no {name} in its folder." in page


@pytest.mark.parametrize("name", quickly(FILES[-1:], FILES))
def test_a_page_with_one_of_the_files_alone(tmp_path: Path, name: str):
    folder = write_run(tmp_path / "run", SHAPES["plain"])
    for other in set(FILES) - {name}:
        (folder / other).unlink()
    page = write_report([folder], tmp_path / "report.html").read_text("utf-8")
    _read(page)
    assert f"There is no {name} in its folder." not in page


def test_names_from_outside_are_no_markup(tmp_path: Path):
    evil = "<script>alert(1)<"
    folder = write_run(tmp_path / evil, SHAPES["plain"])
    title = "</title><script>alert(2)</script>"
    page = write_report([folder], tmp_path / "report.html", title=title).read_text("utf-8")
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;" in page


def test_no_runs_no_page(tmp_path: Path):
    with pytest.raises(BadInput):
        write_report([], tmp_path / "report.html")
    with pytest.raises(BadInput, match="no run folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
