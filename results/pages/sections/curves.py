"""What is said of whole curves: what they dominate, what they cost at a loss, and their differences at equal cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from results.html.content import Grid
from results.pages.tables import NOTHING, number, p_text, signed
from results.statistics.joint.equal_cost import AXES

__all__ = ["curves_grid", "equal_grid"]

_UNITS = {"macs_g": "GMACs", "latency_ms": "ms"}


def curves_grid(curves: pd.DataFrame, costs: pd.DataFrame) -> Grid:
    """A row per curve of `fronts.curve_frame` and `equal_cost.cost_frame`."""
    header = ["method", "hypervolume", "minus random, points [95 %] (p)"]
    at: dict[tuple[Any, ...], Any] = {}
    shown = [axis for axis in AXES if len(costs) and (costs["axis"] == axis).any()]
    for row in costs.itertuples():
        at[row.study, row.curve, row.axis] = row
    if shown:
        loss = costs["loss_points"].iat[0]
        header += [f"{_UNITS[axis]} at dense − {number(loss, 2)} points [95 %], × dense" for axis in shown]
    rows = []
    for row in curves.itertuples():
        cells = [row.curve, _interval(row, "hypervolume"), _interval(row, "over_random_hypervolume", signed)]
        if not pd.isna(row.over_random_hypervolume_p):
            cells[-1] += f" ({p_text(row.over_random_hypervolume_p)})"
        rows.append(cells + [_cost(at.get((row.study, row.curve, axis))) for axis in shown])
    said = (
        "Hypervolume: what a curve dominates in front of the dense model's MACs and a metric of 0: the mean, "
        "over costs up to dense of the best it has for each. Minus random: at the budgets that both have. Cost at a "
        "loss: down to where the curve, the dense model at its end, keeps the metric of the dense model less so many "
        "points; < is what even its cheapest point keeps, and costs are not resampled."
    )
    return Grid("Curves", header, rows, said)


def equal_grid(equal: pd.DataFrame, max_rows: int) -> Grid:
    """Differences of curves at equal cost, at most so many; without rows where there are more."""
    told = equal[equal["note"] == ""] if len(equal) else equal
    told = told if len(told) <= max_rows else told[:0]
    header = ["equal", "method", "minus", "difference, points", "95 % interval", "p", "p (Holm)"]
    rows = [
        [
            f"{AXES[row.axis]}: {number(row.cost)} {_UNITS[row.axis]}", row.method, row.other_method,
            signed(row.difference_points),
            f"[{signed(row.difference_low_points)}, {signed(row.difference_high_points)}]", p_text(row.p),
            p_text(row.p_holm),
        ]
        for row in told.itertuples()
    ]  # fmt: skip
    left_out = equal["note"].value_counts().items() if len(equal) else ()
    why = "; ".join(f"{count} {note}" for note, count in left_out if note)
    said = "Interpolated between the points of each curve (PCHIP) inside every resample, never beyond them"
    return Grid("Between methods at equal cost", header, rows, f"{said}{f': {why}' if why else ''}.")


def _interval(row: Any, name: str, text: Any = number) -> str:
    value, low, high = (getattr(row, f"{name}{end}_points") for end in ("", "_low", "_high"))
    return NOTHING if pd.isna(value) else f"{text(value)} [{text(low)}, {text(high)}]"


def _cost(row: Any) -> str:
    if row is None:
        return NOTHING
    ends = [_at_least(value, row) for value in (row.cost_low, row.cost_high)]
    interval = "" if pd.isna(row.cost_high) else f" [{', '.join(ends)}]"
    return f"{_at_least(row.cost, row)}{interval}, {number(max(row.cost, row.cheapest_cost) / row.dense_cost, 2)}"


def _at_least(value: float, row: Any) -> str:
    return f"< {number(row.cheapest_cost)}" if np.isneginf(value) else number(value)
