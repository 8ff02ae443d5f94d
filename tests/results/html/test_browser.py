"""The page in a real Chromium, as somebody who was sent the file opens it."""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Page, expect
from synthetic_records import MARKUP

from results.statistics.curves import pareto_front

OpenPage = Callable[..., tuple[Page, list[str]]]
COSTS = {
    "MACs per image": "macs_g", "throughput": "images_per_s_median", "latency of one image": "latency_ms_median",
    "peak memory of inference": "peak_memory_mib", "live tokens": "tokens",
}  # fmt: skip


@pytest.fixture(scope="module")
def summary(study: Path) -> pd.DataFrame:
    frame = pd.read_csv(study / "report" / "summary.csv")
    frame["tokens"] = [np.mean(json.loads(text)) for text in frame["tokens"]]
    return frame


@pytest.fixture(scope="module")
def opened(open_page: OpenPage, study: Path) -> tuple[Page, list[str]]:
    return open_page(study / "report" / "index.html")


@pytest.fixture
def page(opened: tuple[Page, list[str]]) -> Iterator[Page]:
    """As it was first opened, but for what the tests before it should have left alone."""
    page, said = opened
    yield page
    page.set_viewport_size({"width": 1200, "height": 1000})
    page.evaluate("document.getElementById('axes').reset(), document.getElementById('tools').reset()")
    page.get_by_role("button", name="all", exact=True).click()
    page.locator("#filter").dispatch_event("input")
    for _ in range(2):  # by budget, downwards, then not at all: whatever it was by
        page.get_by_role("columnheader", name="budget", exact=True).get_by_role("button").click()
    page.get_by_role("columnheader", name="budget", exact=True).get_by_role("button").click()
    assert not said, said  # no error, no dialog, no request


def traces(page: Page, name: str | None = None) -> list[dict]:
    """Data of the plot: of the curves, or of traces called `name`."""
    found = page.evaluate(
        "document.getElementById('plot').data.map(t => ({name: t.name, meta: t.meta, x: [...t.x], y: [...t.y],"
        " rows: t.customdata ?? null}))"
    )
    return [trace for trace in found if (trace["meta"] == "curve" if name is None else trace["name"] == name)]


def plotted(page: Page) -> dict[int, tuple[float, float]]:
    """Point of each row of the summary that a curve shows."""
    return {
        row: (x, y) for trace in traces(page) for row, x, y in zip(trace["rows"], trace["x"], trace["y"], strict=True)
    }


def front_of(page: Page) -> set[tuple[float, float]]:
    return {point for trace in traces(page, "front") for point in zip(trace["x"], trace["y"], strict=True)}


PLACE = """row => {
    const plot = document.getElementById('plot'), box = plot.getBoundingClientRect(), layout = plot._fullLayout;
    const trace = plot.data.find(t => t.meta === 'curve' && t.customdata.includes(row));
    const i = trace.customdata.indexOf(row);
    const [x, y] = [layout.xaxis.d2p(trace.x[i]), layout.yaxis.d2p(trace.y[i])];
    return [box.x + layout._size.l + x, box.y + layout._size.t + y];
}"""  # on the screen


def test_hover_shows_the_run_with_the_numbers_of_the_table(page: Page, summary: pd.DataFrame) -> None:
    row = summary.index[summary["variant"] == "random@0.5"][0]
    page.uncheck("#with-seeds")
    page.locator("#plot").scroll_into_view_if_needed()
    place = page.evaluate(PLACE, int(row))
    page.mouse.move(*place)
    label = page.locator(".hoverlayer .hovertext")
    expect(label).to_contain_text("random-0.5-s0")
    text = label.text_content()
    cells = page.locator("#scores tbody tr").nth(row).locator("td").all_text_contents()
    titles = page.locator("#scores thead th").all_text_contents()[1:]
    shown = [title for title, cell in zip(titles, cells, strict=True) if f"{title}: {cell}" in text]
    assert {"top-1, %", "MMACs (scoring)", "images/s", "latency, ms", "to dense, points (p)"} <= set(shown)
    page.mouse.click(*place)
    expect(page.locator("#point")).to_contain_text("run random-0.5-s0 2")


