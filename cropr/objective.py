"""What a reduced model is trained for: the loss of the task, and what a method adds to it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cropr.vit import ReducedViT

__all__ = ["Objective"]

Criterion = Callable[[Tensor, Tensor], Tensor]


class Objective:
    """The plain loss of the task. `criterion(logits [B, C], target)` is its mean over the batch."""

    name = "CE"

    def __init__(self, criterion: Criterion):
        self.criterion = criterion

    def before_step(self, model: ReducedViT, progress: float) -> None:
        """Called before each training step; `progress` runs from 0 to 1 over the training."""

    def __call__(self, model: ReducedViT, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its named parts, detached); nothing is moved off the device."""
        loss = self.criterion(model(images), target)
        return loss, {}
