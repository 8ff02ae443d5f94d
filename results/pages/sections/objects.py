"""What is said of objects: AP by their size, and how many of them keep a token."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from results.figures.numbers import NOTHING, fixed, signed
from results.html.content import Grid
from results.pages.tables import budget
from results.records.schema import Declared

__all__ = ["coverage_grid", "details_grids"]


def details_grids(details: pd.DataFrame, metric: Declared) -> list[Grid]:
    """A table of `metric` and its details, and one of their differences to random pruning, if there is any."""
    names = list(dict.fromkeys(details["metric"]))
    labels = details.drop_duplicates("metric")["label"]
    labels = ["all" if name == metric["name"] else label for name, label in zip(names, labels, strict=True)]
    said = "± is the standard deviation over seeds." if details["sd_points"].notna().any() else ""
    grids = [Grid(f"{metric['label']} in detail, %", *_table(details, names, labels, _mean), said)]
    differ = details[details["over_random_points"].notna()]
    if differ.empty:
        return grids
    labels = [label for name, label in zip(names, labels, strict=True) if name in set(differ["metric"])]
    names = [name for name in names if name in set(differ["metric"])]
    heading = f"{metric['label']}: to random pruning at the same counts, points [95 % interval]"
    return [*grids, Grid(heading, *_table(differ, names, labels, _difference))]


def _table(
    details: pd.DataFrame, names: Sequence[str], labels: Sequence[str], cell: Any
) -> tuple[list[str], list[list[str]]]:
    rows = []
    for _, own in details.groupby(["study", "variant", "curve"], sort=False):
        by_name = {row.metric: row for row in own.itertuples()}
        first = next(iter(by_name.values()))
        rows.append([first.curve, budget(first), *(cell(by_name[n]) if n in by_name else NOTHING for n in names)])
    return ["method", "budget", *labels], rows


def _mean(row: Any) -> str:
    return fixed(row.percent, 1) + ("" if pd.isna(row.sd_points) else f" ± {row.sd_points:.1f}")


def _difference(row: Any) -> str:
    points, low, high = (signed(getattr(row, f"over_random{part}_points")) for part in ("", "_low", "_high"))
    return f"{points} [{low}, {high}]"


def coverage_grid(coverage: pd.DataFrame) -> Grid:
    """Shares of objects with a live token behind the last reduction, by size, and what was missed without one."""
    sizes = list(dict.fromkeys(coverage["size"]))
    rows = []
    for _, own in coverage[coverage["last"]].groupby(["study", "variant", "curve"], sort=False):
        first = own.iloc[0]
        rest = first["objects"] - first["covered"]
        missed = [
            f"{first[f'missed_{which}_token']:,.0f} of {total:,.0f}" + (f" ({share:.0%})" if total else "")
            for which, total in (("without", rest), ("with", first["covered"]))
            for share in [first[f"missed_{which}_token"] / max(total, 1)]
        ]
        shares = [fixed(value, 1) for value in own["covered_percent"]]
        rows.append([first["curve"], budget(first), str(first["block"]), *shares, *missed])
    header = ["method", "budget", "last reduction: block", *(f"{size}, %" for size in sizes)]
    header += ["missed of those without a token", "missed of those with one"]
    said = "Missed: no box of its class overlaps it by half. Sums over seeds; every block and size is in coverage.csv."
    return Grid("Objects with a live token behind the last reduction", header, rows, said)
