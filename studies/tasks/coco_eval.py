"""The COCO metrics of box detection and instance segmentation, by pycocotools.

Letters: I images, C classes, G truths, T IoU thresholds, D detections, A ranges of area, N detections of one class and
image.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from results.statistics.metrics.average_precision import AREAS, IOU_THRESHOLDS, Matches
from studies.data import COCO_AREAS

__all__ = ["METRICS", "Scored", "evaluate_coco", "evaluator"]

METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip

Annotation = Mapping[str, Any]


class Scored(NamedTuple):
    """What detections are worth."""

    metrics: dict[str, float]  # of METRICS, shares in 0..1, without those that have no ground truth (COCOeval's -1)
    matches: Matches  # from which AP can be had again for any weights of the images
    found: np.ndarray  # [G] bool, truths that a detection matches at IoU .5, in the order given


def evaluator() -> str:
    """What gives the numbers, with its version."""
    return f"pycocotools {importlib.metadata.version('pycocotools')}"


def evaluate_coco(
    truths: Sequence[Annotation],
    detections: Sequence[Annotation],
    image_ids: Sequence[Hashable],
    num_classes: int,
    iou_type: str,
    areas: tuple[float, float] = COCO_AREAS,
) -> Scored:
    """COCO's twelve numbers, the matches behind them, and which truths were found.

    Annotations are in COCO's format. Their ids are not read: pycocotools takes a match with the id 0 for none, so they
    are counted anew from 1. The arguments are left as they are.

    Args:
        truths: with image_id, category_id in 0..C-1, area in pixels of the image, iscrowd (0 if left out), and bbox
            [x, y, width, height] or segmentation (compressed RLE with size and counts), as `iou_type` says.
        detections: with image_id, category_id, score, and bbox or segmentation. Their area is that of the mask, of
            boxes under COCO's limits that of the box, whatever an "area" says.
        image_ids: those that sort, each once. Images without truths or detections belong here too.
        num_classes: C, with or without a ground truth.
        iou_type: "bbox" or "segm".
        areas: in pixels; objects up to the first are small, from the second on large. One that is as large as a limit
            belongs to both sides. COCO's are of masks, but a box that matches nothing counts by its own area, which
            limits close to each other do not bear: all false boxes would be large.

    Returns:
        Of the matches image i is image_ids[i].

    Raises:
        ValueError: an unknown `iou_type`, an id that `image_ids` has twice, an annotation of another image or class, a
            segmentation that is not RLE.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type is {iou_type!r}, not bbox or segm")
    if len(set(image_ids)) < len(image_ids):
        raise ValueError("image_ids has an id more than once")
    _check((*truths, *detections), set(image_ids), num_classes, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco([{"iscrowd": 0, **truth} for truth in truths], image_ids, num_classes),
            _coco([_with_area(detection, iou_type, areas) for detection in detections], image_ids, num_classes),
            iou_type,
        )
        evaluation.params.areaRng = list(pairwise([0.0, *areas, 1e10]))
        evaluation.params.areaRng.insert(0, (0.0, 1e10))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=True) if value > -1}
    return Scored(metrics, _matches(evaluation, image_ids, num_classes), _found(evaluation, len(truths)))


def _check(annotations: Iterable[Annotation], image_ids: set[Hashable], num_classes: int, iou_type: str) -> None:
    for annotation in annotations:
        if annotation["image_id"] not in image_ids:
            raise ValueError(f"an annotation has the unknown image {annotation['image_id']!r}")
        if annotation["category_id"] not in range(num_classes):
            raise ValueError(f"an annotation has the class {annotation['category_id']!r} of {num_classes}")
        if iou_type == "segm" and not isinstance(annotation["segmentation"], Mapping):
            raise ValueError("a segmentation is not RLE")


def _coco(annotations: Sequence[Annotation], image_ids: Sequence[Hashable], num_classes: int) -> COCO:
    """As COCO reads it from a file. Not by COCO.loadRes: that fails where there is no detection, and takes the area of
    the box for masks where a detection has both."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": 0, "width": 0} for image in image_ids],  # read for polygons only
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco


def _with_area(detection: Annotation, iou_type: str, areas: tuple[float, float]) -> dict[str, Any]:
    if "segmentation" not in detection or (iou_type == "bbox" and areas == COCO_AREAS):
        area = detection["bbox"][2] * detection["bbox"][3]
    else:
        area = coco_mask.area(detection["segmentation"])
    return {**detection, "area": float(area), "iscrowd": 0}


def _found(evaluation: COCOeval, num_truths: int) -> np.ndarray:
    """[G] at the first threshold, whatever the size."""
    found = np.zeros(num_truths, dtype=bool)
    for own in evaluation.evalImgs:
        if own is not None and tuple(own["aRng"]) == evaluation.params.areaRng[0]:
            found[np.array(own["gtIds"], dtype=np.int64) - 1] = own["gtMatches"][0] > 0
    return found


def _matches(evaluation: COCOeval, image_ids: Sequence[Hashable], num_classes: int) -> Matches:
    """Of the evaluations of each class, range of areas and image, in this order; None where there was nothing."""
    images = evaluation.params.imgIds  # sorted
    found = np.array(evaluation.evalImgs, dtype=object).reshape(num_classes, len(AREAS), len(images))
    position = {image: number for number, image in enumerate(image_ids)}
    truths = np.zeros((len(AREAS), len(images), num_classes), dtype=np.int64)
    image, category, score = [], [], []  # of each class and image: [N]
    matched, ignored = ([np.zeros((len(AREAS), len(IOU_THRESHOLDS), 0), dtype=bool)] for _ in range(2))  # [A, T, N]
    for label, place in np.ndindex(num_classes, len(images)):
        ranges = found[label, :, place]
        if ranges[0] is None:
            continue
        number = position[images[place]]
        truths[:, number, label] = [(own["gtIgnore"] == 0).sum() for own in ranges]
        score += ranges[0]["dtScores"]
        image += [number] * len(ranges[0]["dtScores"])
        category += [label] * len(ranges[0]["dtScores"])
        matched.append(np.stack([own["dtMatches"] > 0 for own in ranges]))
        ignored.append(np.stack([own["dtIgnore"] for own in ranges]))
    return Matches(
        np.array(image, dtype=np.int64),
        np.array(category, dtype=np.int64),
        np.array(score, dtype=np.float64),
        np.concatenate(matched, axis=2),
        np.concatenate(ignored, axis=2),
        truths,
    )
