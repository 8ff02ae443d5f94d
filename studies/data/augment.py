"""Augmentation of images with masks, as the field trains segmentation on ADE20k (mmsegmentation's pipeline): random
resize, random crop, horizontal flip, photometric distortion. Images are resized bilinearly (antialiased), masks to the
nearest label.

All draws come from torch's generator: under `transforms.seeded` they are a function of its key.

Letters: H W height and width in pixels, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

__all__ = ["IGNORE", "EvalTransform", "TrainTransform", "distort", "random_crop", "resize"]

IGNORE = 255  # label of pixels that count nowhere
CROP_TRIES = 10


class TrainTransform:
    """Image [3, H, W] uint8 and mask [H, W] uint8 -> image [3, S, S] float32, normalised, and mask [S, S] int64.

    The short side is resized to S times a draw from `ratio`. What is smaller than the crop is padded to the right and
    below, the image with 0 (after normalisation: the mean colour), the mask with the ignore label.
    """

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float], ratio: tuple[float, float] = (0.5, 2.0)):
        self.side, self.mean, self.std, self.ratio = side, list(mean), list(std), ratio

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        short_side = round(self.side * _between(*self.ratio))
        image, mask = random_crop(resize(image, short_side), resize(mask[None], short_side, nearest=True)[0], self.side)
        if _coin():
            image, mask = image.flip(-1), mask.flip(-1)
        image = TF.normalize(distort(unit(image)), self.mean, self.std)
        pad = (0, self.side - mask.shape[1], 0, self.side - mask.shape[0])
        return F.pad(image, pad), F.pad(mask.long(), pad, value=IGNORE)


class EvalTransform:
    """Image [3, H, W] uint8 and mask [H, W] uint8 -> the image with a short side of S pixels, float32, normalised, and
    the mask as it was, int64."""

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float]):
        self.side, self.mean, self.std = side, list(mean), list(std)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return TF.normalize(unit(resize(image, self.side)), self.mean, self.std), mask.long()


def resize(image: Tensor, short_side: int, nearest: bool = False) -> Tensor:
    """[_, H, W] with a short side of `short_side` pixels and the same shape, bilinear or to the nearest."""
    scale = short_side / min(image.shape[-2:])
    size = [max(short_side, round(side * scale)) for side in image.shape[-2:]]
    mode = v2.InterpolationMode.NEAREST_EXACT if nearest else v2.InterpolationMode.BILINEAR
    return TF.resize(image, size, mode, antialias=True)


def random_crop(image: Tensor, mask: Tensor, side: int, most: float = 0.75) -> tuple[Tensor, Tensor]:
    """A crop of at most `side` x `side` pixels of image [3, H, W] and mask [H, W]: of ten tries the first in which
    every class has less than `most` of the labelled pixels, else the last."""
    height, width = mask.shape
    rows, cols = min(side, height), min(side, width)
    for _ in range(CROP_TRIES):
        top, left = (int(torch.randint(num, ())) for num in (height - rows + 1, width - cols + 1))
        labels = mask[top : top + rows, left : left + cols]
        count = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
        if count.max() < most * count.sum():
            break
    return image[:, top : top + rows, left : left + cols], labels


def distort(image: Tensor) -> Tensor:
    """Photometric distortion (SSD, arXiv 1512.02325) of an image [3, H, W] float in 0 to 1: brightness by up to 32/255
    up or down, contrast and saturation by a factor of 0.5 to 1.5, hue by up to 36 degrees (18 of OpenCV's 180 steps);
    each with probability 1/2, contrast before or after the colours.

    torchvision's RandomPhotometricDistort also swaps channels, which the field's pipeline does not, and multiplies
    where that adds to the brightness. Saturation is torchvision's, blending with grey; the pipeline scales S of HSV.
    """
    contrast, before = _between(0.5, 1.5) if _coin() else 1.0, _coin()
    if _coin():
        image = (image + _between(-32 / 255, 32 / 255)).clamp(0, 1)
    if before:
        image = (image * contrast).clamp(0, 1)
    if _coin():
        image = TF.adjust_saturation(image, _between(0.5, 1.5))
    if _coin():
        image = TF.adjust_hue(image, _between(-0.1, 0.1))
    return image if before else (image * contrast).clamp(0, 1)


def unit(image: Tensor) -> Tensor:
    """uint8 -> float32 in 0 to 1"""
    return TF.to_dtype(image, torch.float32, scale=True)


def _between(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _coin() -> bool:
    return bool(torch.rand(()) < 0.5)