def test_a_hidden_curve_leaves_and_the_front_is_that_of_the_rest(page: Page, summary: pd.DataFrame) -> None:
    names = list(dict.fromkeys(summary["curve"]))
    assert MARKUP in names
    seen = []
    for hidden in ([], ["Cropr"], ["Cropr", MARKUP], ["Cropr", MARKUP, "Dense"]):
        for name in hidden[-1:]:
            page.get_by_role("checkbox", name=name, exact=True).uncheck()
        shown = summary[~summary["curve"].isin(hidden)]
        assert {trace["name"] for trace in traces(page)} == set(names) - set(hidden)
        best = shown[pareto_front(shown["macs_g"].to_numpy(), shown["top1_percent"].to_numpy(), maximise_x=False)]
        wanted = sorted((1000 * row.macs_g, row.top1_percent) for row in best.itertuples())
        assert np.array(sorted(front_of(page))) == pytest.approx(np.array(wanted), rel=1e-5)
        said = page.locator("#front").text_content()
        assert all((row.curve in said) == (row.curve in set(best["curve"])) for row in summary.itertuples())
        seen.append(said)
    assert len(set(seen)) >= 3
    page.get_by_role("button", name="none", exact=True).click()
    assert not traces(page) and not front_of(page)
    page.get_by_role("button", name="all", exact=True).click()
    assert {trace["name"] for trace in traces(page)} == set(names)


@pytest.mark.parametrize("label", COSTS)
def test_axes_switch(page: Page, summary: pd.DataFrame, label: str) -> None:
    page.select_option("#x", label=label)
    page.check("#log")
    page.uncheck("#with-seeds")
    column = COSTS[label]
    scale = 1000 if column == "macs_g" else 1
    known = summary[summary[column].notna()]
    points = plotted(page)
    assert points.keys() == set(known.index)
    assert [points[row][0] for row in known.index] == pytest.approx(list(scale * known[column]), rel=1e-5)
    assert page.evaluate("document.getElementById('plot').layout.xaxis.type") == "log"
    best = pareto_front(known[column].to_numpy(), known["top1_percent"].to_numpy(), maximise_x=label == "throughput")
    assert {x for x, _ in front_of(page)} == {points[row][0] for row in known.index[best]}
    page.uncheck("#log")
    page.check("#relative")
    dense = known.loc[known["role"] == "dense", column].iat[0]
    ratio = known["ratio_to_dense_median"] if label == "throughput" else 100 * known[column] / dense
    near = 0.02 * (ratio.max() - ratio.min())  # curves move aside where methods meet at the same budgets
    points = plotted(page)
    assert [points[row][0] for row in known.index] == pytest.approx(list(ratio), abs=near * 2, rel=1e-5)
    difference = known["difference_points"].fillna(0.0)
    assert [points[row][1] for row in known.index] == pytest.approx(list(difference), rel=1e-5, abs=1e-9)


def test_seeds_dominated_and_published_points(page: Page, summary: pd.DataFrame) -> None:
    assert sum(len(trace["x"]) for trace in traces(page, "seeds")) == summary["seeds"].sum()
    page.uncheck("#with-seeds")
    page.uncheck("#dominated")
    best = summary.index[summary["on_front"]]
    assert not traces(page, "seeds") and plotted(page).keys() == set(best) != set(summary.index)
    page.check("#with-published")
    published = "document.getElementById('plot').data.filter(t => t.name.endsWith(', published')).length"
    assert page.evaluate(published) == 0  # other data and backbones: only relative to their own dense model
    page.check("#relative")
    assert page.evaluate(published) > 3


def column(page: Page, title: str) -> list[str]:
    number = page.locator("#scores thead th").all_text_contents().index(title) + 1
    return page.locator(f"#scores tbody tr:not([hidden]) > :nth-child({number})").all_text_contents()


