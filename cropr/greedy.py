"""A schedule by the loss, without training: the next patches leave where that costs least loss for the MACs it saves.

A control for schedules that are learned: it knows nothing of a method but its loss. Ours, of no paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from cropr.macs import count, dense_macs
from cropr.objective import Criterion, Labelled
from cropr.reducer import Dropper
from cropr.vit import ReducedViT

__all__ = ["Step", "greedy_keeps", "mean_loss"]


class Step(NamedTuple):
    """How many patches stay behind each reducer, the MACs as a share of the dense model's, and the loss."""

    keeps: tuple[int, ...]
    share: float
    loss: float


def mean_loss(batches: Sequence[Labelled], criterion: Criterion) -> Callable[[ReducedViT], float]:
    """The loss of a model on `batches`, those of a validation split, say."""

    @torch.no_grad()
    def loss(model: ReducedViT) -> float:
        total = labelled = 0.0
        for batch in batches:
            total += float(criterion(model(batch.images), batch.target))
            labelled += float(criterion.count(batch.target))
        return total / labelled

    return loss


def greedy_keeps(model: ReducedViT, loss: Callable[[ReducedViT], float], target: float, step: int = 8) -> list[Step]:
    """The way from all patches to the first counts whose MACs are at most the share `target`, `step` patches at a time;
    each of them is the schedule of its own share (`keeps=` of a method). Takes as many losses a step as the model has
    reducers, which have their own counts again in the end.

    Raises ValueError for reducers that are not set by a number, and for a target that is out of reach.
    """
    droppers = [settable(reducer) for reducer in model.reducers.values()]
    with restored(droppers):
        way = [at(model, droppers, (model.num_patches,) * len(droppers), loss)]
        while way[-1].share > target:
            now = way[-1]
            # What cannot leave behind one place cannot be there behind the next.
            fewer = {i: keep - step for i, keep in enumerate(now.keeps) if keep > step}
            ways = dict.fromkeys(
                (*now.keeps[:i], *(min(keep, most) for keep in now.keeps[i:])) for i, most in fewer.items()
            )
            tried = [found for keeps in ways if (found := at(model, droppers, keeps, loss)).share < now.share]
            if not tried:
                raise ValueError(f"target {target:g} is out of reach: {now.share:.3f} is left at keeps of {now.keeps}")
            way.append(min(tried, key=lambda found: (found.loss - now.loss) / (now.share - found.share)))
    return way


def at(model: ReducedViT, droppers: list[Dropper], keeps: tuple[int, ...], loss: Callable[[ReducedViT], float]) -> Step:
    """The model with these counts."""
    for dropper, keep in zip(droppers, keeps, strict=True):
        dropper.keep = keep
    share = count(model).total / dense_macs(model.vit, model.grid_size, decoder=model.dense)
    return Step(keeps, share, loss(model))


def settable(reducer: torch.nn.Module) -> Dropper:
    if not isinstance(reducer, Dropper) or type(reducer).keep_of is not Dropper.keep_of:
        raise ValueError(f"{type(reducer).__name__} is not set by the number of patches that it keeps")
    return reducer


@contextmanager
def restored(droppers: list[Dropper]) -> Iterator[None]:
    before = [dropper.keep for dropper in droppers]
    try:
        yield
    finally:
        for dropper, keep in zip(droppers, before, strict=True):
            dropper.keep = keep
