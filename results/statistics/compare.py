"""Intervals of variants and differences between them, on data frames; the statistics are in bootstrap.py.

Letters: I items, C clusters, R runs, V variants, B resamples, K classes of segmentation. Metrics and differences leave
here in percent and points.
"""

import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from results.statistics import bootstrap
from results.statistics.curves import GROUP
from results.statistics.metrics.replicates import Replicates

__all__ = [
    "POINTS", "add_differences_to_dense", "add_differences_to_random", "add_intervals", "comparable", "differences",
    "largest_families", "paired", "paired_runs", "pairwise", "same_training", "trained_alike",
]  # fmt: skip

POINTS = 100.0  # share to percent, difference of shares to points
_BLOCK = 4_000_000  # entries of resampled differences held at a time: 32 MB


def largest_families(variants: pd.DataFrame) -> dict[str, int]:
    """How many comparisons the largest Holm family of each kind holds."""
    done = variants[(variants["status"] == "done") & ~variants["is_dense"]]
    group = done.groupby(GROUP, dropna=False).size().max()
    budget = done.groupby([*GROUP, "budget_asked"]).size().max()  # without a budget: in no pair
    group, budget = (0 if pd.isna(size) else int(size) for size in (group, budget))
    return {"to dense": group, "between methods": budget * (budget - 1) // 2}


def add_intervals(variants: pd.DataFrame, replicates: Replicates) -> np.ndarray:
    """Puts `metric_low` and `metric_high` (shares) and the number of `clusters` into the frame; returns the resampled
    means of the variants, [V, B]."""
    means = np.full((len(variants), replicates.accuracy.shape[1]), np.nan)
    for row, members in enumerate(variants["members"]):
        if len(set(replicates.population[members])) == 1:  # seeds tested on different items have no common resample
            means[row] = bootstrap.resample_seeds(replicates.accuracy[members])
    variants["metric_low"], variants["metric_high"] = bootstrap.interval(means)
    variants["clusters"] = [
        replicates.num_clusters.get(replicates.population[rows[0]], np.nan) for rows in variants["members"]
    ]
    return means


def add_differences_to_dense(
    variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates, means: np.ndarray
) -> None:
    """Puts the difference of every variant to the dense model of its group into the frame: `difference_points` with
    `_low` and `_high`, `p` and `p_holm` (one family: all differences to dense of the group), and the row of that model,
    `dense_row` (-1: there is none)."""
    pairs = []
    for _, group in variants.groupby(GROUP, dropna=False):
        dense = group[group["is_dense"] & (group["status"] == "done")]
        for row in group.index[~group["is_dense"] & (group["status"] == "done")]:
            if len(dense):
                pairs.append((row, dense.index[0] if len(dense) == 1 else same_training(dense, variants.loc[row])))
    _add(variants, differences(pairs, variants, runs, replicates, means), "", "dense_row")
    variants["p_holm"] = variants.groupby(GROUP, dropna=False)["p"].transform(bootstrap.holm)


def add_differences_to_random(
    variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates, means: np.ndarray
) -> None:
    """Puts the difference of every variant that chooses to random pruning at the same counts into the frame:
    `over_random_points` with `_low` and `_high`, `over_random_p` and `_p_holm` (a family of its own); NaN where there
    is none; and the row of that pruning, `random_row` (-1: there is none)."""
    pairs = []
    for _, group in variants[variants["status"] == "done"].groupby(GROUP, dropna=False):
        chance = dict(tuple(group[group["role"] == "random"].groupby("tokens")))
        chooses = group[group["role"].isin(["method", "control"]) & group["tokens"].isin(chance)]
        for row, tokens in chooses["tokens"].items():
            if (twin := _twin(variants.loc[row], chance[tokens])) is not None:
                pairs.append((row, twin))
    _add(variants, differences(pairs, variants, runs, replicates, means), "over_random_", "random_row")
    groups = variants.groupby(GROUP, dropna=False)
    variants["over_random_p_holm"] = groups["over_random_p"].transform(bootstrap.holm)


def _add(variants: pd.DataFrame, frame: pd.DataFrame, prefix: str, other: str) -> None:
    """Puts the columns of `differences`, one row for each variant at most, into the frame."""
    frame = frame.set_index("row")
    variants[other] = frame.pop("other").reindex(variants.index, fill_value=-1)
    for column in frame:
        name = f"{prefix}{column.removeprefix('difference_')}" if prefix else column
        variants[name] = frame[column].reindex(variants.index)


def _twin(variant: pd.Series, same: pd.DataFrame) -> int | None:
    """The row of random pruning, of `same` that leave as many tokens at every block, that does the same with the rest,
    trained for the same budget (or not at all). Where nothing is said of the rest (all merge, or an older record) the
    counts alone decide."""
    same = same[same["rest"].isna() | (same["rest"] == variant["rest"]) | pd.isna(variant["rest"])]
    same = same[trained_alike(same, variant)]
    return None if same.empty else same_training(same, variant)


def trained_alike(variants: pd.DataFrame, variant: pd.Series) -> pd.Series:
    """Which `variants` were trained at their own budget where `variant` was, or off the shelf where it is."""
    trained_at = variants["options"].map(lambda options: json.loads(options).get("trained_at", ""))
    return trained_at == json.loads(variant["options"]).get("trained_at", "")


def pairwise(variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates, means: np.ndarray) -> pd.DataFrame:
    """All pairs of methods that were asked for the same budget: names, difference in points (first minus second) with
    its interval, p, and Holm-corrected p (one family: the pairs of one budget)."""
    done = variants[(variants["status"] == "done") & variants["budget_asked"].notna()]
    family = [*GROUP, "budget_asked"]
    pairs = [pair for _, rows in done.groupby(family, dropna=False) for pair in combinations(rows.index, 2)]
    frame = differences(pairs, variants, runs, replicates, means)
    first, second = variants.loc[frame["row"]], variants.loc[frame["other"]]
    identity = first[family].reset_index(drop=True)
    identity["method"], identity["other_method"] = first["curve"].to_numpy(), second["curve"].to_numpy()
    frame = pd.concat([identity, frame.drop(columns=["row", "other"])], axis=1)
    frame["p_holm"] = frame.groupby(family, dropna=False)["p"].transform(bootstrap.holm)
    return frame


def same_training(references: pd.DataFrame, variant: pd.Series) -> int:
    """The row of the variant to compare with, of several: the one trained at its budget or off the shelf as it is
    (the dense model is neither), as long, and at the same rate."""
    alike = 4 * trained_alike(references, variant).astype(int)
    alike += 2 * (references["epochs"] == variant["epochs"]).astype(int)
    alike += (references["lr"] == variant["lr"]).astype(int)
    return alike.idxmax()


def differences(
    pairs: Sequence[tuple[int, int]],
    variants: pd.DataFrame,
    runs: pd.DataFrame,
    replicates: Replicates,
    means: np.ndarray,
) -> pd.DataFrame:
    """One row per pair: the difference row minus other over the seeds both have, on the items both saw, with its
    interval and its p; NaN where they share none."""
    rows, others = np.array(pairs, dtype=int).reshape(-1, 2).T
    members = variants["members"].to_list()
    whole = np.array([replicates.observed[own].mean() for own in members])
    observed = whole[rows] - whole[others]
    tested = comparable(variants, runs, replicates)
    low, high, p = paired(means, rows, others)  # the mean is linear: no need to go back to the runs
    for i in np.flatnonzero((tested[rows] != tested[others]) | (tested[rows] < 0)):
        ours, theirs = paired_runs(rows[i], others[i], variants, runs, replicates)
        if not len(ours):
            observed[i] = np.nan
            continue
        observed[i] = (replicates.observed[ours] - replicates.observed[theirs]).mean()
        resampled = bootstrap.resample_seeds(replicates.accuracy[ours] - replicates.accuracy[theirs])
        (low[i], high[i]), p[i] = bootstrap.interval(resampled), bootstrap.p_value(resampled)
    columns = {"": observed, "_low": low, "_high": high}
    frame = pd.DataFrame({"row": rows, "other": others})
    frame = frame.assign(**{f"difference{end}_points": POINTS * values for end, values in columns.items()}, p=p)
    frame.loc[np.isnan(observed), frame.columns[2:]] = np.nan
    return frame


def paired(values: np.ndarray, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interval and p of the differences between `rows` [n] and `others` [n] of resampled values [V, B], n each; NaN
    where one is."""
    low, high, p = np.full((3, len(rows)), np.nan)
    size = max(1, _BLOCK // values.shape[1])
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        resampled = values[rows[block]] - values[others[block]]
        low[block], high[block] = bootstrap.interval(resampled)
        p[block] = bootstrap.p_value(resampled)
    p[np.isnan(low)] = np.nan
    return low, high, p


def paired_runs(
    row: int, other: int, variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates
) -> tuple[np.ndarray, np.ndarray]:
    """Runs of two variants with the seeds both have, by seed, [S] each; none where they share no seed, or these saw
    different items."""
    ours, theirs = variants["members"].iat[row], variants["members"].iat[other]
    seeds = runs["seed"].to_numpy()
    _, first, second = np.intersect1d(seeds[ours], seeds[theirs], return_indices=True)
    ours, theirs = ours[first], theirs[second]
    if not len(ours) or _only(replicates.population[[*ours, *theirs]]) < 0:
        return ours[:0], theirs[:0]
    return ours, theirs


def comparable(variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates) -> np.ndarray:
    """A number for each variant, [V], the same where seeds and test items are: their resampled means are paired. -1
    where its runs saw different items, or have no predictions."""
    seeds = runs["seed"].to_numpy()
    number: dict[tuple[int, ...], int] = {}
    found = np.full(len(variants), -1)
    for row, own in enumerate(variants["members"]):
        if (population := _only(replicates.population[own])) >= 0:
            found[row] = number.setdefault((population, *seeds[own]), len(number))
    return found


def _only(population: np.ndarray) -> int:
    """The population that all of some runs saw; -1 where they saw different ones, or have no predictions."""
    return int(population[0]) if len(set(population)) == 1 else -1