def test_sort_and_filter_by_keyboard(page: Page, summary: pd.DataFrame) -> None:
    before = column(page, "images/s")
    head = page.get_by_role("columnheader", name="images/s", exact=True)
    for direction, up in (("ascending", True), ("descending", False)):
        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", direction)
        numbers = [float(re.sub(r" .*|,", "", text)) for text in column(page, "images/s") if text != "–"]
        assert numbers == sorted(numbers, reverse=not up) and len(numbers) == summary["images_per_s_median"].count()
        assert column(page, "images/s")[-3:] == ["–"] * 3  # what was not measured stands last
    page.keyboard.press("Enter")
    assert column(page, "images/s") == before and head.get_attribute("aria-sort") is None
    page.get_by_role("searchbox").fill("cro")
    expect(page.locator("#count")).to_have_text(f"3 of {len(summary)} rows")
    assert column(page, "method") == ["Cropr"] * 3
    (row,) = [i for i, text in enumerate(column(page, "budget")) if text.startswith("0.65")]
    page.get_by_role("searchbox").fill("0.65 cropr")  # of numbers of other kinds too
    assert set(column(page, "method")) == {"Cropr"}
    page.get_by_role("searchbox").fill("cropr")
    page.get_by_role("rowheader", name="Cropr").nth(row).get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#point")).to_contain_text("cropr-0.65-s0, cropr-0.65-s1")


def test_copies_are_what_the_files_say(page: Page, study: Path) -> None:
    folder = study / "report"

    def copied(kind: str) -> str:
        button = page.locator(f"[data-copy={kind}]")
        button.click()
        expect(button).to_have_text("copied")
        return page.evaluate("navigator.clipboard.readText()")

    assert copied("csv") == (folder / "summary.csv").read_text()
    assert copied("markdown").strip() in (folder / "table.md").read_text()
    tex = (folder / "table.tex").read_text()
    lines = copied("latex").splitlines()
    assert all(line in tex for line in lines[1:]) and len(lines) > 10
    page.get_by_role("searchbox").fill("random")
    expect(page.locator("#count")).to_contain_text("3 of ")
    head = page.get_by_role("columnheader", name="top-1, %", exact=True)
    head.get_by_role("button").click()
    frame = pd.read_csv(io.StringIO(copied("csv")))
    assert list(frame["reducer"]) == ["random"] * 3 and frame["top1_percent"].is_monotonic_increasing


def test_on_a_telephone_and_in_the_dark(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    drawn = page.locator("#plot .main-svg").first  # it follows the window a moment later
    expect(drawn).to_have_attribute("height", "340")
    expect(drawn).to_have_attribute("width", re.compile(r"^3\d\d(\.\d+)?$"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    plot, legend = (page.locator(name).first.bounding_box() for name in ("#plot .main-svg", "#legend"))
    assert legend["y"] >= plot["y"] + plot["height"] - 1 and legend["x"] + legend["width"] <= 390
    for scheme in ("light", "dark", "light"):
        page.emulate_media(color_scheme=scheme)
        colors = page.evaluate(COLORS)
        bright = [sum(int(part) for part in re.findall(r"\d+", color)[:3]) for color in colors]
        assert (bright[0] > bright[1]) == (scheme == "dark") and abs(bright[0] - bright[1]) > 400, colors
        expect(page.locator("#plot .xtick text").first).to_have_css("fill", colors[0])  # the plot follows


COLORS = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"


def test_without_a_script_there_are_the_picture_and_the_table(open_page: OpenPage, study: Path) -> None:
    page, said = open_page(study / "report" / "index.html", java_script_enabled=False)
    picture = page.locator("#plot img")
    expect(picture).to_be_visible()
    assert picture.get_attribute("alt").startswith("pareto_accuracy_gmacs: Bars")
    assert picture.bounding_box()["height"] > 200
    assert page.locator("#scores tbody tr").count() == 10 and not page.locator("#tools").is_visible()
    assert not said


def test_print_on_a4(page: Page) -> None:
    data = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[([\d. ]+)\]", data)
    sides = {tuple(round(float(side)) for side in box.split()[2:]) for box in boxes}
    assert data.startswith(b"%PDF") and sides <= {(595, 842), (842, 595)} and (595, 842) in sides
