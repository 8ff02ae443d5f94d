"""What a reduced model is trained for: the loss of the task, and what a method adds to it.

A loss is a sum of terms, and a term is a mean over something of which images have more or less: labelled pixels, kept
tokens. So a term is handed over as a sum, with the name of what it is to be divided by: a batch that is worked off in
parts (micro-batches, processes) has the loss and the gradient of the whole when each part divides by the counts of all.

Letters: B images, C classes, M cells of a coarse grid, h and w sides in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = [
    "Counts",
    "Criterion",
    "CrossEntropy",
    "Labelled",
    "Objective",
    "Term",
    "Terms",
    "cells_of_pixels",
    "weighted_loss",
]


class Labelled(Protocol):
    """What an objective reads of a batch."""

    @property
    def images(self) -> Tensor: ...  # [B, 3, h, w]

    @property
    def target(self) -> Any: ...  # as the criterion wants it

    @property
    def patch_target(self) -> Tensor | None: ...  # [B, L] labels in the patch grid, where there are some


class Term(NamedTuple):
    """`weight` times a mean: the sum `total` [], divided by the count of the name `over`."""

    total: Tensor
    over: str
    weight: float = 1.0


Terms = Mapping[str, Term]
Counts = Mapping[str, Tensor]  # [] each


class Criterion(Protocol):
    """The loss of a task."""

    def __call__(self, logits: Any, target: Any) -> Tensor:
        """Its sum over everything that is labelled, []."""

    def of_patches(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same of logits [B, C, L] with the classes [B, L] of patches."""

    def present(self, target: Any, cells: tuple[int, int], num_classes: int) -> Tensor:
        """[B, M, C] 1 where a class is in a cell of a grid of `cells` (rows, columns), row by row. Of dense tasks."""

    def count(self, target: Any) -> Tensor:
        """How much that is, []."""


class CrossEntropy:
    """Cross-entropy of logits [B, C, ...] with classes [B, ...], of which `ignore_index` are left out, or with soft
    targets [B, C] (mixup)."""

    def __init__(self, label_smoothing: float = 0.0, ignore_index: int = -100):
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            logits, target, reduction="sum", ignore_index=self.ignore_index, label_smoothing=self.label_smoothing
        )

    of_patches = __call__

    def present(self, target: Tensor, cells: tuple[int, int], num_classes: int) -> Tensor:
        """Of the classes [B, h, w] of pixels."""
        nowhere = math.prod(cells) * num_classes
        place = cells_of_pixels(target, cells) * num_classes + target
        place = torch.where(target == self.ignore_index, nowhere, place).flatten(1)
        found = torch.zeros(len(target), nowhere + 1, device=target.device).scatter_(1, place, 1.0)
        return found[:, :-1].unflatten(1, (-1, num_classes))

    def count(self, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return torch.full((), len(target), device=target.device)
        return (target != self.ignore_index).sum()


def cells_of_pixels(pixels: Tensor, cells: tuple[int, int]) -> Tensor:
    """[h, w] for `pixels` [..., h, w] the cell of each in a grid of `cells` (rows, columns), row by row."""
    (rows, columns), (height, width) = cells, pixels.shape[-2:]
    down, across = (torch.arange(side, device=pixels.device) for side in (height, width))
    return (down * rows // height)[:, None] * columns + across * columns // width


def weighted_loss(terms: Terms, counts: Counts) -> Tensor:
    """[] the weighted sum of the means; a mean over nothing is 0."""
    means = [term.weight * (term.total / counts[term.over].clamp(min=1)) for term in terms.values()]
    return sum(means[1:], start=means[0])


class Objective:
    """The plain loss of the task."""

    name = "CE"
    settles: float = 0.0  # share of the training in which the model still changes, so that its losses do not compare
    separable: bool = True  # with the counts known the loss is a sum over images, so that a batch can be split

    def __init__(self, criterion: Criterion):
        self.criterion = criterion

    def before_step(self, model: ReducedViT, progress: float) -> None:
        """Called before each training step; `progress` runs from 0 to 1 over the training."""

    def __call__(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        """The terms of the loss, and this batch's own counts; nothing is moved off the device."""
        terms = {"main": Term(self.criterion(model(batch.images), batch.target), "label")}
        return terms, self.counts(model, batch)

    def counts(self, model: ReducedViT, batch: Labelled) -> Counts:
        """What a call would count, without a gradient, and without a pass through the model where targets tell."""
        return {"label": self.criterion.count(batch.target)}
