"""What every run is worth in every resample of the test items, by one metric or by several out of the same files.

Letters: I items, C clusters, R runs, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.records.store import CorruptRecord, read_predictions
from results.statistics import bootstrap
from results.statistics.bootstrap import Population
from results.statistics.metrics.statistic import STATISTICS, Statistic, items_of

__all__ = ["Replicates", "replicate"]


@dataclass(frozen=True)
class Replicates:
    """Accuracy of every run in every resample; row numbers are those of the run frame."""

    population: np.ndarray  # [R] which test items a run saw, -1 where it has no predictions
    observed: np.ndarray  # [R] share of hits, mean IoU or AP, in predictions.npz
    accuracy: np.ndarray  # [R, B] the same in every resample
    num_clusters: dict[int, int]  # of each population
    notes: tuple[str, ...]
    hits: tuple[np.ndarray | None, ...] = ()  # R packed bits of hit items, by item; None where a metric has no hits


def replicate(frames: Sequence[pd.DataFrame], num_comparisons: int) -> list[Replicates]:
    """Reads the predictions of all finished runs, each once, and resamples them, population by population.

    Args:
        frames: of `frames.run_frame`, the same runs by a metric each.
    """
    held = [_Held(runs) for runs in frames]
    finished = (frames[0]["status"] == "done").to_numpy()
    wanted = [finished & runs["metric"].notna().to_numpy() for runs in frames]
    paths = frames[0]["path"].to_numpy()
    for row in np.flatnonzero(np.any(wanted, axis=0)):
        arrays: Any
        try:
            arrays = read_predictions(paths[row])
        except (FileNotFoundError, CorruptRecord) as error:
            arrays = error
        for own, there in zip(held, wanted, strict=True):
            if there[row]:
                own.add(int(row), paths[row], arrays)
    return [own.replicates(num_comparisons) for own in held]


class _Held:
    """Of all runs, what one metric is made of."""

    def __init__(self, runs: pd.DataFrame):
        self.runs = runs
        self.statistic: Statistic = STATISTICS.get(runs["metric_statistic"].iat[0], STATISTICS["mean"])
        self.populations: dict[bytes, tuple[int, Population]] = {}
        self.number = np.full(len(runs), -1)
        self.values: list[Any] = []  # what each run's values are by cluster
        self.hits: list[np.ndarray | None] = [None] * len(runs)
        self.notes: list[str] = []

    def add(self, row: int, path: str, arrays: Any) -> None:
        """`arrays`: of predictions.npz, or why there are none."""
        try:
            if isinstance(arrays, Exception):
                raise arrays
            item, cluster, value = items_of(path, arrays, self.statistic)
        except (FileNotFoundError, KeyError, CorruptRecord) as error:
            name = self.runs["id"].iat[row]
            self.notes.append(f"{name}: no interval, predictions.npz cannot be used ({error}).")
            return
        key = item.tobytes() + cluster.tobytes()
        if key not in self.populations:
            self.populations[key] = len(self.populations), Population.of(cluster)
        self.number[row], population = self.populations[key]
        self.values.append(self.statistic.gather(population, value))
        if self.statistic is STATISTICS["mean"]:
            self.hits[row] = np.packbits(value)

    def replicates(self, num_comparisons: int) -> Replicates:
        resamples = self.statistic.resamples or bootstrap.num_resamples(num_comparisons, len(self.runs))
        observed = np.full(len(self.runs), np.nan)
        accuracy = np.full((len(self.runs), resamples), np.nan)
        row_of_held = self.number[self.number >= 0]
        for which, population in self.populations.values():
            own = [self.values[i] for i in np.flatnonzero(row_of_held == which)]
            rows = self.number == which
            observed[rows], accuracy[rows] = self.statistic.resample(population, own, resamples)
        notes = (*self.notes, *_contradictions(self.runs, observed))
        num_clusters = {which: len(population.sizes) for which, population in self.populations.values()}
        return Replicates(self.number, observed, accuracy, num_clusters, notes, tuple(self.hits))


def _contradictions(runs: pd.DataFrame, observed: np.ndarray) -> list[str]:
    apart = np.abs(runs["metric"].to_numpy(dtype=float) - observed) > 1e-4
    return [
        f"{runs['id'].iat[row]}: its record says {runs['metric'].iat[row]:.2%}, its predictions {observed[row]:.2%}."
        for row in np.flatnonzero(apart)
    ]
