"""What curves are worth at the same cost, and what they cost at the same worth: by monotone interpolation inside every
resample, never beyond the points of a curve.

A curve's points are its variants that cost less than the dense model, and the dense model itself, which is what every
reducer is at no reduction. Values between them are those of monotone cubic Hermite interpolation (PCHIP: Fritsch and
Butland 1984), which adds no extremes of its own. Costs are taken as they were measured: they are not resampled.

Letters: n points of a curve, T costs to compare at, B resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from results.statistics import bootstrap
from results.statistics.analysis import Analysis
from results.statistics.compare import POINTS, comparable, paired
from results.statistics.curves import GROUP

__all__ = ["AXES", "NOT_BRACKETED", "at_cost", "cost_at", "cost_frame", "equal_frame", "measured"]

AXES = {"macs_g": "MACs", "latency_ms": "latency"}  # columns of costs, and what they are called
NOT_BRACKETED = "not bracketed"
_SAME = "other seeds or test items, or no predictions"
_FAMILY = [*GROUP, "axis", "cost"]


def at_cost(costs: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values at the `wanted` costs [T] by interpolation between points [n] with values [n, ...]: [T, ...]; NaN outside
    of them. Points of the same cost count as their mean."""
    unique, which = np.unique(costs, return_inverse=True)
    if len(unique) < 2:
        return np.full((len(wanted), *values.shape[1:]), np.nan)
    sums = np.zeros((len(unique), *values.shape[1:]))
    np.add.at(sums, which, values)
    counts = np.bincount(which).reshape(-1, *[1] * (values.ndim - 1))
    for end in unique[[0, -1]]:
        wanted = np.where(np.isclose(wanted, end, rtol=1e-9, atol=0), end, wanted)  # else rounding takes it outside
    return PchipInterpolator(unique, sums / counts, extrapolate=False)(wanted)


def cost_at(costs: np.ndarray, values: np.ndarray, wanted: Any) -> np.ndarray:
    """The cost down to which a curve keeps `wanted` [...]: between its points [n], with values [n, ...], linear, each
    taken for no better than any that costs more. Infinite where the costliest point does not reach it, and minus
    infinity where the cheapest one still does."""
    order = np.argsort(-costs, kind="stable")
    costs, kept = costs[order], np.minimum.accumulate(values[order], axis=0)
    below = kept < wanted
    first = np.argmax(below, axis=0)  # the costliest point that falls short
    last = np.maximum(first - 1, 0)
    worse = np.take_along_axis(kept, first[None], axis=0)[0]
    better = np.take_along_axis(kept, last[None], axis=0)[0]
    share = (wanted - worse) / np.where(better > worse, better - worse, 1)
    found = costs[first] + share * (costs[last] - costs[first])
    return np.where(below[0], np.inf, np.where(below[-1], found, -np.inf))


def measured(variants: pd.DataFrame, speeds: pd.DataFrame) -> dict[str, np.ndarray]:
    """Costs of every variant on each of AXES, [V]; NaN where it was not measured in the timing that is shown."""
    latency = np.full(len(variants), np.nan)
    if len(speeds):
        shown = speeds[speeds["shown"] & ~speeds["ratio_only"]].set_index(["study", "variant"])["latency_ms_median"]
        keys = pd.MultiIndex.from_frame(variants[["study", "variant"]])
        latency = shown[~shown.index.duplicated()].reindex(keys).to_numpy()
    return {"macs_g": variants["macs_g"].to_numpy(), "latency_ms": latency}


@dataclass(frozen=True)
class _Curve:
    """Points of a curve, the dense model among them, and the rows of its variants."""

    group: tuple[Any, ...]
    name: str
    role: str
    costs: np.ndarray  # [n]
    rows: np.ndarray  # [n] of the variant frame
    tested: int  # see compare.comparable, -1 where points are not alike
    dense: int  # row of the dense model


