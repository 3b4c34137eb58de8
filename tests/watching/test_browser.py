"""The live page in a browser: it follows the run, and a reader keeps what was sorted, opened and scrolled to."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from holdfast.watching import Server
from tests.browser import chromium, opened
from tests.evaluation.report.runs import SHAPES, certificate, write_run


@pytest.mark.slow
def test_the_page_follows_its_run_to_the_end(tmp_path: Path):
    folder = write_run(tmp_path / "governed", SHAPES["governed"])
    (folder / "certificate.json").unlink()
    size = {"width": 800, "height": 400}
    with Server(folder, 0) as server, chromium() as browser, opened(browser, viewport=size) as page:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        page.goto(server.url)
        decisions = page.locator("table").last
        decisions.locator("thead button").first.click()
        page.evaluate("scrollTo(0, 300)")
        with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "note", "step": 301, "text": "one <b>more</b> line"}) + "\n")
        page.get_by_text("step 301: one <b>more</b> line").wait_for(timeout=5000)
        steps = [int(text) for text in decisions.locator("tbody td:first-child").all_inner_texts()]
        assert steps == sorted(steps) and page.evaluate("scrollY") == 300
        assert page.evaluate("document.activeElement.textContent") == "step"
        (folder / "certificate.json").write_text(json.dumps(certificate(SHAPES["governed"])))
        page.get_by_text("holds its certificate").wait_for(timeout=5000)
        assert {*page.asked} == {server.url}
        count = len(page.asked)
        page.wait_for_timeout(2500)
        assert len(page.asked) == count, "a run that has ended is asked after no more"
        server.shutdown()
