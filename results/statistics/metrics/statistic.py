"""How the items of a run make its metric, and how that is resampled: hits, calibration, mean IoU, average precision.

Letters: I items, C clusters, R runs of one population, B resamples, K classes of segmentation, M bins of confidence.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from results.records.store import CorruptRecord, read_predictions
from results.statistics import bootstrap
from results.statistics.bootstrap import Population
from results.statistics.metrics import average_precision, calibration
from results.statistics.metrics.average_precision import AREAS, Matches

__all__ = ["PLACES", "STATISTICS", "Statistic", "items_of", "read_values"]

AP_RESAMPLES, AP_RESAMPLES_OF_SIZE = 1000, 400  # each costs a millisecond
FIGURES = ("minus_kl", "class_cosine", "patch_cosine")  # of items, as their arrays are named
PLACES = ("near_centre", "between", "near_border")  # of the object of an item, by the numbers in the array `place`
KINDS = ("box", "mask")  # of objects, as their arrays are named


class Statistic(NamedTuple):
    """One way from items to a metric."""

    values: Callable[[dict[str, np.ndarray]], Any]  # of the arrays of predictions.npz: [I, ...], or Matches
    gather: Callable[[Population, Any], Any]  # of a run, by cluster
    resample: Callable[[Population, list[Any], int], tuple[Any, Any]]  # of R runs: [R] as observed, [R, B] resampled
    resamples: int | None = None  # B, where it is fixed
    real: bool = False  # values are real numbers, not counts


def read_values(run_dir: str, statistic: Statistic) -> tuple[np.ndarray, np.ndarray, Any]:
    """Items in ascending order, their clusters, and their values: [I], [I], and what `statistic` makes of the arrays.
    Raises FileNotFoundError, CorruptRecord."""
    return items_of(run_dir, read_predictions(run_dir), statistic)


def items_of(run_dir: str, arrays: dict[str, np.ndarray], statistic: Statistic) -> tuple[np.ndarray, np.ndarray, Any]:
    """`read_values` of a file that was read. Raises CorruptRecord."""
    path = f"{run_dir}/predictions.npz"
    try:
        item, cluster, value = arrays["item"], arrays["cluster"], statistic.values(arrays)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CorruptRecord(path, f"without what this task's predictions are ({error})") from None
    if any(array.dtype.kind not in "iu" or array.ndim != 1 for array in (item, cluster)):
        raise CorruptRecord(path, "item or cluster are no integers, or of other dimensions")
    in_order = bool((item[1:] > item[:-1]).all())
    if isinstance(value, Matches):
        if len(item) == 0 or not len(item) == len(cluster) == value.truths.shape[1] or not in_order:
            raise CorruptRecord(path, "empty, of different lengths or not in the order of items")
        return item, cluster, value
    if value.dtype.kind not in ("iubf" if statistic.real else "iub"):
        raise CorruptRecord(path, "values are no integers")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise CorruptRecord(path, "values are not finite")
    if len(item) == 0 or not len(item) == len(cluster) == len(value):
        raise CorruptRecord(path, "empty, or arrays of different lengths")
    if in_order:
        return item, cluster, value
    order = np.argsort(item, kind="stable")
    return item[order], cluster[order], value[order]


def _hits(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Whether each item was hit, [I]."""
    return arrays["prediction"] == arrays["target"]


def _sure(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Hit (1 or 0) and confidence of each item, [I, 2], as small as they are recorded."""
    confidence = arrays["confidence"]
    return np.stack([_hits(arrays).astype(confidence.dtype), confidence], axis=1)


def _hits_at(place: int, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Of each item whether its object is at this place and it was hit, and whether it is there at all, [I, 2]."""
    there = arrays["place"] == place
    return np.stack([_hits(arrays) & there, there], axis=1)


def _found_at(place: int, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Of the objects of each image at this place how many were found, and how many there are, [I, 2]."""
    return arrays["found_by_place"][:, place]


def _mean_of(name: str) -> Statistic:
    """The mean of a figure that each item has, [I]."""
    return Statistic(lambda arrays: arrays[name].astype(np.float64), _sums, _resample_hits, real=True)


def _class_pixels(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Pixels of each class that are right, labelled so and predicted so, [I, 3, K]."""
    confusion = arrays["confusion"]
    return np.stack([confusion.diagonal(axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)], axis=1)


def _sums(population: Population, values: np.ndarray) -> np.ndarray:
    return population.sums(values)


def _resample_hits(population: Population, own: list[np.ndarray], resamples: int) -> tuple[Any, Any]:
    columns = np.column_stack(own)  # [C, R]
    observed = columns.sum(axis=0) / population.sizes.sum()
    return observed, bootstrap.resample_accuracy(columns, population.sizes, resamples)


def _resample_ece(population: Population, own: list[np.ndarray], resamples: int) -> tuple[Any, Any]:
    observed = [calibration.calibration_error(*values.T) for values in own]
    return observed, calibration.resample_calibration_error(own, population, resamples)


def _resample_share(population: Population, own: list[np.ndarray], resamples: int) -> tuple[Any, Any]:
    """Of sums [C, 2], the first over the second."""
    columns = np.concatenate(own, axis=1)  # [C, 2 R]
    observed = np.array([sums[0] / sums[1] if sums[1] else np.nan for sums in (one.sum(axis=0) for one in own)])
    values = np.empty((len(own), resamples))
    for start, weights in bootstrap.cluster_weights(len(population.sizes), resamples):
        sums = (weights.astype(np.float64) @ columns).reshape(len(weights), len(own), 2)
        seen = sums[..., 1]
        values[:, start : start + len(weights)] = (sums[..., 0] / np.where(seen > 0, seen, np.nan)).T
    return observed, values


def _resample_iou(population: Population, own: list[np.ndarray], resamples: int) -> tuple[Any, Any]:
    observed = [bootstrap.mean_iou(counts.sum(axis=0)) for counts in own]
    return observed, bootstrap.resample_mean_iou(own, resamples)


def _resample_ap(population: Population, own: list[Matches], resamples: int, area: str) -> tuple[Any, Any]:
    observed = [average_precision.average_precision(matches, area=area) for matches in own]
    values = np.empty((len(own), resamples))
    for start, weights in bootstrap.cluster_weights(len(population.sizes), resamples):
        of_images = weights[:, population.cluster]  # [size, I]
        for run, matches in enumerate(own):
            found = average_precision.resample_average_precision(matches, of_images, area)
            values[run, start : start + len(found)] = found
    return observed, values


def _average_precision(kind: str, area: str) -> Statistic:
    read = partial(Matches.from_arrays, prefix=f"{kind}_")
    resamples = AP_RESAMPLES if area == "all" else AP_RESAMPLES_OF_SIZE
    return Statistic(read, lambda _, matches: matches, partial(_resample_ap, area=area), resamples)


STATISTICS = {
    "mean": Statistic(_hits, _sums, _resample_hits),
    "ece": Statistic(_sure, lambda _, values: values, _resample_ece, real=True),
    **{f"mean_{name}": Statistic(partial(_hits_at, at), _sums, _resample_share) for at, name in enumerate(PLACES)},
    **{f"recall_{name}": Statistic(partial(_found_at, at), _sums, _resample_share) for at, name in enumerate(PLACES)},
    **{f"mean_{name}": _mean_of(name) for name in FIGURES},
    "mean_iou": Statistic(_class_pixels, _sums, _resample_iou),
    **{f"{kind}_ap": _average_precision(kind, "all") for kind in KINDS},
    **{f"{kind}_ap_{area}": _average_precision(kind, area) for kind in KINDS for area in AREAS[1:]},
}
