"""A report with its page, of a study whose names are markup wherever records hold names; and a browser for it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import playwright.sync_api as playwright
import pytest
import synthetic_records
from synthetic_records import MARKUP

from results.html.content import About
from results.pages.report import Page, build
from results.records.store import write_failure


def page_of() -> Page:
    return Page(
        lambda name, said: About(name, f"{said['study']} claims {MARKUP}", answer="yes, by 2 points"),
        lambda folder, seeds: f"run {folder.name} {seeds}",
    )


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense, random, Cropr and ToMe at three budgets, with two seeds; ToMe has another name, and a run that failed."""
    directory = tmp_path_factory.mktemp("page") / MARKUP.replace("/", "∕")  # a folder cannot have a slash in its name
    synthetic_records.write_study(directory, methods=("none", "random", "cropr", "tome"), num_items=100, seeds=2)
    for path in (directory / "runs").glob("tome-*/result.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"label": MARKUP, "variant": f"{MARKUP}@{record['budget_asked']}"}))
    (directory / "runs" / "tome-0.5-s1" / "result.json").unlink()
    write_failure(directory / "runs" / "tome-0.5-s1", RuntimeError(f"first line\nlast {MARKUP}"), {})
    build([directory], page=page_of())
    return directory


@pytest.fixture(scope="module")
def open_page() -> Iterator[Callable[..., tuple[playwright.Page, list[str]]]]:
    """Opens a file in a window of its own: the page, and what it asked for or complained of, which should be nothing.
    All of a module are of one Chromium."""
    path = shutil.which("chromium")
    assert path, "these tests need Debian's chromium: apt-get install chromium"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has none

        def open_page(file: Path, **options: object) -> tuple[playwright.Page, list[str]]:
            context = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}} | options)
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            context.set_default_timeout(300_000)  # five megabytes of script on a busy machine
            page, said = context.new_page(), []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
            page.on("request", lambda request: None if request.url.startswith("data:") else said.append(request.url))
            page.goto(file.as_uri())
            assert said.pop(0) == page.url
            return page, said

        yield open_page
        browser.close()
