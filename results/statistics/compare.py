"""Intervals of variants and differences between them, on data frames; the statistics are in bootstrap.py.

Letters: I items, C clusters, R runs, V variants, B resamples, K classes of segmentation. Metrics and differences leave
here in percent and points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from results.records.store import CorruptRecord
from results.statistics import bootstrap
from results.statistics.bootstrap import Population
from results.statistics.curves import GROUP
from results.statistics.statistic import STATISTICS, read_values

__all__ = [
    "Replicates", "add_differences_to_dense", "add_differences_to_random", "add_intervals", "differences",
    "largest_families", "pairwise", "replicate", "same_training",
]  # fmt: skip

_POINTS = 100.0  # share to percent, difference of shares to points


@dataclass(frozen=True)
class Replicates:
    """Accuracy of every run in every resample; row numbers are those of the run frame."""

    population: np.ndarray  # [R] which test items a run saw, -1 where it has no predictions
    observed: np.ndarray  # [R] share of hits, mean IoU or AP, in predictions.npz
    accuracy: np.ndarray  # [R, B] the same in every resample
    num_clusters: dict[int, int]  # of each population
    notes: tuple[str, ...]


def replicate(runs: pd.DataFrame, num_comparisons: int) -> Replicates:
    """Reads the predictions of all finished runs and resamples them, population by population."""
    populations: dict[bytes, tuple[int, Population]] = {}
    number = np.full(len(runs), -1)
    held: list[Any] = []  # what each run's values are by cluster
    notes = []
    statistic = STATISTICS.get(runs["metric_statistic"].iat[0], STATISTICS["mean"])
    for row, path in runs.loc[(runs["status"] == "done") & runs["metric"].notna(), "path"].items():
        try:
            item, cluster, value = read_values(path, statistic)
        except (FileNotFoundError, KeyError, CorruptRecord) as error:
            notes.append(f"{runs['id'].iat[row]}: no interval, predictions.npz cannot be used ({error}).")
            continue
        key = item.tobytes() + cluster.tobytes()
        if key not in populations:
            populations[key] = len(populations), Population.of(cluster)
        number[row], population = populations[key]
        held.append(statistic.gather(population, value))
    resamples = statistic.resamples or bootstrap.num_resamples(num_comparisons, len(held))
    observed = np.full(len(runs), np.nan)
    accuracy = np.full((len(runs), resamples), np.nan)
    row_of_held = number[number >= 0]
    for which, population in populations.values():
        own = [held[i] for i in np.flatnonzero(row_of_held == which)]
        observed[number == which], accuracy[number == which] = statistic.resample(population, own, resamples)
    notes += _contradictions(runs, observed)
    num_clusters = {which: len(population.sizes) for which, population in populations.values()}
    return Replicates(number, observed, accuracy, num_clusters, tuple(notes))


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
    `_low` and `_high`, `p` and `p_holm` (one family: all differences to dense of the group)."""
    pairs = []
    for _, group in variants.groupby(GROUP, dropna=False):
        dense = group[group["is_dense"] & (group["status"] == "done")]
        for row in group.index[~group["is_dense"] & (group["status"] == "done")]:
            if len(dense):
                pairs.append((row, same_training(dense, variants.loc[row])))
    frame = differences(pairs, variants, runs, replicates, means).set_index("row").drop(columns="other")
    for column in frame:
        variants[column] = frame[column].reindex(variants.index)
    variants["p_holm"] = variants.groupby(GROUP, dropna=False)["p"].transform(bootstrap.holm)


def add_differences_to_random(
    variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates, means: np.ndarray
) -> None:
    """Puts the difference of every variant that chooses to random pruning at the same counts into the frame:
    `over_random_points` with `_low` and `_high`, `over_random_p` and `_p_holm` (a family of its own); NaN where there
    is none."""
    pairs = []
    for _, group in variants[variants["status"] == "done"].groupby(GROUP, dropna=False):
        chance = group[group["role"] == "random"]
        for row in group.index[group["role"].isin(["method", "control"])]:
            if (twin := _twin(variants.loc[row], chance)) is not None:
                pairs.append((row, twin))
    frame = differences(pairs, variants, runs, replicates, means).set_index("row").drop(columns="other")
    for column in frame:
        variants[f"over_random_{column.removeprefix('difference_')}"] = frame[column].reindex(variants.index)
    groups = variants.groupby(GROUP, dropna=False)
    variants["over_random_p_holm"] = groups["over_random_p"].transform(bootstrap.holm)


def _twin(variant: pd.Series, chance: pd.DataFrame) -> int | None:
    """The row of random pruning that leaves as many tokens at every block as `variant` and does the same with the rest.
    Where nothing is said of the rest (all merge, or an older record) the counts alone decide."""
    same = chance[(chance["tokens"] == variant["tokens"]) & chance["tokens"].notna()]
    alike = same["rest"].isna() | (same["rest"] == variant["rest"]) | pd.isna(variant["rest"])
    same = same[alike]
    return None if same.empty else same_training(same, variant)


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


def same_training(dense: pd.DataFrame, variant: pd.Series) -> int:
    """The dense variant to compare with; where there are several, the one trained as long and at the same rate."""
    alike = 2 * (dense["epochs"] == variant["epochs"]).astype(int) + (dense["lr"] == variant["lr"]).astype(int)
    return alike.idxmax()


def differences(
    pairs: Sequence[tuple[int, int]],
    variants: pd.DataFrame,
    runs: pd.DataFrame,
    replicates: Replicates,
    means: np.ndarray,
) -> pd.DataFrame:
    """One row per pair: the difference row minus other over the seeds both have, on the items both saw; NaN where they
    share none."""
    members = variants["members"].to_list()
    seeds = runs["seed"].to_numpy()
    seeds_of = [tuple(seeds[rows]) for rows in members]
    observed = np.full(len(pairs), np.nan)
    low, high, p = observed.copy(), observed.copy(), observed.copy()
    for i, (row, other) in enumerate(pairs):
        ours, theirs = members[row], members[other]
        if seeds_of[row] != seeds_of[other]:
            ours, theirs = _common_seeds(ours, theirs, seeds)
        saw = set(replicates.population[ours]) | set(replicates.population[theirs])
        if len(saw) != 1 or -1 in saw:
            continue
        observed[i] = (replicates.observed[ours] - replicates.observed[theirs]).mean()
        if len(ours) == len(members[row]) and len(theirs) == len(members[other]):
            resampled = means[row] - means[other]  # the mean is linear: no need to go back to the runs
        else:
            resampled = bootstrap.resample_seeds(replicates.accuracy[ours] - replicates.accuracy[theirs])
        low[i], high[i] = bootstrap.interval(resampled)
        p[i] = bootstrap.p_value(resampled)
    columns = {"difference_points": observed, "difference_low_points": low, "difference_high_points": high}
    frame = pd.DataFrame(pairs, columns=["row", "other"], dtype=int)
    return frame.assign(**{name: _POINTS * values for name, values in columns.items()}, p=p)


def _contradictions(runs: pd.DataFrame, observed: np.ndarray) -> list[str]:
    apart = np.abs(runs["metric"].to_numpy(dtype=float) - observed) > 1e-4
    return [
        f"{runs['id'].iat[row]}: its record says {runs['metric'].iat[row]:.2%}, its predictions {observed[row]:.2%}."
        for row in np.flatnonzero(apart)
    ]


def _common_seeds(ours: np.ndarray, theirs: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, second = np.intersect1d(seeds[ours], seeds[theirs], return_indices=True)
    return ours[first], theirs[second]
