"""The page as a file: it says what the other files say, escapes what it is given, and needs nothing from outside."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from synthetic_records import MARKUP


class Reader(HTMLParser):
    """Tables as rows of texts by the id or the label around them, JSON, and everything that loads something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.scripts = 0
        self._label, self._rows, self._cell, self._data, self._script = "", None, None, False, False
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loads += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "poster")]
        self.scripts += tag == "script"
        self._data = tag == "script" and given.get("id") == "data"
        self._script = tag in ("script", "style")
        if tag == "div" and given.get("role") == "region":
            self._label = given["aria-label"]
        if tag == "table":
            self._rows = self.tables[given.get("id", self._label)] = []
        if tag == "tr" and self._rows is not None:
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None
        self._data = self._script = False

    def handle_data(self, data):
        if self._cell:
            self._rows[-1][-1] += data
        if self._data:
            self.data += data
        elif not self._script:
            self.texts.append(data)


def read(directory: Path) -> Reader:
    return Reader((directory / "report" / "index.html").read_text())


@pytest.fixture(scope="module")
def page(study: Path) -> Reader:
    return read(study)


def unescaped(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [re.sub(r"\\([|*_<`])", r"\1", cell.strip()) for cell in cells]


def test_page_markdown_latex_and_csv_say_the_same(study: Path, page: Reader) -> None:
    folder = study / "report"
    header, *rows = page.tables["scores"]
    lines = [
        line for line in (folder / "table.md").read_text().split("\n\n- ")[0].splitlines() if line.startswith("| ")
    ]
    assert [unescaped(line) for line in lines] == [header, ["---"] * len(header), *rows] and len(rows) == 10
    tex = (folder / "table.tex").read_text()
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")].splitlines()
    cells = [line.removesuffix(r" \\").split(" & ") for line in body if line.endswith(r" \\")]
    plain = {
        r"\%": "%",
        r"$\to$": "→",
        r"$\pm$": "±",
        r"$\times$": "×",
        "$-$": "−",
        "--": "–",
        "$<$": "<",
        "$>$": ">",
        r"\&": "&",
    }
    for written, read_as in plain.items():
        cells = [[cell.replace(written, read_as) for cell in row] for row in cells]
    assert cells == [header, *rows]
    with open(folder / "summary.csv") as file:
        summary = list(csv.DictReader(file))
    at = {title: header.index(title) for title in header}
    for row, given in zip(rows, summary, strict=True):
        assert leading(row[at["top-1, %"]]) == pytest.approx(float(given["top1_percent"]), abs=0.051)
        assert leading(row[at["MMACs (scoring)"]]) == pytest.approx(1000 * float(given["macs_g"]), rel=0.01)
        if given["images_per_s_median"]:
            assert leading(row[at["images/s"]]) == pytest.approx(float(given["images_per_s_median"]), rel=0.01)
        if given["difference_points"]:
            assert leading(row[at["to dense, points (p)"]]) == pytest.approx(
                float(given["difference_points"]), abs=0.051
            )


def leading(text: str) -> float:
    return float(re.match(r"[+-]?[\d.]+", text.replace("−", "-").replace(",", ""))[0])


def test_what_is_plotted_is_what_the_csv_says(study: Path, page: Reader) -> None:
    data = json.loads(page.data)
    text = (study / "report" / "summary.csv").read_text()
    assert data["csv"] == text.splitlines()
    rows = list(csv.DictReader(io.StringIO(text)))
    dense = rows[0]
    number = lambda key, factor=1.0: [factor * float(row[key]) if row[key] else None for row in rows]  # noqa: E731
    costs = {axis["name"]: axis for axis in data["costs"]}
    metric, ends = data["metrics"][0], ("", "_low", "_high")
    for seen, said in (
        (metric["absolute"], [number(f"top1{end}_percent") for end in ends]),
        (costs["macs"]["absolute"], [number("macs_g", 1e3)] * 3),
        (costs["macs"]["relative"], [number("macs_percent_of_dense")] * 3),
        (costs["images_per_s"]["absolute"], [number(f"images_per_s_{end}") for end in ("median", "p5", "p95")]),
        (costs["images_per_s"]["relative"], [number(f"ratio_to_dense_{end}") for end in ("median", "p5", "p95")]),
        (costs["latency_ms"]["relative"][:1], [number("latency_ms_median", 100 / float(dense["latency_ms_median"]))]),
        (costs["memory"]["absolute"], [number("peak_memory_mib")] * 3),
        (costs["tokens"]["absolute"], [[float(np.mean(json.loads(row["tokens"]))) for row in rows]] * 3),
        (
            [axis[1:] for axis in metric["relative"]],
            [number(f"difference{e}_points")[1:] for e in ("", "_low", "_high")],
        ),
    ):
        assert np.array(seen, float) == pytest.approx(np.array(said, float), rel=1e-5, nan_ok=True)
    assert [axis[0] for axis in metric["relative"]] == [0, 0, 0]  # dense minus itself


def test_each_variant_has_its_runs_and_its_command(study: Path, page: Reader) -> None:
    data = json.loads(page.data)
    row = next(
        i for i, line in enumerate(page.tables["scores"][1:]) if line[0] == "Cropr" and line[1].startswith("0.65")
    )
    assert data["runs"][row] == ["cropr-0.65-s0", "cropr-0.65-s1"] and data["seed_names"][row] == ["0", "1"]
    assert data["commands"][row] == "run cropr-0.65-s0 2"
    records = [json.loads((study / "runs" / run / "result.json").read_text()) for run in data["runs"][row]]
    assert data["seeds"][0][row] == pytest.approx([100 * one["metrics"]["final"]["top1"] for one in records], rel=1e-5)


def test_claim_answer_health_failures_and_provenance_are_there(page: Reader) -> None:
    text = " ".join(page.texts)
    for said in (f"pareto claims {MARKUP}", "yes, by 2 points", "Health.", "tome-0.5-s1", "0a1b2c3",
                 f"RuntimeError: last {MARKUP}", "AMD EPYC", "on the same items and seeds", "first line"):  # fmt: skip
        assert (said in text) == (said != "first line"), said


def test_nothing_is_loaded_from_outside(study: Path, page: Reader) -> None:
    assert page.loads and all(url.startswith(("data:", "#")) for url in page.loads)
    text = (study / "report" / "index.html").read_text()
    assert "default-src 'none'" in text and "connect-src" not in text.split("<style>")[0]
    style = (text.split("<style>")[1]).split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert len(text.encode()) < 8e6


def test_names_are_only_text(page: Reader) -> None:
    assert page.scripts == 3  # data, plotly.js, page.js
    text = " ".join(page.texts)
    assert text.count(MARKUP) >= 4 and MARKUP.replace("/", "∕") in text
    assert sum(row[0] == MARKUP for row in page.tables["scores"]) == 3
    assert json.loads(page.data)["curves"].count(MARKUP) == 3


def test_readme_has_a_line_for_each_file(study: Path) -> None:
    folder = study / "report"
    text = (folder / "README.md").read_text()
    files = sorted(path.name for path in folder.iterdir())
    assert len(files) == 21 and [name for name in files if f"`{name}`" not in text] == []
    lines = text.splitlines()[4:]
    assert len(lines) == 15 and all(len(line.split(": ", 1)[1]) >= len("This list.") for line in lines)
