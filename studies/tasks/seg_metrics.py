"""Metrics of semantic segmentation, as counts per image that add up: over images, batches, and the resamples of a
bootstrap.

Letters: B images, C classes, H W height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BoundaryCounts", "absent_classes", "boundary_counts", "boundary_metrics", "confusion", "segmentation_metrics",
]  # fmt: skip


def confusion(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Pixels by class of predictions and targets [B, H, W] int64. -> [B, C, C] int64, rows are targets"""
    cell = target * num_classes + pred
    return _count(cell, target != ignore_index, num_classes**2).unflatten(1, (num_classes, num_classes))


def segmentation_metrics(confusion: Tensor, classes: Sequence[str] | None = None) -> dict[str, float]:
    """Shares, not percent, of a confusion matrix [C, C] summed over images.

    miou             mean IoU over the classes with a pixel in targets or predictions (union > 0), as the field has
                     it: a class that no target has and some prediction claims counts 0
    pixel_accuracy   correct pixels of all labelled
    mean_accuracy    mean, over the classes that targets have, of the share of their pixels found
    iou_<class>      IoU of each class by its name in `classes`, or its number; nan where the union is empty
    """
    counts = confusion.double()
    hits, targets, predictions = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = hits / (targets + predictions - hits)  # 0 / 0 is nan
    scores = {
        "miou": float(iou.nanmean()),
        "pixel_accuracy": float(hits.sum() / counts.sum()),
        "mean_accuracy": float((hits / targets).nanmean()),
    }
    return scores | _by_class("iou", iou, classes)


def absent_classes(confusion: Tensor) -> list[int]:
    """Classes without a target pixel in a confusion matrix [C, C]: what a report names beside the mean."""
    return (confusion.sum(1) == 0).nonzero().flatten().tolist()


class BoundaryCounts(NamedTuple):
    """Pixels in both bands of a class, and in either."""

    intersection: Tensor  # [B, C] int64
    union: Tensor  # [B, C] int64


def boundary_counts(
    pred: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255, width: float = 0.02
) -> BoundaryCounts:
    """Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562) of predictions and targets [B, H, W] int64, as counts.

    The band of a class is what its mask has within d pixels of the mask's contour: the mask without its erosion by a
    square of 2 d + 1 pixels. d = `width` of the image's diagonal, at least 1. Beyond the image there is no class, so
    the contour runs along its border. Ignored pixels count nowhere, and are a region of their own in both, so that
    what lies along them is a contour for prediction and target alike.
    """
    distance = max(1, round(width * math.hypot(*pred.shape[-2:])))
    valid = target != ignore_index
    pred = torch.where(valid, pred, ignore_index)
    pred_band, target_band = (valid & _near_contour(labels, distance) for labels in (pred, target))
    intersection = _count(target, pred_band & target_band & (pred == target), num_classes)
    total = _count(pred, pred_band, num_classes) + _count(target, target_band, num_classes)
    return BoundaryCounts(intersection, total - intersection)


def boundary_metrics(counts: BoundaryCounts, classes: Sequence[str] | None = None) -> dict[str, float]:
    """`boundary_miou`, over the classes whose union is not empty, and `boundary_iou_<class>`, of counts [C] summed over
    images."""
    iou = counts.intersection.double() / counts.union
    return {"boundary_miou": float(iou.nanmean())} | _by_class("boundary_iou", iou, classes)


def _near_contour(labels: Tensor, distance: int) -> Tensor:
    """Pixels of [B, H, W] in whose square of 2 `distance` + 1 there is another label or the outside of the image: what
    erosion takes away from the masks of all classes. -> bool

    A square shows one label where no two neighbours in it differ; neighbours that do are counted by summed areas, in a
    time that does not depend on `distance`.
    """
    around = F.pad(labels, [distance] * 4, value=-1)
    size = 2 * distance + 1
    across = _any_in_box(around[:, :, 1:] != around[:, :, :-1], size, size - 1)
    return across | _any_in_box(around[:, 1:] != around[:, :-1], size - 1, size)


def _any_in_box(found: Tensor, rows: int, cols: int) -> Tensor:
    """Whether boxes of `rows` x `cols` in [B, H, W] bool hold a True. -> [B, H - rows + 1, W - cols + 1] bool"""
    area = F.pad(found.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (1, 0, 1, 0))
    below, above = area[:, rows:], area[:, :-rows]
    return below[..., cols:] - below[..., :-cols] != above[..., cols:] - above[..., :-cols]


def _count(value: Tensor, chosen: Tensor, num: int) -> Tensor:
    """How often each of 0 to `num` - 1 is a chosen value of each image [B, H, W], in one go. -> [B, num] int64"""
    images = len(value)
    offset = torch.arange(images, device=value.device)[:, None, None] * num
    bins = torch.where(chosen, value + offset, images * num)  # one bin more, for the rest
    return torch.bincount(bins.flatten(), minlength=images * num + 1)[:-1].view(images, num)


def _by_class(name: str, values: Tensor, classes: Sequence[str] | None) -> dict[str, float]:
    names = range(len(values)) if classes is None else classes
    return {f"{name}_{key}": value for key, value in zip(names, values.tolist(), strict=True)}
