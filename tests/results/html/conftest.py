"""A report with its page, of a study whose names are markup wherever records hold names."""

import json
from pathlib import Path

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
