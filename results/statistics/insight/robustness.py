"""Accuracy under corruptions of the test items, from corrupted.npz of runs (see studies/robustness/score.py): the same
models at the same cost, in the same resamples of items and seeds as the metric itself.

Letters: I items, R runs, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.records.store import CorruptRecord, read_predictions
from results.statistics import bootstrap
from results.statistics.analysis import Analysis, compared
from results.statistics.bootstrap import Population
from results.statistics.compare import POINTS
from results.statistics.metrics.replicates import Replicates

__all__ = ["MEAN", "add_robustness", "headline", "robustness_frame"]

MEAN = "mean"  # over those corruptions that all runs with any were scored under
MAX_RUNS = 1000  # whose files are read
_UNDER, _SAID = "under_", "said_"
_VARIANT = ["study", "curve", "variant", "status", "role", "budget_asked", "budget_reached", "floor", "seeds"]
_SHOWN = [f"{what}{end}_points" for what in ("difference", "over_random") for end in ("", "_low", "_high")]


@dataclass(frozen=True)
class _Scored:
    """Of one run."""

    population: int
    hits: dict[str, np.ndarray]  # by corruption: [I] bool
    said: dict[str, str]


def robustness_frame(found: Analysis) -> pd.DataFrame:
    """One row per corruption, and MEAN where there are several, of every finished variant all of whose runs were scored
    under it: `percent` right with `_low` and `_high`, the paired differences `difference_points` to the dense model and
    `over_random_points` to random pruning at the same counts under the same corruption, each with `_low`, `_high` and
    Holm-corrected p, and what the corruption is, `said`. Without rows where no run was scored, or there are too many
    runs."""
    runs = found.runs
    populations: dict[bytes, tuple[int, Population]] = {}
    scored: dict[int, _Scored] = {}
    if len(runs) <= MAX_RUNS:
        for row in np.flatnonzero(runs["status"] == "done"):
            if own := _read(runs["path"].iat[row], populations):
                scored[int(row)] = own
    if not scored:
        return pd.DataFrame()
    names = list(dict.fromkeys(name for own in scored.values() for name in own.hits))
    shared = [name for name in names if all(name in own.hits for own in scored.values())]
    by_name = {name: _replicates(found, scored, populations, name) for name in names}
    if len(shared) > 1:
        by_name[MEAN] = _mean([by_name[name] for name in shared])
    said = {name: own.said[name] for own in scored.values() for name in own.hits}
    said[MEAN] = f"the mean of {', '.join(shared)}"
    frames = [_rows(found, replicates).assign(corruption=name, said=said[name]) for name, replicates in by_name.items()]
    return pd.concat(frames, ignore_index=True)


def add_robustness(variants: pd.DataFrame, robustness: pd.DataFrame) -> None:
    """Puts accuracy under each corruption and of the headline into the frame of variants, `under_NAME_percent` and
    `corrupted_percent`; of the headline also its interval and differences. No columns where
    there are no rows."""
    if robustness.empty:
        return
    keys = pd.MultiIndex.from_frame(variants[["study", "curve", "variant", "status"]])
    shown = headline(robustness)
    for name, own in robustness.groupby("corruption", sort=False):
        own = own.set_index(["study", "curve", "variant", "status"]).reindex(keys)
        if name != MEAN:
            variants[f"{_UNDER}{name}_percent"] = own["percent"].to_numpy()
        if name == shown:
            for column in ("percent", "low_percent", "high_percent", *_SHOWN):
                variants[f"corrupted_{column}"] = own[column].to_numpy()


def headline(robustness: pd.DataFrame) -> str:
    """What stands for all corruptions: MEAN, or the only one; empty where runs were scored under different ones."""
    names = set(robustness["corruption"])
    return MEAN if MEAN in names else names.pop() if len(names) == 1 else ""


def _read(run_dir: str, populations: dict[bytes, tuple[int, Population]]) -> _Scored | None:
    """None where a run was not scored, or its file cannot be used."""
    try:
        arrays = read_predictions(run_dir, "corrupted.npz")
        item, cluster, target = (arrays[key] for key in ("item", "cluster", "target"))
        names = [key.removeprefix(_UNDER) for key in arrays if key.startswith(_UNDER)]
        hits = {name: arrays[_UNDER + name] == target for name in names}
        said = {name: str(arrays[_SAID + name]) for name in names}
    except (FileNotFoundError, CorruptRecord, KeyError):
        return None
    if not hits or any(own.shape != item.shape for own in (cluster, *hits.values())) or not len(item):
        return None
    key = item.tobytes() + cluster.tobytes()
    number, _ = populations.setdefault(key, (len(populations), Population.of(cluster)))
    return _Scored(number, hits, said)


def _replicates(found: Analysis, scored: dict[int, _Scored], populations: Any, name: str) -> Replicates:
    """Of one corruption, in the resamples of the metric."""
    num_runs, resamples = found.replicates.accuracy.shape
    number, observed = np.full(num_runs, -1), np.full(num_runs, np.nan)
    accuracy = np.full((num_runs, resamples), np.nan)
    for which, population in populations.values():
        rows = [row for row, own in scored.items() if own.population == which and name in own.hits]
        if rows:
            hits = np.column_stack([population.sums(scored[row].hits[name]) for row in rows])
            number[rows], observed[rows] = which, hits.sum(axis=0) / population.sizes.sum()
            accuracy[rows] = bootstrap.resample_accuracy(hits, population.sizes, resamples)
    clusters = {which: len(population.sizes) for which, population in populations.values()}
    return Replicates(number, observed, accuracy, clusters, ())


def _mean(own: list[Replicates]) -> Replicates:
    """Of corruptions that the same runs were scored under: means in every resample."""
    observed = np.mean([one.observed for one in own], axis=0)
    accuracy = np.mean([one.accuracy for one in own], axis=0)
    return Replicates(own[0].population, observed, accuracy, own[0].num_clusters, ())


def _rows(found: Analysis, replicates: Replicates) -> pd.DataFrame:
    runs = found.runs.assign(metric=replicates.observed, metric_statistic=MEAN)
    variants = compared(runs, replicates)
    whole = [bool((replicates.population[members] >= 0).all()) for members in variants["members"]]
    rows = variants[(variants["status"] == "done") & np.array(whole)]
    shares = {
        f"{end}percent": POINTS * rows[f"metric{of}"] for end, of in (("", ""), ("low_", "_low"), ("high_", "_high"))
    }
    return rows[[*_VARIANT, *_SHOWN, "p_holm", "over_random_p_holm"]].assign(**shares)
