"""Sliding-window inference: a model of one input size on images of any size.

Letters: B images, C classes, H W height and width in pixels, S side of the window.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["sliding_window", "window_starts"]


def sliding_window(
    model: Callable[[Tensor], Tensor], images: Tensor, window: int, stride: int, num_classes: int
) -> Tensor:
    """Logits of images [B, 3, H, W], averaged over the windows that cover a pixel. -> [B, C, H, W] float32

    `model` takes [B, 3, S, S] and gives [B, C, S, S], S = `window`. The last windows of rows and columns are shifted
    inwards. Images smaller than the window are padded with 0 to the right and below, and the padding is cut off again.
    An image of the window's size is one call of the model (single scale).

    Raises ValueError for a stride that leaves pixels out.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride {stride} of a window of {window} px; possible: 1 to {window}")
    height, width = images.shape[-2:]
    images = F.pad(images, (0, max(0, window - width), 0, max(0, window - height)))
    logits = images.new_zeros(len(images), num_classes, *images.shape[-2:], dtype=torch.float32)
    covers = images.new_zeros(images.shape[-2:], dtype=torch.float32)
    for top in window_starts(images.shape[-2], window, stride):
        for left in window_starts(images.shape[-1], window, stride):
            place = (..., slice(top, top + window), slice(left, left + window))
            logits[place] += model(images[place])
            covers[place] += 1
    return (logits / covers)[..., :height, :width]


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin on a side of at least `window` pixels; the last ends with it."""
    return [*range(0, side - window, stride), side - window]
