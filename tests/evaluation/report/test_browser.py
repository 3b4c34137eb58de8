"""The page in a browser: tables that sort, values by pointing and tapping, print, and no request to anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, opened
from tests.evaluation.report.runs import SHAPES

pytestmark = pytest.mark.slow

NAMES = [*SHAPES]
GAIN = "gain on tiny/shakespeare"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("browser") / "report.html"
    file.write_text(page, "utf-8")
    return file


def _order(page: Any) -> list[str]:
    return [name.strip() for name in page.locator("table").first.locator("tbody th").all_inner_texts()]


def test_a_table_sorts_by_value_and_by_key_and_back_again(browser: Any, file: Path):
    with opened(browser) as page:
        page.goto(file.as_uri())
        head = page.locator("table").first.locator("thead th").filter(has_text="forgetting of self")
        button = head.locator("button")
        button.click()
        assert _order(page) == ["governed", "remedies", "plain"] and head.get_attribute("aria-sort") == "ascending"
        button.press("Enter")
        assert _order(page) == ["plain", "remedies", "governed"] and head.get_attribute("aria-sort") == "descending"
        button.press("Space")
        assert _order(page) == NAMES and head.get_attribute("aria-sort") is None
        page.locator("table").first.locator("thead th button").first.click()
        assert _order(page) == sorted(NAMES)
        assert page.asked == [file.as_uri()]


@pytest.mark.parametrize("touch", [False, True])
def test_a_point_tells_its_value_to_a_mouse_and_to_a_finger(browser: Any, file: Path, touch: bool):
    with opened(browser, has_touch=touch, viewport={"width": 390 if touch else 1280, "height": 800}) as page:
        page.goto(file.as_uri())
        point = page.locator("svg[aria-label^='Gain on tiny'] .tips circle").last
        point.scroll_into_view_if_needed()
        point.tap() if touch else point.hover()
        told = page.locator(".tip")
        assert told.is_visible() and told.inner_text().startswith("governed, step 300: +")
        box = told.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= (390 if touch else 1280)
        page.locator("h1").click()
        assert not told.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_javascript_the_page_is_complete(browser: Any, file: Path):
    with opened(browser, java_script_enabled=False) as page:
        page.goto(file.as_uri())
        assert page.locator("thead button").count() == 0 and _order(page) == NAMES
        assert page.locator(".tips title").count() > 100


def test_paper_has_no_scroll_boxes_and_nothing_folded(browser: Any, file: Path):
    with opened(browser) as page:
        page.goto(file.as_uri())
        page.emulate_media(media="print", color_scheme="dark")
        boxes = page.locator(".box").evaluate_all("all => all.map((box) => getComputedStyle(box).overflowX)")
        assert {*boxes} == {"visible"} and page.locator("details pre").first.is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
