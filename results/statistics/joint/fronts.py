"""Which points are on the front, how much of the plane a curve dominates, and how often a run beats another, in every
resample of all of them together.

Letters: n points of one group, V variants, B resamples, S and T seeds. Costs: smaller is better; values: larger is.
"""

import numpy as np
import pandas as pd

from results.statistics import bootstrap
from results.statistics.compare import POINTS, trained_alike
from results.statistics.curves import GROUP
from results.statistics.metrics.replicates import Replicates

__all__ = [
    "REFERENCE", "add_front_probability", "add_improvement", "curve_frame", "front_probability", "hypervolume",
    "improvement",
]  # fmt: skip

REFERENCE = (1.0, 0.0)  # of the hypervolume: the dense model's MACs, a metric of nothing


def front_probability(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of resamples in which no other point beats each, as `curves.pareto_front` has it: [n], [n, B] -> [n]. A
    point without a cost or a value beats none, and has NaN."""
    share = np.full(len(costs), np.nan)
    known = np.flatnonzero(np.isfinite(costs) & np.isfinite(values).all(axis=1))
    if not len(known):
        return share
    known = known[np.argsort(costs[known], kind="stable")]
    _, start, which = np.unique(costs[known], return_index=True, return_inverse=True)
    best = np.maximum.reduceat(values[known], start, axis=0)  # of each cost
    cheaper = np.maximum.accumulate(best, axis=0)  # or as cheap
    nothing = np.full((1, values.shape[1]), -np.inf)
    to_beat = np.concatenate([nothing, cheaper[:-1]])
    for point, place in zip(known, which, strict=True):
        on_front = (values[point] > to_beat[place]) & (values[point] == best[place])
        share[point] = on_front.mean()
    return share


def hypervolume(costs: np.ndarray, values: np.ndarray, reference: tuple[float, float] = REFERENCE) -> np.ndarray:
    """Area that a curve's points dominate in front of `reference` (cost, value): [n], [n, ...] -> [...] (Zitzler and
    Thiele 1998). In front of (1, 0) it is the mean, over costs from 0 to 1, of the best value to be had for each."""
    order = np.argsort(costs, kind="stable")
    order = order[costs[order] < reference[0]]
    best = np.maximum.accumulate(np.maximum(values[order] - reference[1], 0), axis=0)
    widths = np.diff(costs[order], append=reference[0])
    return np.tensordot(widths, best, axes=1)


def improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How often a run of one beats a run of the other on the same resample of items, any seed against any, ties half:
    [S, B], [T, B] -> share (Mann-Whitney; Agarwal et al., NeurIPS 2021, arXiv 2108.13264)."""
    wins = sum(float((own > theirs).mean() + (own >= theirs).mean()) for own in ours)
    return wins / (2 * len(ours))


def add_front_probability(variants: pd.DataFrame, means: np.ndarray) -> None:
    """Puts `p_front` into the frame, over MACs: the share of resamples in which a variant is on the front of its group.
    NaN of what reads the labels, and without predictions. `means`: [V, B]."""
    variants["p_front"] = np.nan
    for _, rows in variants[~variants["no_method"].astype(bool)].groupby(GROUP, dropna=False):
        variants.loc[rows.index, "p_front"] = front_probability(rows["macs_g"].to_numpy(), means[rows.index])


def add_improvement(variants: pd.DataFrame, replicates: Replicates) -> None:
    """Puts `p_beats_dense` and `p_beats_random` into the frame: how often a run of the variant beats one of the dense
    model, or of random pruning at the same counts; NaN where there is none."""
    for reference in ("dense", "random"):
        found = np.full(len(variants), np.nan)
        for row, other in variants.loc[variants[f"{reference}_row"] >= 0, f"{reference}_row"].items():
            ours, theirs = variants["members"][row], variants["members"][other]
            if len(seen := set(replicates.population[[*ours, *theirs]])) == 1 and -1 not in seen:
                found[row] = improvement(replicates.accuracy[ours], replicates.accuracy[theirs])
        variants[f"p_beats_{reference}"] = found


def curve_frame(variants: pd.DataFrame, means: np.ndarray, tested: np.ndarray) -> pd.DataFrame:
    """One row per curve: `hypervolume_points` over MACs with its interval, and its difference to random pruning at the
    budgets that both have, `over_random_hypervolume_points` with `_low`, `_high` and `_p`; NaN where seeds or items are
    not the same. `tested`: of `compare.comparable`."""
    rows = []
    done = variants[(variants["status"] == "done") & ~variants["is_dense"]]
    for group, members in done.groupby(GROUP, dropna=False):
        curves = dict(tuple(members.groupby("curve")))
        chance = [curve for curve in curves.values() if curve["role"].iat[0] == "random"]
        for name, curve in curves.items():
            row = dict(zip(GROUP, group, strict=True)) | {"curve": name, "role": curve["role"].iat[0]}
            row["budgets"] = len(curve)
            row |= _area("hypervolume", *_dominated(curve, means))
            alike = [other for other in chance if trained_alike(other, curve.iloc[0]).all()]
            if row["role"] != "random" and alike:
                row |= _minus(curve, max(alike, key=lambda other: len(_shared(curve, other)[0])), means, tested)
            rows.append(row)
    names = [f"{prefix}hypervolume{end}_points" for prefix in ("", "over_random_") for end in ("", "_low", "_high")]
    columns = [*GROUP, "curve", "role", "budgets", *names, "over_random_hypervolume_p", "over_random_budgets"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _minus(curve: pd.DataFrame, chance: pd.DataFrame, means: np.ndarray, tested: np.ndarray) -> dict[str, float]:
    ours, theirs = _shared(curve, chance)
    alike = set(tested[[*ours.index, *theirs.index]])
    if len(alike) != 1 or -1 in alike:
        return {}
    (own, resampled), (other, others) = _dominated(ours, means), _dominated(theirs, means)
    p = float(bootstrap.p_value(resampled - others))
    area = _area("over_random_hypervolume", own - other, resampled - others)
    return area | {"over_random_hypervolume_p": p, "over_random_budgets": len(ours)}


def _shared(curve: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The variants of two curves at budgets that both were asked for."""
    both = set(curve["budget_asked"].dropna()) & set(other["budget_asked"].dropna())
    return curve[curve["budget_asked"].isin(both)], other[other["budget_asked"].isin(both)]


def _dominated(curve: pd.DataFrame, means: np.ndarray) -> tuple[float, np.ndarray]:
    """Hypervolume as observed, and in every resample."""
    share = (curve["macs_g"] / curve["macs_dense_g"]).to_numpy()
    return float(hypervolume(share, curve["metric"].to_numpy())), hypervolume(share, means[curve.index])


def _area(name: str, observed: float, resampled: np.ndarray) -> dict[str, float]:
    low, high = bootstrap.interval(resampled)
    values = {"": observed, "_low": float(low), "_high": float(high)}
    return {f"{name}{end}_points": POINTS * value for end, value in values.items()}
