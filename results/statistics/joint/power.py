"""What the spread of a paired difference comes from, and what size of study would see it.

Letters: S seeds, C clusters of test items, B resamples. A seed's difference on a cluster is taken as the true one plus
what the seed, the cluster, and the seed on this cluster add; their variances are told apart as in a two-way analysis of
variance (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from results.statistics.bootstrap import CONFIDENCE

__all__ = ["DETECTABLE", "MAX_SEEDS", "POWER", "Spread", "add_size", "smallest_p"]

POWER = 0.8
MAX_SEEDS = 100  # more of them is no advice
_Z = float(norm.ppf((1 + CONFIDENCE) / 2))
DETECTABLE = 1 + float(norm.ppf(POWER)) / _Z  # a true difference of so many half widths is seen with POWER


def smallest_p(num_seeds: Any) -> Any:
    """The smallest two-sided p of the exact sign-flip test over paired seeds: all of S differences agree in sign."""
    return 2.0 ** (1 - num_seeds)


def add_size(variants: pd.DataFrame) -> None:
    """Puts into the frame what a study of this size can see: `min_p_seeds`, and the true differences to dense and to
    random that it finds with POWER (alpha .05, not corrected), `detectable_points`, `over_random_detectable_points`."""
    variants["min_p_seeds"] = smallest_p(variants["seeds"])
    for prefix, column in (("", "difference"), ("over_random_", "over_random")):
        width = variants[f"{column}_high_points"] - variants[f"{column}_low_points"]
        variants[f"{prefix}detectable_points"] = DETECTABLE * width / 2


@dataclass(frozen=True)
class Spread:
    """Variances of a paired difference, in the square of its unit. `seed`: of seeds, NaN of a single one; `items`: of
    the mean over C clusters, shared by all seeds; `both`: of that mean, each seed's own (0 of a single one, whose is in
    `items`)."""

    num_seeds: int
    num_clusters: int
    seed: float
    items: float
    both: float

    @classmethod
    def of(cls, observed: np.ndarray, resampled: np.ndarray, num_clusters: int) -> Spread:
        """From the difference of each seed, [S], and in every resample of the items, [S, B]."""
        num_seeds, one = len(observed), float(resampled.var(axis=1).mean())
        if num_seeds == 1:
            return cls(1, num_clusters, nan, one, 0.0)
        shared = float(resampled.mean(axis=0).var())  # items + both / S
        both = min(one, max(0.0, (one - shared) * num_seeds / (num_seeds - 1)))
        seed = max(0.0, float(observed.var(ddof=1)) - both)
        return cls(num_seeds, num_clusters, seed, one - both, both)

    def half_width(self, num_seeds: float, num_clusters: float) -> float:
        """Of the interval of `bootstrap.resample_seeds` with so many seeds and clusters: Student's t of the seeds'
        spread, and normal that of items, as independent. NaN with other seeds than the only one there is."""
        if isnan(self.seed):
            seeds = 0.0 if num_seeds == 1 else nan
            return (seeds + _Z**2 * self.items * self.num_clusters / num_clusters) ** 0.5
        seeds, items = self._squares(num_seeds)
        return (seeds + items * self.num_clusters / num_clusters) ** 0.5

    def _squares(self, num_seeds: float) -> tuple[float, float]:
        """Squared half width that no number of items takes away, and the rest of it, of as many clusters as here."""
        heavy = float(t.ppf((1 + CONFIDENCE) / 2, num_seeds - 1)) ** 2
        return heavy * self.seed / num_seeds, _Z**2 * self.items + (heavy + _Z**2) * self.both / num_seeds

    def seeds_for(self, half_width: float) -> int | None:
        """Seeds with which the interval is no wider on these items; None: more than MAX_SEEDS."""
        if isnan(self.seed):
            return None
        enough = (n for n in range(2, MAX_SEEDS + 1) if self.half_width(n, self.num_clusters) <= half_width)
        return next(enough, None)

    def clusters_for(self, half_width: float) -> int | None:
        """Clusters with which the interval is no wider with these seeds; None: no number of them."""
        seeds, items = (0.0, _Z**2 * self.items) if isnan(self.seed) else self._squares(self.num_seeds)
        left = half_width**2 - seeds
        return None if left <= 0 else ceil(items * self.num_clusters / left)
