"""`report A B --agree`: what two records of one study agree on, as Markdown and for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from results.records.store import load_records, write_text
from results.statistics.agreement import ALPHA, Agreement, agreement, read
from results.statistics.analysis import Analysis

__all__ = ["Page", "compare_studies"]


class Page(NamedTuple):
    """What was written, and its text."""

    paths: tuple[Path, ...]
    text: str


def compare_studies(first: Path, second: Path) -> Page:
    """Writes agreement.md and agreement.csv into `report/` of the first. Raises ValueError, OSError."""
    a, b = (read(load_records(directory)) for directory in (first, second))
    found = agreement(a, b)
    text = _text(first, second, a, b, found)
    folder = first / "report"
    folder.mkdir(exist_ok=True)
    paths = (folder / "agreement.md", folder / "agreement.csv")
    write_text(paths[0], text)
    write_text(paths[1], found.differences.to_csv(index=False))
    return Page(paths, text)


def _text(first: Path, second: Path, a: Analysis, b: Analysis, found: Agreement) -> str:
    counts = found.differences["verdict"].value_counts()
    total = len(found.differences)
    agreed = int(counts.get("agree", 0) + counts.get("neither decides", 0))
    lines = [
        "# Do two records of one study agree?", "",
        f"- first: {first.name}, {_made_on(a)}", f"- second: {second.name}, {_made_on(b)}", "",
        f"{agreed} of {total} differences agree ({counts.get('agree', 0)} in sign and significance, "
        f"{counts.get('neither decides', 0)} in that neither decides at p < {ALPHA}, Holm-corrected); "
        f"{counts.get('contradict', 0)} contradict each other; "
        f"{total - agreed - counts.get('contradict', 0)} are significant in one only.", "",
    ]  # fmt: skip
    if not found.same_items:
        lines += ["The two were tested on different items.", ""]
    for which, names in zip(("first", "second"), found.only, strict=True):
        lines += [f"Only in the {which}: {', '.join(names)}.", ""] if names else []
    label = a.variants["metric_label"].iat[0]
    lines += _table(
        [f"variant, {label}", "first, %", "second, %", "seeds", "second − first, points", "p (Holm)", "verdict"],
        [
            [
                row.variant, f"{row.metric_a:.1f}", f"{row.metric_b:.1f}", f"{row.seeds_a}, {row.seeds_b}",
                f"{row.difference_points:+.1f}", "–" if pd.isna(row.p_holm) else f"{row.p_holm:.3f}", row.verdict,
            ]
            for row in found.accuracies.itertuples()
        ],
    )  # fmt: skip
    lines += _table(
        ["difference", "budget", "first, points (p)", "second, points (p)", "verdict"],
        [
            [
                f"{row.first} − {row.second}", "–" if row.budget_asked < 0 else f"{row.budget_asked:g}",
                f"{row.points_a:+.1f} ({row.p_holm_a:.3f})", f"{row.points_b:+.1f} ({row.p_holm_b:.3f})", row.verdict,
            ]
            for row in found.differences.itertuples()
        ],
    )  # fmt: skip
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)] + [""]


def _made_on(study: Analysis) -> str:
    """Machines, commits and versions of the records."""
    said = {"machine": "device_name", "commit": "commit", "torch": "package torch", "Python": "python"}
    found = {word: sorted(set(study.runs[column].dropna())) for word, column in said.items() if column in study.runs}
    return "; ".join(f"{word} {', '.join(map(str, values))}" for word, values in found.items() if values)
