"""What reduced models for dense prediction are trained for: the loss of every labelled pixel, Cropr's auxiliary logits
for every patch, and the curriculum of pruning rates.

Letters: B images, L patches of the full grid, M cells of a coarse grid, C classes, h and w sides in pixels, E epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr.method.objective import Counts, Criterion, Labelled, Objective, Term, Terms
from cropr.reducer import Dropper
from cropr.schedule import curriculum

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = ["CroprDenseObjective", "Curriculum", "DenseObjective", "patch_target"]


def patch_target(target: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Labels of the patches by nearest downsampling: `target` [B, h, w] -> [B, rows, columns]. A label to ignore stays
    one. Patches that stick out of the image have the label of their pixel in it."""
    return target[:, :: patch_size[0], :: patch_size[1]]


def patch_labels(model: ReducedViT, batch: Labelled) -> Tensor:
    """[B, L] the classes of patches: those of their pixels, or what the data set says where it labels no pixels."""
    if isinstance(batch.target, Tensor):
        return patch_target(batch.target, model.vit.patch_embed.patch_size).flatten(1)
    assert batch.patch_target is not None
    return batch.patch_target


class Curriculum:
    """Pruning rates that grow from 0 over the first half of the E epochs (Cropr, arXiv 2412.00965): each module's own
    rate does, in whole patches, so that the rates of a schedule that is not constant grow alike. `first_extra` patches
    leave at the first module from the beginning.

    `reducers`: block -> reducer with its final `keep`.
    """

    def __init__(self, reducers: Mapping[int, Dropper], num_patches: int, epochs: int, first_extra: int = 0):
        self.epochs = epochs
        self.keeps: dict[int, list[int]] = {}  # block -> patches kept in each epoch
        self.removed: list[int] = []  # by each module, in the end
        before, left = num_patches, [num_patches] * epochs
        for number, (block, reducer) in enumerate(sorted(reducers.items())):
            extra = first_extra if number == 0 else 0
            ramp = curriculum(before - reducer.keep - extra, epochs)
            left = [patches - extra - rate for patches, rate in zip(left, ramp, strict=True)]
            self.keeps[block] = left
            self.removed.append(before - reducer.keep)
            before = reducer.keep

    def set(self, model: ReducedViT, progress: float) -> None:
        """Set the rates of the epoch at `progress`, 0 to 1 through the training; 1: the final ones."""
        epoch = min(int(progress * self.epochs + 1e-9), self.epochs - 1)
        for block, keeps in self.keeps.items():
            model.reducers[str(block)].keep = keeps[epoch]

    def record(self) -> dict[str, Any]:
        """For the record of a run: how far each epoch was, and with which rates it is evaluated."""
        return {
            "epochs": self.epochs,
            "patches_kept_per_epoch": {str(block): keeps for block, keeps in self.keeps.items()},
            "evaluated_with_removed_per_module": self.removed,
        }


class DenseObjective(Objective):
    """The mean loss of the labelled pixels; `curriculum`: while the pruning rates grow."""

    def __init__(self, criterion: Criterion, curriculum: Curriculum | None = None):
        super().__init__(criterion)
        self.curriculum = curriculum
        self.settles = 0.0 if curriculum is None else 0.5

    def before_step(self, model: ReducedViT, progress: float) -> None:
        if self.curriculum is not None:
            self.curriculum.set(model, progress)


class CroprDenseObjective(DenseObjective):
    """Besides `weight` times the loss of every auxiliary head. Query l is asked for the class of patch l; with `cells`
    (rows, columns of a coarse grid) query m is asked which classes are in cell m, by binary cross-entropy."""

    name = "CE + sum of auxiliary CE of patches"

    def __init__(
        self,
        criterion: Criterion,
        weight: float = 1.0,
        curriculum: Curriculum | None = None,
        cells: tuple[int, int] | None = None,
    ):
        super().__init__(criterion, curriculum)
        self.weight, self.cells = weight, cells
        self.over = "patch" if cells is None else "answer"
        if cells is not None:
            self.name = "CE + sum of auxiliary BCE of present classes"

    def __call__(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        from cropr.dense import DenseViT

        assert isinstance(model, DenseViT)
        tokens, size = model.forward_features(batch.images), batch.images.shape[-2:]
        logits = model.upsample(model.patch_logits(tokens), size)
        terms = {"main": Term(self.criterion(logits, batch.target), "label")}
        asked = self._asked(model, batch)
        for i, auxiliary in enumerate(tokens.aux):
            if self.cells is None:
                loss = self.criterion.of_patches(auxiliary.transpose(1, 2), asked)
            else:
                loss = F.binary_cross_entropy_with_logits(auxiliary, asked, reduction="sum")
            terms[f"aux_{i}"] = Term(loss, self.over, self.weight)
        return terms, self.counts(model, batch)

    def _asked(self, model: ReducedViT, batch: Labelled) -> Tensor:
        """[B, L] classes of patches, or [B, M, C] 1 where a class is in a cell."""
        if self.cells is None:
            return patch_labels(model, batch)
        return self.criterion.present(batch.target, self.cells, model.vit.num_classes)

    def counts(self, model: ReducedViT, batch: Labelled) -> Counts:
        if self.cells is None:
            asked = self.criterion.count(patch_labels(model, batch))
        else:
            answers = len(batch.images) * math.prod(self.cells) * model.vit.num_classes
            asked = torch.full((), answers, device=batch.images.device)
        return {"label": self.criterion.count(batch.target), self.over: asked}
