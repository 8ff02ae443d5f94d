"""Coverage: which objects still have a live token behind each reduction, and which were missed without one; and how
many were found by where in the image they are.

An object is covered by a patch that sees a pixel of its mask, as long as that patch is live or merged into one that is;
a token that stands for no place on the grid (the fused rest of EViT) covers nothing.

Letters: B batch, K objects of a batch, n of all, R reducers, L patches, H and W sides of a mask in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cropr.reducer import observed
from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from studies.training.distributed import ALONE, World

__all__ = ["Coverage", "found_by_place", "patches_of", "place_of"]

PLACES_APART = (1 / 3) ** 0.5, (2 / 3) ** 0.5  # of the middle of an object, in half sides: thirds of the image's area


class Coverage:
    """Of the objects in the images that `model` sees. Under the mask of training nothing leaves: nothing is counted."""

    def __init__(self, model: ReducedViT):
        self.model = model
        self.held: dict[str, Tensor] = {}  # by block, of the last batch: [B, L] see Tokens.holders
        self.covered: list[Tensor] = []  # [K, R] bool

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, what reducers leave of a batch is remembered."""

        def remember(block: str, args: tuple, tokens: Tokens) -> None:
            if tokens.policy is None:
                self.held[block] = tokens.holders()

        with observed(dict(self.model.reducers.items()), remember):
            yield

    def add(self, masks: Sequence[Tensor]) -> None:
        """The masks [k, H, W] of the objects in each image of the batch that was seen."""
        if not self.held:
            return
        live = torch.stack([held >= 0 for held in self.held.values()], dim=1)  # [B, R, L]
        for own, left in zip(masks, live, strict=True):
            touched = patches_of(own.to(left.device), self.model.vit.patch_embed.patch_size)
            self.covered.append((touched[:, None] & left).any(dim=2).cpu())

    def record(
        self, area: np.ndarray, found: np.ndarray, areas: tuple[float, float], world: World = ALONE
    ) -> dict[str, Any]:
        """Counts of small, medium and large objects: all, those covered behind each reduction, and of those with and
        without a token behind the last one how many were missed.

        Args:
            area: [n] pixels of each object, in the order they were added, those of all processes one behind the other.
            found: [n] whether something that was found matches it.
            areas: the limits between the sizes.
        """
        if not self.covered:
            return {}
        covered, size = world.gather(torch.cat(self.covered)).numpy(), np.searchsorted(areas, area, side="right")

        def counts(which: np.ndarray) -> list[int]:
            return np.bincount(size[which], minlength=3).tolist()

        last = covered[:, -1]
        return {
            "coverage": {
                "blocks": [int(block) for block in self.held],
                "objects": counts(np.ones_like(found)),
                "covered": [counts(behind) for behind in covered.T],
                "missed_with_token": counts(last & ~found),
                "missed_without_token": counts(~last & ~found),
            }
        }


def patches_of(masks: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Which patches see a pixel of each mask: [k, H, W] -> [k, L] bool."""
    height, width = masks.shape[-2:]
    padded = F.pad(masks, (0, -width % patch_size[1], 0, -height % patch_size[0]))
    return F.max_pool2d(padded[:, None].float(), patch_size).flatten(1) > 0


def place_of(bbox: Sequence[float], height: int, width: int) -> int:
    """Of an object at `bbox` (x, y, width, height) in an image of these sides: 0 near its centre, 1 between, 2 near its
    border, by how far its middle lies from that of the image along the farther of the two sides."""
    x, y = bbox[0] + bbox[2] / 2, bbox[1] + bbox[3] / 2
    return int(np.searchsorted(PLACES_APART, max(abs(2 * x / width - 1), abs(2 * y / height - 1)), side="right"))


def found_by_place(image: np.ndarray, place: np.ndarray, found: np.ndarray, items: np.ndarray) -> np.ndarray:
    """How many objects of each image were found at each place, and how many there are: [I, 3, 2].

    Args:
        image, place, found: [n] of each object its image, see `place_of`, and whether something matches it.
        items: [I] the images.
    """
    counts = np.zeros((len(items), 3, 2), dtype=np.int16)
    order = np.argsort(items)
    row = order[np.searchsorted(items, image, sorter=order)]
    np.add.at(counts[..., 1], (row, place), 1)
    np.add.at(counts[..., 0], (row, place), found)
    return counts
