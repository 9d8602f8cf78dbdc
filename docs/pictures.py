"""Makes the screenshots of these pages: `python docs/pictures.py`, some minutes, in a clone that `make install` set up.

A sweep of two methods and two learning rates on scikit-learn's digits runs on this machine. While it does, `gmml top`
is kept; then `gmml report` and `gmml see` are. Needs Chromium, which draws the page and, from the terminal's
characters and colours, the view.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS = 80
SWEEP = ["--sweep", "optim.lr=2e-3,4e-3", "--sweep", "method.name=gmml,simmim", "--parallel", "2"]
NAME = "quickstart-lr-method"
SEEN = ["jobs/quickstart.yaml", "method.views=2", "data.augment=gmml", "--samples", "64..67"]
_WIDTH, _HEIGHT = 1240, 1330
_DEADLINE_S = 3600.0


class Site:
    """A folder with a home, a corpus and runs of its own, in which commands are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": f"{folder}/state"}
        self.environment |= {"PYTHONPATH": str(HERE.parent), "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}

    def call(self, *words: str, **variables: str) -> str:
        """What a command of this package prints."""
        module = "gmml_cluster.cli.submit" if words[0] == "gmml-submit" else "gmml_cluster.cli.main"
        command = [sys.executable, "-m", module, *words[1:]]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def states(self) -> list[str]:
        """Of the runs of the sweep."""
        return [each["state"] for each in json.loads(self.call("gmml", "status", NAME, "--json"))]


def main() -> None:
    """Make the pictures."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no Chromium is installed")
    folder = Path(tempfile.gettempdir(), "digits")  # a name that may stand on the page
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        started = stack.enter_context(sync_playwright())
        site = Site(folder)
        submit(site)
        top = shown_by_top(site)
        site.call("gmml", "wait", NAME)
        site.call("gmml", "report", NAME, "-o", "report.html", "--images", "demo/digits/test/*.tar")
        site.call("gmml", "see", *SEEN, "-o", str(HERE / "see.png"))
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        draw_report(opened, site.folder / "report.html")
        draw_terminal(opened, top)
        opened.close()


def submit(site: Site) -> None:
    """Pack the digits and begin the sweep."""
    subprocess.run(
        [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", "demo/digits"],
        cwd=site.folder,
        env=site.environment,
        check=True,
    )
    (site.folder / "jobs").mkdir()
    shutil.copy(HERE.parent / "jobs" / "quickstart.yaml", site.folder / "jobs")
    scored = "{every: 100 steps, corpus: 'demo/digits/test/*.tar'}"
    shorter = ["run.steps=600", "checkpoint.every=100 steps", f"evaluate={scored}"]
    site.call("gmml-submit", "jobs/quickstart.yaml", *SWEEP, *shorter)


def shown_by_top(site: Site) -> str:
    """What `gmml top` shows, colours and all, when one run has finished, others train and one may wait."""
    deadline = time.monotonic() + _DEADLINE_S
    while "finished" not in (states := site.states()) or "running" not in states:
        if time.monotonic() > deadline or not {"queued", "starting", "running"} & set(states):
            sys.exit(f"the runs are {states}: none trains beside one that has finished")
        time.sleep(1)
    return site.call("gmml", "top", "--once", FORCE_COLOR="1")


def draw_report(browser: Browser, page: Path) -> None:
    """The head of the page as a browser shows it."""
    opened = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
    opened.goto(page.as_uri())
    while not opened.evaluate("document.documentElement.dataset.ready === 'true' && Bokeh.documents[0].is_idle"):
        opened.wait_for_timeout(50)
    opened.screenshot(path=str(HERE / "report.png"))


def draw_terminal(browser: Browser, output: str) -> None:
    """A terminal with this output."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output))
    opened = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
    opened.set_content(console.export_svg(title="gmml top"))
    opened.locator("svg").screenshot(path=str(HERE / "top.png"))


if __name__ == "__main__":
    main()
