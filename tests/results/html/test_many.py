"""A page of two thousand variants: its size, and how long its reader waits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import synthetic_records
from playwright.sync_api import Page, expect

from results.html.content import Content, Point
from results.html.page import page as make_page
from results.pages.tables import summary_frame, texts_of
from results.records.frames import run_frame, speed_frame
from results.records.store import load_records
from results.statistics.analysis import analyse


def test_two_thousand_variants(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    """The rows of the study two hundred times, as eighty curves."""
    synthetic_records.write_study(tmp_path / "a", methods=("none", "random", "cropr", "tome"), num_items=50)
    studies = [load_records(tmp_path / "a")]
    variants = analyse(run_frame(studies)).variants.assign(findings="", speed_findings="")
    one = summary_frame(variants, speed_frame(studies))
    copies = [one.assign(curve=one["curve"] + f" {i % 20:02}") for i in range(200)]
    many = pd.concat(copies, ignore_index=True)
    points = [Point([f"run-{i}-s{s}" for s in (0, 1)], [0, 1], [[50.0, 60.0]], f"command {i}") for i in range(2000)]
    content = Content("many", [many], [texts_of(many)], many.to_csv(index=False).splitlines(), points)
    content = replace(content, pictures={"pareto_accuracy_gmacs": ("A caption.", b"<svg/>")})
    path = tmp_path / "index.html"
    path.write_text(make_page(content))
    assert path.stat().st_size < 12e6
    page, said = open_page(path)
    assert page.locator("#scores tbody tr").count() == 2000
    assert page.locator("#scores tbody tr:visible").count() == 100
    times = [cpu_ms(page, text) for text in ("cropr 05", "random", "", "0.65 19", "")]
    assert max(times) < 200 and not said, times
    expect(page.locator("#count")).to_have_text("2000 of 2000 rows, the first 100 shown")
    page.get_by_role("button", name="show all").click()
    assert page.locator("#scores tbody tr:not([hidden])").count() == 2000


def cpu_ms(page: Page, text: str) -> float:
    """Of the page's thread, for a filter and the layout behind it: what else the machine does is not in it."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    seen = []
    for _ in range(2):
        metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
        seen.append(metrics["TaskDuration"])
        if len(seen) == 1:
            page.evaluate(FILTER, text)
    session.detach()
    return 1000 * (seen[1] - seen[0])


FILTER = """text => {
    document.getElementById('filter').value = text;
    document.getElementById('filter').dispatchEvent(new Event('input'));
    return document.body.offsetHeight;  // the layout is part of it
}"""
