"""What is said of corrupted test items: accuracy under each corruption, and its differences at equal cost."""

from __future__ import annotations

from typing import Any

import pandas as pd

from results.figures.numbers import NOTHING, fixed, p_text, signed
from results.html.content import Grid
from results.pages.tables import budget
from results.statistics.insight.robustness import headline

__all__ = ["robustness_grid"]


def robustness_grid(robustness: pd.DataFrame, metric: str) -> Grid:
    """A row per variant of `insight.robustness.robustness_frame`."""
    names = list(dict.fromkeys(robustness["corruption"]))
    what = headline(robustness)
    header = ["method", "budget", *names]
    header += [f"{what}: {to}, points [95 %] (p)" for to in ("to dense", "to random") if what]
    rows = []
    for _, own in robustness.groupby(["study", "variant", "curve"], sort=False):
        by_name = {row.corruption: row for row in own.itertuples()}
        first, last = next(iter(by_name.values())), by_name.get(what)
        cells = [_share(by_name.get(name)) for name in names]
        if what:
            cells += [_apart(last, "difference", "p_holm"), _apart(last, "over_random", "over_random_p_holm")]
        rows.append([first.curve, budget(first), *cells])
    each = robustness.drop_duplicates("corruption")
    what_they_are = "; ".join(f"{row.corruption}: {row.said}" for row in each.itertuples())
    said = (
        f"The same models on the same test items, corrupted. {what_they_are}. Severities are this study's own, so that "
        "the figures are no mCE. ± is half the width of the 95 % interval; differences are paired, to the dense model "
        "and to random pruning at the same counts under the same corruption, in the resamples of the metric itself. "
        "Differences under each corruption are in robustness.csv."
    )
    return Grid(f"Under corruptions: {metric}, %", header, rows, said)


def _share(row: Any) -> str:
    if row is None:
        return NOTHING
    half = "" if pd.isna(row.low_percent) else f" ± {(row.high_percent - row.low_percent) / 2:.1f}"
    return fixed(row.percent, 1) + half


def _apart(row: Any, name: str, p: str) -> str:
    points, low, high = (getattr(row, f"{name}{end}_points", float("nan")) for end in ("", "_low", "_high"))
    if pd.isna(points):
        return NOTHING
    return f"{signed(points)} [{signed(low)}, {signed(high)}] ({p_text(getattr(row, p))})"
