"""Expected calibration error (ECE) of the top class, and what a reliability diagram shows (Guo et al., ICML 2017, arXiv
1706.04599).

Letters: I items, M bins of equal width, C clusters, B resamples.
"""

from collections.abc import Sequence

import numpy as np

from results.statistics import bootstrap

__all__ = ["NUM_BINS", "bin_of", "calibration_error", "gaps", "resample_calibration_error"]

NUM_BINS = 15  # as in the paper


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Number m of the bin (m / M, (m + 1) / M] that each confidence [I] lies in; 0 lies in the first. -> [I]"""
    # In float64 the product with M is exact for float16 and float32: no confidence slips over an edge.
    return np.clip(np.ceil(confidence.astype(np.float64) * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def gaps(hit: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Hit (1 or 0) minus confidence of each item, in the column of its bin, 0 in the others: [I], [I] -> [I, M]. The
    ECE of any items is the sum over bins of the absolute sums over items, by their number."""
    values = np.zeros((len(hit), NUM_BINS))
    values[np.arange(len(hit)), bin_of(confidence)] = hit.astype(np.float64) - confidence.astype(np.float64)
    return values


def calibration_error(hit: np.ndarray, confidence: np.ndarray) -> float:
    """ECE: over bins of equal width, the mean by items of |accuracy - mean confidence|; a share in 0..1.

    Args:
        hit: [I] whether the top class is right.
        confidence: [I] the top softmax probability.
    """
    return float(np.abs(gaps(hit, confidence).sum(axis=0)).sum() / len(hit))


def resample_calibration_error(sums: Sequence[np.ndarray], sizes: np.ndarray, resamples: int) -> np.ndarray:
    """ECE of every run in every resample of the clusters, the same resamples as those of `resample_accuracy`.

    Args:
        sums: of each run [C, M] the sums of `gaps` over each cluster.
        sizes: [C] items of each cluster.

    Returns:
        [runs, B] shares in 0..1.
    """
    values = np.empty((len(sums), resamples))
    for start, weights in bootstrap.cluster_weights(len(sizes), resamples):
        drawn = weights.astype(np.float64)
        items = drawn @ sizes
        for run, own in enumerate(sums):
            values[run, start : start + len(drawn)] = np.abs(drawn @ own).sum(axis=1) / items
    return values
