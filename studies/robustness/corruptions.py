"""A small fixed set of corruptions of test images, each at one severity.

The kinds are of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261); they are computed here at a severity of their
own, so that figures are no mCE and are compared with nothing but each other. What is random about an image is a
function of its number alone, and no pixel depends on the other images of a batch.

Letters: B batch, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cropr.nearest import one_of
from studies.data import Batch

__all__ = ["CORRUPTIONS", "Corruption", "corrupted", "parse_corruptions"]

ALL = "all"
NOISE = 0.18  # of the range of a pixel
CONTRAST = 0.3
OCCLUDED = 1 / 3  # of the side
BLOCK_PX, BLOCKS = 2, 56  # at least so many pixels, at most so many blocks along a side
BLUR_PX, BLURS = 0.8, 75  # likewise, of a standard deviation


class Corruption(NamedTuple):
    """`said`: what it is, severity included. `make`: pixels in 0..1 [B, 3, S, S], numbers of the items [B] -> [B, 3, S,
    S], outside of the range too."""

    said: str
    make: Callable[[Tensor, Sequence[int]], Tensor]


def corrupted(batches: Iterable[Batch], name: str, mean: Sequence[float], std: Sequence[float]) -> Iterator[Batch]:
    """The same batches with their images corrupted; `mean` and `std` [3] are those of their normalisation."""
    shift, scale = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    for batch in batches:
        pixels = CORRUPTIONS[name].make((batch.images * scale + shift).clamp(0, 1), batch.item.tolist())
        yield batch._replace(images=(pixels.clamp(0, 1) - shift) / scale)


def parse_corruptions(text: str) -> tuple[str, ...]:
    """`all`, or names with commas. Raises ValueError for another, with the nearest, and for one that is there twice."""
    names = tuple(CORRUPTIONS) if text == ALL else tuple(name.strip() for name in text.split(","))
    for name in names:
        one_of("corruption", name, (*CORRUPTIONS, *([ALL] if len(names) == 1 else [])))
    if len(set(names)) < len(names):
        raise ValueError(f"--corruptions {text} has a name twice")
    return names


def _random(kind: str, item: int) -> np.random.Generator:
    """Of one item: Philox counts, it has no state that an earlier item could have moved."""
    key = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=np.array([key, item], np.uint64)))


def _noise(pixels: Tensor, items: Sequence[int]) -> Tensor:
    drawn = [_random("noise", item).standard_normal(pixels.shape[1:], np.float32) for item in items]
    return pixels + NOISE * torch.from_numpy(np.stack(drawn))


def _blur(pixels: Tensor, items: Sequence[int]) -> Tensor:
    """Along rows, then along columns; what is beyond the border mirrors what is inside."""
    sigma = max(BLUR_PX, pixels.shape[-1] / BLURS)
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)]
    for axis, pad in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        wide, side = F.pad(pixels, pad, mode="reflect"), pixels.shape[axis]
        total = torch.zeros_like(pixels)  # term by term: a sum over a dimension may depend on the size of the batch
        for first, weight in enumerate(weights):
            total += weight * wide.narrow(axis, first, side)
        pixels = total / sum(weights)
    return pixels


def _contrast(pixels: Tensor, items: Sequence[int]) -> Tensor:
    mean = pixels.double().mean(dim=(2, 3), keepdim=True).float()
    return mean + CONTRAST * (pixels - mean)


def _pixelate(pixels: Tensor, items: Sequence[int]) -> Tensor:
    side = pixels.shape[-1]
    block = max(BLOCK_PX, round(side / BLOCKS))
    means = F.avg_pool2d(pixels, block, ceil_mode=True)  # of those pixels of a block that are in the image
    return means.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., : pixels.shape[2], :side]


def _occlude(pixels: Tensor, items: Sequence[int]) -> Tensor:
    found = pixels.clone()
    side = round(OCCLUDED * pixels.shape[-1])
    for image, item in zip(found, items, strict=True):
        top, left = _random("occlusion", item).integers(pixels.shape[-1] - side + 1, size=2).tolist()
        image[:, top : top + side, left : left + side] = 0.5
    return found


CORRUPTIONS = {
    "noise": Corruption(f"Gaussian noise, standard deviation {NOISE} of the range of a pixel", _noise),
    "blur": Corruption(f"Gaussian blur, standard deviation side / {BLURS}, at least {BLUR_PX} px", _blur),
    "contrast": Corruption(f"contrast of {CONTRAST} about the mean of each colour", _contrast),
    "pixelate": Corruption(f"means of blocks of side / {BLOCKS}, at least {BLOCK_PX} px", _pixelate),
    "occlusion": Corruption("a grey square of a third of the side, anywhere", _occlude),
}
