"""Intervals and paired differences by resampling seeds and clusters of test items.

Letters: I items, C clusters (the source digit or image of an item), R runs, B resamples, S seeds of a variant, K
classes of segmentation.

Every run of a study is tested on the same items, so one resample of the clusters serves all runs: accuracies of B
resamples are one matrix product, and the difference of two columns is a paired difference. Seeds and clusters are
crossed: a resample draws seeds, and clusters for all of them alike. With one seed only clusters are drawn.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "CONFIDENCE", "RESAMPLES", "Population", "cluster_weights", "holm", "interval", "mean_iou", "num_resamples",
    "p_value", "resample_accuracy", "resample_mean_iou", "resample_seeds", "smallest_p_over_seeds",
]  # fmt: skip

CONFIDENCE = 0.95
RESAMPLES = 2_000
BLOCK_ENTRIES = 4_000_000  # of a block of cluster weights: 16 MB


@dataclass(frozen=True)
class Population:
    """The test items that some runs share, in the order of their numbers."""

    cluster: np.ndarray  # [I] cluster of each item, 0..C-1
    sizes: np.ndarray  # [C] items of each cluster

    @classmethod
    def of(cls, cluster: np.ndarray) -> "Population":
        """From any integer labels of clusters, [I]."""
        _, index, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
        return cls(index, sizes)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values` [I, ...] over each cluster, [C, ...]."""
        if values.ndim == 1:
            return np.bincount(self.cluster, weights=values, minlength=len(self.sizes))
        sums = np.zeros((len(self.sizes), *values.shape[1:]))
        np.add.at(sums, self.cluster, values)
        return sums


def resample_accuracy(
    hits: np.ndarray, sizes: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, block_entries: int = BLOCK_ENTRIES
) -> np.ndarray:
    """Accuracy of every run in every resample of the clusters.

    Args:
        hits: [C, R] correct items of each cluster, for each run.
        sizes: [C] items of each cluster.
        block_entries: of the matrix of cluster weights that is held at a time.

    Returns:
        [R, B] shares in 0..1.
    """
    num_clusters, num_runs = hits.shape
    columns = np.column_stack([hits, sizes]).astype(np.float32)  # counts: exact in float32 below 2**24
    accuracy = np.empty((num_runs, resamples))
    for start, weights in cluster_weights(num_clusters, resamples, seed, block_entries):
        sums = weights.astype(np.float32) @ columns  # [size, R + 1]
        accuracy[:, start : start + len(sums)] = (sums[:, :-1] / sums[:, -1:].astype(np.float64)).T
    return accuracy


def resample_mean_iou(counts: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Mean IoU of every run in every resample of the clusters, the same resamples as those of `resample_accuracy`.

    Args:
        counts: R arrays [C, 3, K], see `mean_iou`, of each cluster.

    Returns:
        [R, B] shares in 0..1.
    """
    values = np.empty((len(counts), resamples))
    for start, weights in cluster_weights(len(counts[0]), resamples, seed):
        for run, own in enumerate(counts):
            sums = weights.astype(np.float64) @ own.reshape(len(own), -1)  # pixels: beyond what float32 counts exactly
            values[run, start : start + len(sums)] = mean_iou(sums.reshape(-1, *own.shape[1:]))
    return values


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that have a pixel in labels or predictions. `counts` [..., 3, K]: pixels of each class
    that are right, that are labelled so, that are predicted so. -> [...]"""
    right, labelled, predicted = np.moveaxis(counts.astype(np.float64), -2, 0)
    union = labelled + predicted - right
    present = union > 0
    return (right / np.where(present, union, 1)).sum(axis=-1) / present.sum(axis=-1)


def cluster_weights(
    num_clusters: int, resamples: int, seed: int = 0, block_entries: int = BLOCK_ENTRIES
) -> Iterator[tuple[int, np.ndarray]]:
    """(first resample, how often each cluster was drawn [size, C]) of blocks of resamples."""
    rng = np.random.default_rng(seed)
    block = max(1, block_entries // num_clusters)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(num_clusters, size=(size, num_clusters)) + num_clusters * np.arange(size)[:, None]
        yield start, np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters)


def resample_seeds(accuracy: np.ndarray) -> np.ndarray:
    """Mean over S seeds in every resample of the items, and what other seeds would have made of it: [S, B] -> [B].

    To draw from so few seeds would be far too narrow. Instead each resample is moved by a draw of Student's t with
    S - 1 degrees times the standard error of the seeds' mean, s / sqrt(S): where items explain nothing, the interval is
    the t interval of the seeds. The weights of the seeds depend on S and B alone, so that variants with the same seeds
    stay paired: the difference of two means is the mean of the differences."""
    num_seeds, resamples = accuracy.shape
    if num_seeds == 1:
        return accuracy[0]
    return accuracy.mean(axis=0) + accuracy.mean(axis=1) @ _seed_weights(num_seeds, resamples)


@functools.cache
def _seed_weights(num_seeds: int, resamples: int) -> np.ndarray:
    """[S, B], each column with a sum of zero."""
    rng = np.random.default_rng(num_seeds)
    normal = rng.standard_normal((num_seeds, resamples))
    scale = np.sqrt(rng.chisquare(num_seeds - 1, resamples) * num_seeds)
    return (normal - normal.mean(axis=0)) / scale


def interval(
    replicates: np.ndarray, confidence: float = CONFIDENCE, method: Any = "linear"
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentile of replicates [..., B], each [...]; `method` as in np.quantile."""
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1, method=method)
    return low, high


def p_value(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of "no difference" from replicates of a difference, [..., B] -> [...]: twice the share on the rarer
    side of zero, zeros counted on both. Never below 2 / (B + 1)."""
    resamples = differences.shape[-1]
    rarer = np.minimum((differences <= 0).sum(axis=-1), (differences >= 0).sum(axis=-1))
    return np.minimum(1.0, 2 * (1 + rarer) / (resamples + 1))


def smallest_p_over_seeds(num_seeds: int, resamples: int) -> float:
    """The smallest p that `p_value` can give of differences that vary between seeds alone. Of one seed it is not known
    how others would differ: 1. Several that agree to the digit leave the floor of `p_value`."""
    return 1.0 if num_seeds < 2 else 2 / (resamples + 1)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction of one family of p values; NaN stays NaN and is not counted (Holm 1979)."""
    p = np.asarray(p, dtype=float)
    corrected = np.full_like(p, np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def num_resamples(num_comparisons: int, num_runs: int) -> int:
    """Resamples with which a corrected p can still fall to about 0.025 (its floor is comparisons × 2 / (B + 1)), as
    long as a row of replicates for each run stays below 160 MB in all."""
    return max(RESAMPLES, min(80 * num_comparisons, 20_000_000 // max(1, num_runs)))