def equal_frame(found: Analysis, costs: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per axis, cost and pair of curves: `difference_points` (method minus other_method) with `_low`, `_high`,
    `p` and `p_holm` (one family: the pairs at one cost), or a `note` that says why there is none. Costs are the asked
    budgets in MACs, and on the other axes the median over methods of what was measured at each asked budget."""
    frames = []
    for axis, cost in costs.items():
        curves = list(_curves(found, cost))
        for group in dict.fromkeys(curve.group for curve in curves):
            own = [curve for curve in curves if curve.group == group]
            wanted = _wanted(found.variants, own, axis, cost)
            if len(own) > 1 and len(wanted):
                frames.append(_pairs(found, own, wanted).assign(**dict(zip(GROUP, group, strict=True)), axis=axis))
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames, ignore_index=True)
    frame["p_holm"] = frame.groupby(_FAMILY, dropna=False)["p"].transform(bootstrap.holm)
    return frame[[*_FAMILY, *(column for column in frame if column not in _FAMILY)]]


def cost_frame(found: Analysis, costs: dict[str, np.ndarray], loss_points: float) -> pd.DataFrame:
    """One row per axis and curve: the `cost` down to which it loses no more than `loss_points` to the dense model of
    the same resample, with its interval, and `dense_cost`. Minus infinity: even its cheapest point does not."""
    rows = []
    for axis, cost in costs.items():
        for curve in _curves(found, cost):
            row = dict(zip(GROUP, curve.group, strict=True)) | {"axis": axis, "curve": curve.name, "role": curve.role}
            row |= {"loss_points": loss_points, "dense_cost": cost[curve.dense], "cheapest_cost": curve.costs.min()}
            metric = found.variants["metric"].to_numpy()
            wanted = metric[curve.dense] - loss_points / POINTS
            row["cost"] = float(cost_at(curve.costs, metric[curve.rows], wanted))
            row["cost_low"] = row["cost_high"] = np.nan
            if curve.tested >= 0:
                wanted = found.means[curve.dense] - loss_points / POINTS
                resampled = cost_at(curve.costs, found.means[curve.rows], wanted)
                row["cost_low"], row["cost_high"] = bootstrap.interval(resampled, method="inverted_cdf")
            rows.append(row)
    return pd.DataFrame(rows)


def _curves(found: Analysis, cost: np.ndarray) -> Iterator[_Curve]:
    done = found.variants[(found.variants["status"] == "done") & (found.variants["dense_row"] >= 0)]
    tested = comparable(found.variants, found.runs, found.replicates)
    for (*group, name), members in done.groupby([*GROUP, "curve"], dropna=False):
        dense = int(members["dense_row"].iat[0])
        rows = members.index[cost[members.index] < cost[dense]].to_numpy()
        if len(rows):
            points = np.append(rows, dense)
            alike = set(tested[points])
            number = alike.pop() if len(alike) == 1 else -1
            yield _Curve(tuple(group), str(name), members["role"].iat[0], cost[points], points, number, dense)


def _wanted(variants: pd.DataFrame, curves: list[_Curve], axis: str, cost: np.ndarray) -> np.ndarray:
    """Costs to compare at, the largest first."""
    rows = np.concatenate([curve.rows[:-1] for curve in curves])
    asked = variants["budget_asked"].to_numpy()[rows]
    if axis == "macs_g":
        return cost[curves[0].dense] * np.unique(asked[np.isfinite(asked)])[::-1]
    return pd.Series(cost[rows]).groupby(asked).median().to_numpy()[::-1]


def _pairs(found: Analysis, curves: list[_Curve], wanted: np.ndarray) -> pd.DataFrame:
    metric = found.variants["metric"].to_numpy()
    observed = np.array([at_cost(curve.costs, metric[curve.rows], wanted) for curve in curves])  # [curves, T]
    resampled = np.array([at_cost(curve.costs, found.means[curve.rows], wanted) for curve in curves])
    first, second = np.triu_indices(len(curves), 1)
    tested = np.array([curve.tested for curve in curves])
    names = np.array([curve.name for curve in curves], dtype=object)
    alike = (tested[first] == tested[second]) & (tested[first] >= 0)
    frames = []
    for number, cost in enumerate(wanted):
        gaps = observed[first, number] - observed[second, number]
        values = np.stack([gaps, *paired(resampled[:, number], first, second)])  # [4, pairs]
        values = np.where(alike & ~np.isnan(gaps), values, np.nan)
        note = np.where(np.isnan(gaps), NOT_BRACKETED, np.where(alike, "", _SAME))
        columns = {"cost": cost, "method": names[first], "other_method": names[second]}
        for end, row in zip(("", "_low", "_high"), values, strict=False):
            columns[f"difference{end}_points"] = POINTS * row
        frames.append(pd.DataFrame(columns | {"p": values[3], "note": note}))
    return pd.concat(frames, ignore_index=True)
