"""The page, opened in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_cases import SCENARIO, done, records, write_run

from simfl.errors import MissingExtraError
from simfl.report.draw_plotly import library
from simfl.report.writing import wide_charts, write_report

OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-dev-shm-usage", "--window-size=1400,1000"),
)

EVERY_CHART_IS_DRAWN = """
return [...document.querySelectorAll('.chart')].map(chart => {
  const marks = [...chart.querySelectorAll('.scatterlayer path, .barlayer path')];
  const has_size = marks.some(mark => {
    const box = mark.getBoundingClientRect();
    return box.width > 0 || box.height > 0;
  });
  return [chart.getAttribute('aria-label'), marks.length > 0 && has_size];
});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium, without a window, which notes what the page does."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def show(browser: Any, make: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write the page of the runs in folders, and open it; wait until it says that it is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def show(*folders: Path, with_data: bool = False) -> Path:
        page = tmp_path / "report.html"
        report = make(*folders, with_data=with_data)
        write_report(report, page, format="html", written="2026-11-24 12:00")
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(page.as_uri())
        WebDriverWait(browser, 120).until(
            lambda b: b.execute_script("return document.body.dataset.drawn")
        )
        return page

    return show


def requests_of(browser: Any) -> list[str]:
    """Return the addresses that the page has asked for; chrome:// is the browser's own."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in sent]
    return [url for url in urls if not url.startswith("chrome://")]


def test_every_chart_is_drawn_and_nothing_is_wrong_or_asked_for(browser, show, make, full):
    page = show(*full, with_data=True)
    drawn = browser.execute_script(EVERY_CHART_IS_DRAWN)
    assert [title for title, _ in drawn] == [c.title for c in make(*full, with_data=True).charts]
    assert [title for title, is_drawn in drawn if not is_drawn] == []
    assert browser.get_log("browser") == []
    # The page itself; images in data URIs, such as its icon, are part of it.
    asked = {url for url in requests_of(browser) if not url.startswith("data:")}
    assert asked == {page.as_uri()}


def test_one_run_is_drawn_as_well_and_no_button_sends_a_chart_anywhere(browser, show, full):
    show(full[0])
    drawn = browser.execute_script(EVERY_CHART_IS_DRAWN)
    assert len(drawn) > 5
    assert all(is_drawn for _, is_drawn in drawn)
    assert browser.get_log("browser") == []
    titles = browser.execute_script(
        "return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
    )
    assert sorted(set(titles)) == ["Download plot as a PNG", "Reset axes"]


SHARES_OF_PLOTS = """
return [...document.querySelectorAll('.chart')].map(chart =>
  chart.querySelector('.nsewdrag').getBoundingClientRect().height
  / chart.getBoundingClientRect().height);
"""
CURVES = "return document.querySelectorAll('#chart-0 .scatterlayer .trace').length"


def test_the_legend_of_many_runs_takes_nothing_from_the_charts_and_switches_them(
    browser, show, tmp_path
):
    runs = [
        write_run(
            tmp_path / f"a-folder-with-a-long-name-{n}",
            records([0.5, 0.6]),
            scenario=SCENARIO | {"rounds": n},
        )
        for n in range(1, 15)
    ]
    show(*runs)
    # Axes and their titles need 52 of a chart's 320 pixels.
    assert min(browser.execute_script(SHARES_OF_PLOTS)[:4]) > 0.7
    assert browser.execute_script(CURVES) == 14
    buttons = browser.find_elements("css selector", ".key button")
    assert len(buttons) == 14
    buttons[3].click()
    assert browser.execute_script(CURVES) == 13
    assert buttons[3].get_attribute("aria-pressed") == "false"
    show_only = "arguments[0].dispatchEvent(new MouseEvent('dblclick'))"
    browser.execute_script(show_only, buttons[5])
    assert browser.execute_script(CURVES) == 1
    browser.execute_script(show_only, buttons[5])
    assert browser.execute_script(CURVES) == 14
    assert browser.get_log("browser") == []


def test_charts_take_the_colours_of_the_night(browser, show, full):
    def colours() -> tuple[str, str]:
        return tuple(
            browser.execute_script(
                f"return getComputedStyle(document.querySelector('{of}')).{what}"
            )
            for of, what in (("body", "backgroundColor"), (".xtick text", "fill"))
        )

    def emulate(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    emulate("light")
    show(full[0])
    assert colours() == ("rgb(245, 246, 248)", "rgb(102, 112, 133)")
    emulate("dark")
    show(full[0])
    assert colours() == ("rgb(20, 23, 28)", "rgb(152, 161, 176)")
    emulate("light")


def test_on_a_narrow_screen_nothing_is_cut_off(browser, show, full):
    # A telephone's; Chromium's own windows are 500 pixels wide at the least.
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    show(*full)
    width, seen = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == seen <= 400


def test_what_runs_are_called_is_text_and_no_script(browser, show, tmp_path):
    evil = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    scenario = SCENARIO | {"name": evil, "client": {"note": evil}}
    summary = done(status="failed", error=evil)
    show(write_run(tmp_path / "a", records([0.5]), scenario=scenario, summary=summary))
    heading = browser.execute_script("return document.querySelector('h1').textContent")
    assert heading == evil
    assert browser.title == f"{evil} · simfl report"
    assert browser.get_log("browser") == []


def test_the_page_has_the_library_once_and_refuses_the_network(make, full, tmp_path):
    page = tmp_path / "report.html"
    write_report(make(*full), page, format="html", written="2026-11-24 12:00")
    text = page.read_text()
    assert text.count("* plotly.js v") == 1
    assert 4e6 < len(text) < 6e6
    ours = text.replace(library(), "")
    assert re.findall(r"https?://[^\s\"'<]+", ours) == []
    assert "default-src 'none'" in ours


def test_a_chart_without_a_neighbour_takes_the_whole_width(make, full):
    learning, *_, timing = make(full[0]).sections[:-2]
    # Train loss, test loss, accuracy, and accuracy over time.
    assert wide_charts(learning.charts) == set()
    assert wide_charts(learning.charts[:3]) == {2}
    # By phase; actors; by round, whose bars have a name each.
    assert wide_charts(timing.charts) == {2}


def test_without_matplotlib_the_error_names_the_extra(make, full, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"png needs the package 'matplotlib'.*\[report\]"):
        write_report(make(full[0]), tmp_path / "r.png", format="png", written="today")


def test_without_plotly_it_is_said_how_to_get_it(make, full, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    monkeypatch.setitem(__import__("sys").modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'plotly'.*simfl\[report\]"):
        write_report(make(full[0]), tmp_path / "r.html", format="html", written="today")
