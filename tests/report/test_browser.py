"""Contract of the report in a browser: on a phone and on a desk, light and dark, the page loads
nothing, complains about nothing, and nothing reaches beyond the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import OVERFLOW, Browser, browser, find
from folders import make_run, make_sweep

from radit_ray.report.writing import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find(), reason="no Chromium here (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("reports")
    made = [make_run(folder / "run", costs=True), make_sweep(folder / "sweep")]
    return [Path(write_report(str(place)).html) for place in made]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_any_screen_and_complains_about_nothing(
    tab: Browser, pages: list[Path], width: int, dark: bool
) -> None:
    for page in pages:
        tab.open(page, width=width, dark=dark)
        tab.value("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert tab.value("innerWidth") == width
        assert tab.value(OVERFLOW) == []
        paper = tab.value("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
        assert tab.value("document.querySelectorAll('svg.curves').length") >= 2
        assert tab.complaints() == []


def test_the_browser_would_tell(tab: Browser, tmp_path: Path) -> None:
    """A page with an error, a request and a wide box: each is found."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><link rel=icon href=data:,><div style='width: 900px'>wide</div>"
        "<img src='http://127.0.0.1:9/a.png'><script>console.error('no')</script>"
    )
    tab.open(page, width=400, dark=False)
    assert "the page" in tab.value(OVERFLOW)
    complaints = tab.complaints()
    assert "http://127.0.0.1:9/a.png" in complaints
    assert any('"no"' in line for line in complaints)
