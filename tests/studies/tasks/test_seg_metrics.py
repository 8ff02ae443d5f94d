"""Segmentation metrics against loops over pixels and scipy's erosion."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from studies.tasks.seg_metrics import (
    absent_classes,
    boundary_counts,
    boundary_metrics,
    confusion,
    segmentation_metrics,
)


def masks(seed: int, size=(3, 24, 30), num_classes=5, ignored=0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random predictions and targets in blobs; the last class occurs in predictions only, the one before nowhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_classes - 2, (size[0], size[1] // 6, size[2] // 6))
    target = coarse.repeat(6, 1).repeat(6, 2)
    pred = np.where(rng.random(size) < 0.3, rng.integers(0, num_classes - 2, size), np.roll(target, 1, 2))
    pred[:, 0, :3] = num_classes - 1
    target[rng.random(size) < ignored] = 255
    return torch.from_numpy(pred), torch.from_numpy(target)


def slow_confusion(pred, target, num_classes):
    counts = np.zeros((len(pred), num_classes, num_classes), np.int64)
    for b, y, x in np.ndindex(pred.shape):
        if target[b, y, x] != 255:
            counts[b, target[b, y, x], pred[b, y, x]] += 1
    return counts


def slow_iou(pred, target, label) -> float:
    """Over all images, from sets of pixels."""
    labelled = {place for place in np.ndindex(target.shape) if target[place] != 255}
    claimed = {place for place in labelled if pred[place] == label}
    true = {place for place in labelled if target[place] == label}
    return len(claimed & true) / len(claimed | true) if claimed | true else math.nan


@pytest.mark.parametrize("seed", range(3))
def test_confusion_is_counted_per_image(seed):
    pred, target = masks(seed)
    counts = confusion(pred, target, 5)
    assert counts.dtype == torch.int64
    assert np.array_equal(counts.numpy(), slow_confusion(pred.numpy(), target.numpy(), 5))
    assert np.array_equal(counts[1].numpy(), confusion(pred[1:2], target[1:2], 5)[0].numpy())
    other = torch.where(target == 255, -1, target)
    assert torch.equal(counts, confusion(pred, other, 5, ignore_index=-1))


def test_confusion_of_nothing_but_ignored_pixels():
    counts = confusion(torch.zeros(2, 4, 4, dtype=torch.int64), torch.full((2, 4, 4), 255), 3)
    assert counts.shape == (2, 3, 3) and counts.sum() == 0


@pytest.mark.parametrize("seed", range(3))
def test_metrics(seed):
    pred, target = masks(seed)
    scores = segmentation_metrics(confusion(pred, target, 5).sum(0), ["a", "b", "c", "d", "e"])
    iou = [slow_iou(pred.numpy(), target.numpy(), label) for label in range(5)]
    assert math.isnan(iou[3]) and iou[4] == 0.0
    assert [scores[f"iou_{name}"] for name in "abcde"] == pytest.approx(iou, nan_ok=True)
    assert scores["miou"] == pytest.approx(sum(iou[i] for i in (0, 1, 2, 4)) / 4, rel=1e-12)
    labelled = target != 255
    assert scores["pixel_accuracy"] == pytest.approx(float((pred == target)[labelled].double().mean()))
    recall = [float((pred == label)[target == label].double().mean()) for label in range(3)]
    assert scores["mean_accuracy"] == pytest.approx(sum(recall) / 3)
    with_ignored = segmentation_metrics(confusion(pred, torch.where(labelled, target, 0), 5).sum(0))
    assert abs(with_ignored["miou"] - scores["miou"]) > 0.01  # ignored pixels matter here
    assert absent_classes(confusion(pred, target, 5).sum(0)) == [3, 4]


def test_names_default_to_numbers():
    assert segmentation_metrics(torch.eye(2, dtype=torch.int64)) == {
        "miou": 1.0, "pixel_accuracy": 1.0, "mean_accuracy": 1.0, "iou_0": 1.0, "iou_1": 1.0,
    }  # fmt: skip


# ---- boundary IoU


def slow_boundary(pred, target, num_classes, distance):
    """One class of one image at a time: mask without its erosion."""

    def band(mask):
        return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)

    intersection, union = np.zeros((2, len(pred), num_classes), np.int64)
    for b, label in np.ndindex(len(pred), num_classes):
        valid = target[b] != 255
        claimed = band((pred[b] == label) & valid)
        true = band(target[b] == label)
        intersection[b, label], union[b, label] = (claimed & true).sum(), (claimed | true).sum()
    return intersection, union


@pytest.mark.parametrize("width,distance", [(0.02, 1), (0.05, 2), (0.12, 5), (0.8, 31)])
def test_boundary_counts(width, distance):
    pred, target = masks(0, ignored=0.002)
    counts = boundary_counts(pred, target, 5, width=width)
    assert max(1, round(width * math.hypot(24, 30))) == distance
    intersection, union = slow_boundary(pred.numpy(), target.numpy(), 5, distance)
    assert np.array_equal(counts.intersection.numpy(), intersection)
    assert np.array_equal(counts.union.numpy(), union)
    if distance < 10:
        assert not np.array_equal(union, slow_boundary(pred.numpy(), target.numpy(), 5, distance + 1)[1])
    scores = boundary_metrics(type(counts)(counts.intersection.sum(0), counts.union.sum(0)), "abcde")
    iou = [intersection[:, c].sum() / union[:, c].sum() for c in (0, 1, 2, 4)]
    assert scores["boundary_miou"] == pytest.approx(sum(iou) / 4)
    assert scores["boundary_iou_b"] == pytest.approx(iou[1]) and math.isnan(scores["boundary_iou_d"])


def test_a_square_moved_by_one_pixel():
    """By hand: the band of a 6 x 6 square has 20 pixels. Of the one moved to the right, top and bottom share 5 each."""
    target, pred = torch.zeros(2, 1, 40, 40, dtype=torch.int64)
    target[0, 10:16, 10:16], pred[0, 10:16, 11:17] = 1, 1
    counts = boundary_counts(pred, target, 2, width=0.001)
    assert (int(counts.intersection[0, 1]), int(counts.union[0, 1])) == (10, 30)


def test_what_is_right_scores_one_and_large_areas_do_not_hide_their_contours():
    _, target = masks(1, (1, 60, 60))
    perfect = torch.where(target == 255, 0, target)
    counts = boundary_counts(perfect, target, 5)
    assert torch.equal(counts.intersection, counts.union) and counts.union.sum() > 0
    target = torch.zeros(1, 200, 200, dtype=torch.int64)
    target[0, 50:150, 50:150] = 1
    pred = torch.zeros_like(target)
    pred[0, 47:153, 47:153] = 1
    scores = segmentation_metrics(confusion(pred, target, 2)[0])
    counts = boundary_counts(pred, target, 2)
    assert (
        boundary_metrics(type(counts)(counts.intersection[0], counts.union[0]))["boundary_iou_1"]
        < 0.5
        < 0.85
        < scores["iou_1"]
    )
