"""The page of `gmml report` in a real browser: no error, no request, keyboard, dark mode."""

import shutil
import time

import pytest
from playwright.sync_api import sync_playwright

from gmml_cluster.report.page import page_of
from tests.fixtures.reports import gathered, preempted_run, scored

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DEADLINE_MS = 240_000
LOSS = "Bokeh.documents[0].get_model_by_name('loss')"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: the page was opened by nothing")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page on two runs, open and drawn, with what its console said and what it asked the network for."""
    root = tmp_path_factory.mktemp("page")
    runs = [preempted_run(root, "one"), preempted_run(root, "other", optim={"lr": 7e-4})]
    for run, accuracy in zip(runs, (60.0, 50.0), strict=True):
        for step in (49, 99):
            scored(run, accuracy, step=step)
    file = root / "page.html"
    file.write_text(page_of([gathered(run) for run in runs], "gmml report one other").html)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=DEADLINE_MS)
        opened = browser.new_page(color_scheme="dark")
        opened.set_default_timeout(DEADLINE_MS)
        opened.said, opened.asked = [], []
        opened.on(
            "console",
            lambda message: opened.said.append(message.text) if message.type in ("error", "warning") else None,
        )
        opened.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.goto(file.as_uri())
        until(opened, "document.documentElement.dataset.ready === 'true' && Bokeh.documents[0].is_idle")
        yield opened
        browser.close()


def until(page, expression):
    """Wait until the expression holds; the page's policy forbids the `eval` of Playwright's own waiting."""
    deadline = time.monotonic() + DEADLINE_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def lightness(colour):
    return sum(int(each) for each in colour.removeprefix("rgb(").removesuffix(")").split(","))


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_page_works_in_a_browser(page):
    """One test, as what follows builds on what was pressed before."""
    drawn = "document.querySelectorAll('[data-figure]').length"
    assert page.evaluate(drawn) == 8
    assert page.evaluate(f"{LOSS}.x_range.end") == 99

    page.focus("input[name=axis]")  # from here on by the keyboard alone
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{LOSS}.below[0].axis_label") == "hours since the first submit"
    assert page.evaluate(f"{LOSS}.renderers[0].glyph.x.field") == "hours"
    hours = page.evaluate(f"{LOSS}.x_range.end")
    for _ in range(3):  # from, to, zoom in
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(f"{LOSS}.x_range.end - {LOSS}.x_range.start") == pytest.approx(hours / 2)
    page.keyboard.press("Enter")
    assert page.evaluate(f"{LOSS}.y_range.end") < 0.1  # the first steps, of a loss of 1, are out of sight
    while page.evaluate("document.activeElement.dataset.run") != "run-1":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate(f"{LOSS}.renderers.map((each) => each.visible)") == [True, False]

    while page.evaluate("document.activeElement.name") != "logarithmic":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate(f"{LOSS}.y_scale.type") == "LogScale"
    assert page.evaluate(f"{LOSS}.left[0].ticker.type") == "LogTicker"
    assert page.evaluate(f"{LOSS}.y_range.start") > 0
    page.keyboard.press("Space")
    assert page.evaluate(f"{LOSS}.y_scale.type") == "LinearScale"

    dark, faint = background(page), page.evaluate(f"{LOSS}.below[0].major_label_text_color")
    page.emulate_media(color_scheme="light")
    until(page, f"{LOSS}.below[0].major_label_text_color !== '{faint}'")
    assert lightness(dark) < 150 < 600 < lightness(background(page))

    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
