"""Data sets. Each yields `Batch`es; none knows a model or a reducer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


IGNORE_INDEX = 255  # label of pixels that count nowhere


class Batch(NamedTuple):
    """What every data set yields. Letters: B batch, S image side in pixels, L patches."""

    images: Tensor  # [B, 3, S, S] float32, normalised, contiguous
    target: Tensor  # [B] int64 class, or [B, S, S] int64 mask for segmentation
    item: Tensor  # [B] int64 index of the item in its split
    cluster: Tensor  # [B] int64 what items share (their source digit or image), for paired and cluster statistics
    patch_target: Tensor | None = None  # [B, L] int64 labels in the patch grid, where the data set has them

    @property
    def truth(self) -> Tensor | None:
        """[B, L] 1 where a patch has something to predict (label 0 is the background), for controls that read it."""
        return None if self.patch_target is None else self.patch_target > 0
