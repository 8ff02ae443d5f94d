"""COCO's average precision of detection and instance segmentation, from matches that are found once and then weighted
by image: a resample of the images needs no new matching.

Letters: I images, C classes, T IoU thresholds (.5 to .95 in steps of .05), D detections of all images and classes, A
ranges of object area, R resamples, B resamples at a time, N detections of one class.

An image of weight k counts as k copies of it would. AP is the same then, not just close to it: within the copies of a
true positive precision rises, so that the largest precision to the right is that at their end, and within those of a
false positive it falls.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["AREAS", "IOU_THRESHOLDS", "Matches", "average_precision", "average_recall", "resample_average_precision"]

AREAS = ("all", "small", "medium", "large")  # below 32² pixels, from there to 96², above
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)  # at which precision is sampled
BOXES = "box_"  # before the names of their arrays
_OF_DETECTIONS = ("image", "category", "score", "truths")  # boxes and masks share them
BLOCK_ENTRIES = 120_000  # of a block of cumulative sums: 1 MB, which stays in a processor's cache


@dataclass(frozen=True)
class Matches:
    """Which detections match a ground truth, of one run and one kind of overlap (boxes or masks).

    Detections stand in COCOeval's order: by class, then image, then falling score, at most 100 of a class and image.
    Those of equal score are ranked in this order. An ignored detection counts neither as right nor as wrong: it
    matches an ignored ground truth (a crowd, or one outside the range of areas), or it matches none and is itself
    outside the range.
    """

    image: np.ndarray  # [D] 0..I-1
    category: np.ndarray  # [D] 0..C-1
    score: np.ndarray  # [D]
    matched: np.ndarray  # [A, T, D] bool
    ignored: np.ndarray  # [A, T, D] bool
    truths: np.ndarray  # [A, I, C] ground truths that are not ignored

    def to_arrays(self, prefix: str = "", beside: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The arrays by name, each name after `prefix`, as np.savez takes them; those of bools as bits [D, A T / 8], of
        which a file is a third as large. Left out is what `beside`, the boxes of the same detections, has alike."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        if beside is not None:
            alike = [name for name in _OF_DETECTIONS if np.array_equal(arrays[name], beside[BOXES + name])]
            arrays = {name: array for name, array in arrays.items() if name not in alike}
        packed = {name: _packed(array) if array.dtype == bool else array for name, array in arrays.items()}
        return {prefix + name: array for name, array in packed.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> "Matches":
        """From what `to_arrays` gave, or older records that have bools; further arrays may stand beside it. KeyError
        where one is missing, ValueError where bits are too few."""
        names = {field.name: prefix + field.name for field in fields(cls)}
        own = {
            name: arrays[BOXES + name if name in _OF_DETECTIONS and full not in arrays else full]
            for name, full in names.items()
        }
        return cls(**{name: _unpacked(array) if array.dtype == np.uint8 else array for name, array in own.items()})


def _packed(flags: np.ndarray) -> np.ndarray:
    """[A, T, D] bool -> [D, A T / 8] uint8: what belongs to a detection stands together, where few patterns repeat."""
    return np.packbits(flags.reshape(len(AREAS) * len(IOU_THRESHOLDS), -1), axis=0).T


def _unpacked(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits.T, axis=0).reshape(len(AREAS), len(IOU_THRESHOLDS), len(bits)).astype(bool)


def average_precision(
    matches: Matches, weights: np.ndarray | None = None, area: str = "all", thresholds: slice = slice(None)
) -> float:
    """AP of one weighting of the images, see `resample_average_precision`.

    Args:
        weights: [I], or None for ones: then what COCOeval reports.
    """
    return float(resample_average_precision(matches, _weights(matches, weights)[None], area, thresholds)[0])


def resample_average_precision(
    matches: Matches,
    weights: np.ndarray,
    area: str = "all",
    thresholds: slice = slice(None),
    block_entries: int = BLOCK_ENTRIES,
) -> np.ndarray:
    """COCO's AP in every resample of the images (Lin et al., ECCV 2014, arXiv 1405.0312; pycocotools' COCOeval).

    For each class and IoU threshold the detections of all images are ranked by score. Precision, made to fall with
    recall (the largest value to the right), is sampled at 101 recalls, and is 0 at those that are never reached. AP is
    the mean over recalls, thresholds and the classes that have a ground truth of positive weight.

    Args:
        weights: [R, I] how often each image was drawn. Other weights from 0 up are taken too, but rounding of their
            sums can then decide whether a recall is reached.
        area: one of `AREAS`, ValueError otherwise.
        thresholds: of the T: slice(0, 1) gives AP50, slice(5, 6) AP75.
        block_entries: of the cumulative sums that are held at a time.

    Returns:
        [R] shares in 0..1; NaN where no class has a ground truth of positive weight, COCOeval's -1.
    """
    index = AREAS.index(area)
    weights = np.asarray(weights, dtype=np.float64)
    truths = weights @ matches.truths[index]  # [R, C]
    sums = np.zeros(len(weights))
    for label, detections in enumerate(_ranked(matches)):
        detections = detections[~matches.ignored[index, thresholds][:, detections].all(axis=0)]
        counted = ~matches.ignored[index, thresholds][:, detections]  # [T, N]
        right = matches.matched[index, thresholds][:, detections] & counted
        image = matches.image[detections]
        block = max(1, block_entries // max(1, len(detections)))
        for start in range(0, len(weights), block):
            rows = slice(start, start + block)
            sums[rows] += _class_precision(weights[rows, image], right, counted, truths[rows, label])
    num_classes = (truths > 0).sum(axis=1)
    return np.where(num_classes > 0, sums / np.maximum(num_classes, 1), np.nan)


def average_recall(matches: Matches, weights: np.ndarray | None = None, area: str = "all") -> float:
    """COCO's AR at 100 detections of a class and image: the share of ground truths that are found, mean over IoU
    thresholds and the classes that have a ground truth of positive weight.

    Args:
        weights: [I], or None for ones.
        area: one of `AREAS`, ValueError otherwise.

    Returns:
        Share in 0..1; NaN where no class has a ground truth of positive weight.
    """
    index = AREAS.index(area)
    weights = _weights(matches, weights)
    truths = weights @ matches.truths[index]  # [C]
    present = truths > 0
    if not present.any():
        return float("nan")
    right = matches.matched[index] & ~matches.ignored[index]
    of_class = matches.category[:, None] == np.flatnonzero(present)  # [D, classes present]
    found = (right * weights[matches.image]) @ of_class.astype(np.float64)
    return float((found / truths[present]).mean())


def _weights(matches: Matches, weights: np.ndarray | None) -> np.ndarray:
    if weights is None:
        return np.ones(matches.truths.shape[1])
    return np.asarray(weights, dtype=np.float64)


def _ranked(matches: Matches) -> Iterator[np.ndarray]:
    """Numbers of the detections of each class by falling score, equal scores in the order of the arrays."""
    order = np.argsort(-matches.score, kind="stable")
    category = matches.category[order]
    for label in range(matches.truths.shape[2]):
        yield order[category == label]


def _class_precision(weights: np.ndarray, right: np.ndarray, counted: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """AP of one class; 0 where its ground truths weigh nothing, as then no true positive does.

    Args:
        weights: [B, N] of the detections' images, by falling score.
        right: [T, N] true positives.
        counted: [T, N] true and false positives.
        truths: [B] weight of the ground truths.

    Returns:
        [B] mean over thresholds and recalls.
    """
    total, seen, of = np.zeros(len(weights)), weights, None
    for hits, judged in zip(right, counted, strict=True):
        if of is None or (judged != of).any():
            of, seen = judged, np.cumsum(weights * judged, axis=1)
        places = np.flatnonzero(hits)  # precision only rises there, so that the largest to the right is at one of them
        found = np.cumsum(weights[:, places], axis=1)  # [B, true positives]
        precision = np.zeros((len(weights), len(places) + 1))  # the last stays 0: recalls that are not reached
        # As COCOeval has it: nothing seen is a precision of 0.
        np.divide(found, seen[:, places] + np.spacing(1), out=precision[:, :-1])
        backwards = precision[:, ::-1]
        np.maximum.accumulate(backwards, axis=1, out=backwards)
        found /= np.where(truths > 0, truths, 1)[:, None]  # recall
        reached = np.stack([row.searchsorted(RECALLS, side="left") for row in found])
        total += np.take_along_axis(precision, reached, axis=1).mean(axis=1)
    return total / len(right)
