"""Pictures of objects for `show`: what there is, what a detector found, and what it missed for lack of tokens.

Letters: L patches, H and W sides of the image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from results.figures.pictures import Box, Map
from studies.tasks.coverage import patches_of
from studies.tasks.detector import Detections

__all__ = ["LEGEND", "MIN_IOU", "MIN_SCORE", "Judged", "judged", "object_maps"]

MIN_SCORE, MIN_IOU = 0.5, 0.5  # of what is drawn, and of what counts as found
FOUND, MISSED, GONE = "#009E73", "#B8860B", "#B00000"
LEGEND = ". Objects: green found, yellow missed, red and dashed missed without a live token. Found: red is no object."
TINT = 0.6  # share of colour in a pixel of a mask


class Judged(NamedTuple):
    """What became of the objects of an image."""

    shown: Tensor  # [d] numbers of the detections from MIN_SCORE on
    right: Tensor  # [d] bool, whether each overlaps an object of its class
    found: Tensor  # [k] bool, whether each object is overlapped by one of its class
    covered: Tensor  # [k] bool, whether it has a live token

    def verdict(self) -> str:
        gone = int((~self.found & ~self.covered).sum())
        lost = f", {gone} missed without a token" if gone else ""
        return f"{int(self.found.sum())} of {len(self.found)} objects found{lost}"


def judged(target: dict[str, Tensor], detections: Detections, live: Tensor, patch_size: tuple[int, int]) -> Judged:
    """`target` as of Instances.targets, `live` [L] bool behind the last reduction."""
    shown = (detections.scores >= MIN_SCORE).nonzero()[:, 0]
    same = detections.classes[shown][:, None] == target["labels"][None] - 1
    hit = same & (box_iou(detections.boxes[shown], target["boxes"]) >= MIN_IOU)  # [d, k]
    covered = (patches_of(target["masks"], patch_size) & live).any(dim=1)
    return Judged(shown, hit.any(dim=1), hit.any(dim=0), covered)


def object_maps(
    pixels: np.ndarray, target: dict[str, Tensor], detections: Detections, became: Judged, classes: Sequence[str]
) -> tuple[Map, Map]:
    """The objects on the image [H, W, 3] (green: found, yellow: missed, red and dashed: missed without a live token),
    and what was found (green: an object, red: none)."""
    fates = [FOUND if found else MISSED if covered else GONE for found, covered in zip(*became[2:], strict=True)]
    objects = _map("objects", pixels, target["boxes"], target["masks"], target["labels"] - 1, fates, classes)
    own = [FOUND if right else GONE for right in became.right]
    shown = became.shown
    masks = None if detections.masks is None else detections.masks[shown]
    found = _map(
        f"found, score ≥ {MIN_SCORE:g}", pixels, detections.boxes[shown], masks,
        detections.classes[shown], own, classes,
    )  # fmt: skip
    dashed = tuple(box._replace(dashed=box.colour == GONE) for box in objects.boxes)
    return objects._replace(boxes=dashed), found


def _map(
    title: str,
    pixels: np.ndarray,
    boxes: Tensor,
    masks: Tensor | None,
    labels: Tensor,
    colours: Sequence[str],
    classes: Sequence[str],
) -> Map:
    picture = pixels.copy()
    if masks is not None:
        for mask, colour in zip(masks.to(torch.bool).numpy(), colours, strict=True):
            picture[mask] = (1 - TINT) * picture[mask] + TINT * _rgb(colour)
    corners = boxes.tolist()
    named = [classes[label] for label in labels.tolist()]
    frames = (Box((x0, y0), (x1, y1), *what) for (x0, y0, x1, y1), *what in zip(corners, colours, named, strict=True))
    return Map(title, picture, tuple(frames))


def _rgb(colour: str) -> np.ndarray:
    """#RRGGBB -> [3] in 0..1"""
    return np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
