"""Differences with their intervals, a row each: drawn by the page without a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from results.figures.numbers import p_text, signed

__all__ = ["Forest", "Row", "forests"]

_ALPHA = 0.05
_FAMILIES = (
    ("minus dense", "difference{}_points", "p_holm"),
    ("minus random at the same counts", "over_random{}_points", "over_random_p_holm"),
)


class Row(NamedTuple):
    """Texts, and places on an axis of 0 to 100."""

    name: str
    text: str
    p: str
    decided: bool
    start: float
    middle: float
    end: float


class Forest(NamedTuple):
    """One family of one metric; `low` and `high` are the ends of its axis, in points."""

    heading: str
    rows: Sequence[Row]
    low: str
    high: str
    zero: float


def forests(summaries: Sequence[pd.DataFrame]) -> list[Forest]:
    """Of each metric the differences to dense and those to random pruning; families without a row are left out."""
    found = []
    for summary in summaries:
        for what, column, p in _FAMILIES:
            low, middle, high = (column.format(end) for end in ("_low", "", "_high"))
            rows = summary[summary[middle].notna()]
            if len(rows):
                ends = rows[[low, high]].fillna(0.0).to_numpy()
                found.append(_forest(f"{summary['metric_label'].iat[0]} {what}", rows, (low, middle, high), p, ends))
    return found


def _forest(heading: str, rows: pd.DataFrame, columns: Sequence[str], p: str, ends: np.ndarray) -> Forest:
    start, end = min(0.0, float(ends.min())), max(0.0, float(ends.max()))
    room = 0.03 * (end - start) or 1.0
    start, end = start - room, end + room

    def place(value: float) -> float:
        return round(100 * (value - start) / (end - start), 2)

    drawn = []
    for _, row in rows.iterrows():
        low, middle, high = (row[column] for column in columns)
        known = pd.notna(low)
        asked = "" if pd.isna(row["budget_asked"]) else f" {row['budget_asked']:g}"
        interval = f" [{signed(low)}, {signed(high)}]" if known else ""
        span = (place(low), place(middle), place(high)) if known else (place(middle),) * 3
        text = signed(middle) + interval
        drawn.append(Row(f"{row['curve']}{asked}", text, p_text(row[p]), bool(row[p] < _ALPHA), *span))
    return Forest(heading, drawn, signed(start), signed(end), place(0.0))
