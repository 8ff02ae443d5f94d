"""Expected calibration error (ECE) of the top class, and what a reliability diagram shows (Guo et al., ICML 2017, arXiv
1706.04599).

Letters: I items, M bins of equal width, C clusters, B resamples.
"""

from collections.abc import Sequence

import numpy as np

from results.statistics import bootstrap
from results.statistics.bootstrap import Population

__all__ = ["NUM_BINS", "bin_of", "calibration_error", "resample_calibration_error"]

NUM_BINS = 15  # as in the paper
_TOGETHER = 64  # runs in one product: many columns at a time are several times as fast as a few


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Number m of the bin (m / M, (m + 1) / M] that each confidence [I] lies in; 0 lies in the first. -> [I]"""
    # In float64 the product with M is exact for float16 and float32: no confidence slips over an edge.
    return np.clip(np.ceil(confidence.astype(np.float64) * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def calibration_error(hit: np.ndarray, confidence: np.ndarray) -> float:
    """ECE: over bins of equal width, the mean by items of |accuracy - mean confidence|; a share in 0..1.

    Args:
        hit: [I] whether the top class is right.
        confidence: [I] the top softmax probability.
    """
    gaps = hit.astype(np.float64) - confidence.astype(np.float64)
    return float(np.abs(np.bincount(bin_of(confidence), gaps, NUM_BINS)).sum() / len(hit))


def resample_calibration_error(own: Sequence[np.ndarray], population: Population, resamples: int) -> np.ndarray:
    """ECE of every run in every resample of the clusters, the same resamples as those of `resample_accuracy`.

    Args:
        own: of each run [I, 2] hit (1 or 0) and confidence of the items.

    Returns:
        [runs, B] shares in 0..1.
    """
    values = np.empty((len(own), resamples))
    for start, weights in bootstrap.cluster_weights(len(population.sizes), resamples):
        drawn = weights.astype(np.float64)
        items = drawn @ population.sizes
        for first in range(0, len(own), _TOGETHER):
            sums = [_gaps_of(population, *one.T) for one in own[first : first + _TOGETHER]]
            apart = np.abs(drawn @ np.concatenate(sums, axis=1))
            begins = np.cumsum([0, *(bins.shape[1] for bins in sums[:-1])])
            found = np.add.reduceat(apart, begins, axis=1) / items[:, None]
            values[first : first + len(sums), start : start + len(drawn)] = found.T
    return values


def _gaps_of(population: Population, hit: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Sums over each cluster of hit minus confidence, in a column for each bin that has an item: [C, M at most]. The
    ECE of any clusters is the sum over bins of the absolute sums over clusters, by their number of items."""
    bins, size = bin_of(confidence), (len(population.sizes), NUM_BINS)
    gaps = hit.astype(np.float64) - confidence.astype(np.float64)
    sums = np.bincount(population.cluster * NUM_BINS + bins, gaps, size[0] * NUM_BINS).reshape(size)
    return sums[:, np.bincount(bins, minlength=NUM_BINS) > 0]
