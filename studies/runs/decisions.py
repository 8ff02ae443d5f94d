"""What reducers decide, counted while a model is scored: ties at the cut, under a mask the share that is kept, and what
is kept of mirror images.

A score that saturates has no order: where the last patch that stays and the first that leaves are equal, the place on
the grid decides, and not the method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cropr.reducer import Reducer, observed
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT
from studies.data import Batch, Data
from studies.tasks.kept import KeptPatches
from studies.training.distributed import ALONE, World

__all__ = ["Decisions", "asked_shares", "kept_of_mirrored", "watched"]


class Decisions:
    """Sums over the images that `model` sees, on its device, for each reducer in the order of blocks. `kept` is told of
    every call."""

    def __init__(self, model: ReducedViT, device: str, kept: KeptPatches | None = None):
        self.kept_patches = kept
        self.reducers: dict[str, Reducer] = dict(model.reducers.items())
        self.number = {block: i for i, block in enumerate(self.reducers)}
        self.images = torch.zeros(len(self.reducers), dtype=torch.float64, device=device)
        self.tied, self.kept = torch.zeros_like(self.images), torch.zeros_like(self.images)

    def note(self, block: str, args: tuple[Tokens, Attended | None], tokens: Tokens) -> None:
        """Of one call of the reducer at `block`."""
        i, reducer = self.number[block], self.reducers[block]
        self.images[i] += len(tokens.x)
        if tokens.policy is not None:
            self.kept[i] += tokens.policy.mean(dim=1, dtype=torch.float64).sum()
            return
        if (ranking := reducer.ranking(*args)) is not None:
            self.tied[i] += tied_at_cut(*ranking).sum()
        if self.kept_patches is not None:
            self.kept_patches.note(block, args[0], tokens, ranking)

    def tied_at_cut(self, world: World = ALONE) -> list[float]:
        """Share of images whose order did not decide, of each reducer; of all processes."""
        return self._share(self.tied, world)

    def kept_share(self, world: World = ALONE) -> list[float]:
        """Mean share of the grid that the mask of each reducer left; of all processes."""
        return self._share(self.kept, world)

    def _share(self, sums: Tensor, world: World) -> list[float]:
        total, images = (world.gather(part.cpu()[None]).sum(0) for part in (sums, self.images))
        return (total / images).tolist()


def tied_at_cut(scores: Tensor, take: int) -> Tensor:
    """Whether number `take` in the descending order of scores [B, M] equals the next one. -> [B] bool"""
    if take == scores.shape[1]:
        return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    around = scores.topk(take + 1, dim=1).values[:, -2:]
    return around[:, 0] == around[:, 1]


def asked_shares(model: ReducedViT) -> list[float]:
    """Of the grid, what is to be left behind each reducer."""
    counts, prefix = model.token_counts(), model.num_prefix_tokens
    return [(counts[int(i)][2] - prefix) / model.num_patches for i in model.reducers]


@contextmanager
def watched(model: ReducedViT, device: str, kept: KeptPatches | None = None) -> Iterator[Decisions]:
    """Within it, what the reducers of `model` decide is counted."""
    decisions = Decisions(model, device, kept)
    with observed(decisions.reducers, decisions.note):
        yield decisions


@torch.inference_mode()
def kept_of_mirrored(
    model: ReducedViT, data: Data, items: Sequence[int], size: int, device: str, amp: torch.dtype | None = None
) -> np.ndarray:
    """What `model` (in eval mode) leaves of the mirror images (left is right) of test items, `size` at a time: of each
    place of the image itself behind how many reductions the place that it comes to lie on is live, [n, L] uint8."""
    patches = KeptPatches(model, data.num_test)
    patches.items = torch.as_tensor(items)
    with watched(model, device, patches):
        for batch in patches.of(_mirrored(data, items, size, model.grid_size)):
            truth = None if batch.truth is None else batch.truth.to(device)
            with torch.autocast(device, dtype=amp, enabled=amp is not None), model.told(truth):
                model(batch.images.to(device))
    level = patches.arrays()["level"]
    return np.ascontiguousarray(level.reshape(-1, *model.grid_size)[:, :, ::-1]).reshape(level.shape)


def _mirrored(data: Data, items: Sequence[int], size: int, grid: tuple[int, int]) -> Iterator[Batch]:
    for first in range(0, len(items), size):
        batch = data.test_items(items[first : first + size])
        labels = batch.patch_target
        if labels is not None:
            labels = labels.unflatten(1, grid).flip(2).flatten(1)
        yield batch._replace(images=batch.images.flip(3), patch_target=labels)
