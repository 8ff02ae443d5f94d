"""Augmentation of images with objects, as ViTDet is trained (arXiv 2203.16527; large-scale jitter: Ghiasi et al., arXiv
2012.07177): a random size, a crop, a horizontal flip, and padding to a square. Images are resized bilinearly
(antialiased), masks to the nearest pixel, and boxes move with them.

All draws come from torch's generator: under `transforms.seeded` they are a function of its key.

Letters: K objects, H W height and width in pixels, S side of the square, L patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from studies.data import Instances
from studies.data.augment import unit

__all__ = ["EvalTransform", "TrainTransform", "fitting", "flip", "patch_labels", "resized_crop", "visible"]


class EvalTransform:
    """Image [3, H, W] uint8 and its objects, of one image and without the letter B -> image [3, S, S] float32,
    normalised, and its objects. The long side is resized to S; to the right and below there is padding of 0 (after
    normalisation: the mean colour). All objects stay, also those that have no pixel any more."""

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float]):
        self.side, self.mean, self.std = side, list(mean), list(std)

    def __call__(self, image: Tensor, objects: Instances) -> tuple[Tensor, Instances]:
        size = fitting(image.shape[-2:], self.side)
        return self._padded(*resized_crop(image, objects, size, (0, 0), self.side))

    def _padded(self, image: Tensor, objects: Instances) -> tuple[Tensor, Instances]:
        image = TF.normalize(unit(image), self.mean, self.std)
        pad = (0, self.side - image.shape[2], 0, self.side - image.shape[1])
        return F.pad(image, pad), objects._replace(masks=F.pad(objects.masks, pad))


class TrainTransform(EvalTransform):
    """The same, with the long side resized to S times a draw from `ratio`, of which a random crop of at most S x S is
    taken, flipped with a probability of 1/2. Objects without a pixel in it are gone; the boxes of the others are the
    tight ones of their masks, as a crop may cut off what a box was as large for."""

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float], ratio: tuple[float, float] = (0.1, 2.0)):
        super().__init__(side, mean, std)
        self.ratio = ratio

    def __call__(self, image: Tensor, objects: Instances) -> tuple[Tensor, Instances]:
        size = fitting(image.shape[-2:], self.side * float(torch.empty(()).uniform_(*self.ratio)))
        top, left = (int(torch.randint(max(0, edge - self.side) + 1, ())) for edge in size)
        image, objects = resized_crop(image, objects, size, (top, left), self.side)
        if torch.rand(()) < 0.5:
            image, objects = flip(image, objects)
        return self._padded(image, visible(objects))


def fitting(size: Sequence[int], side: float) -> tuple[int, int]:
    """Height and width of the same shape with a long side of `side` pixels."""
    height, width = (max(1, round(edge * side / max(size))) for edge in size)
    return height, width


def resized_crop(
    image: Tensor, objects: Instances, size: tuple[int, int], corner: tuple[int, int], side: int
) -> tuple[Tensor, Instances]:
    """What of an image that is resized to `size` lies right of and below its `corner` (top, left), at most `side` x
    `side` pixels. Boxes are clipped to it."""
    (height, width), (top, left) = image.shape[-2:], corner
    bottom, right = (min(first + side, edge) for first, edge in zip(corner, size, strict=True))
    resized = TF.resize(image, list(size), antialias=True)[:, top:bottom, left:right]
    # Of masks only these pixels are ever made: a hundred whole ones of twice the side would take gigabytes.
    rows, columns = _nearest(top, bottom, height / size[0]), _nearest(left, right, width / size[1])
    masks = objects.masks[:, rows][:, :, columns]
    boxes = objects.boxes * torch.tensor([size[1] / width, size[0] / height] * 2) - torch.tensor([left, top] * 2)
    most = torch.tensor([right - left, bottom - top] * 2)
    return resized, objects._replace(
        boxes=boxes.clamp(min=0).minimum(most), masks=masks, sizes=torch.tensor(resized.shape[-2:])
    )


def _nearest(first: int, last: int, scale: float) -> Tensor:
    """Which old pixel the centre of each new one from `first` to before `last` is in; a new one is `scale` old."""
    return ((torch.arange(first, last, dtype=torch.float64) + 0.5) * scale).long()


def flip(image: Tensor, objects: Instances) -> tuple[Tensor, Instances]:
    """Mirrored from left to right."""
    x0, y0, x1, y1 = objects.boxes.unbind(-1)
    width = image.shape[-1]
    boxes = torch.stack([width - x1, y0, width - x0, y1], -1)
    return image.flip(-1), objects._replace(boxes=boxes, masks=objects.masks.flip(-1))


def visible(objects: Instances) -> Instances:
    """Those of which there is a pixel, each with the tight box of its mask."""
    there = objects.masks.flatten(1).any(1)
    masks = objects.masks[there]
    columns, rows = masks.any(1).byte(), masks.any(2).byte()  # [K, W], [K, H]
    first = torch.stack([columns.argmax(1), rows.argmax(1)], 1)
    after = torch.tensor(masks.shape[:0:-1]) - torch.stack([columns.flip(1).argmax(1), rows.flip(1).argmax(1)], 1)
    boxes = torch.cat([first, after], 1).float()
    return Instances(boxes, objects.classes[there], masks, objects.crowd[there], objects.sizes)


def patch_labels(objects: Instances, patch_size: int) -> Tensor:
    """[L] 1 + the class of the object that has most pixels of each patch of the square, 0 where there is none. Small
    objects lie over larger ones. A crowd is of its class too."""
    num, side = len(objects.masks), objects.masks.shape[-1] // patch_size
    painted = torch.zeros(objects.masks.shape[1:], dtype=torch.int64)
    for k in objects.masks.sum((1, 2)).argsort(descending=True, stable=True).tolist():
        painted[objects.masks[k]] = k + 1
    patches = painted.unflatten(0, (side, patch_size)).unflatten(2, (side, patch_size)).transpose(1, 2).flatten(2)
    cell = torch.arange(side**2)[:, None] * (num + 1) + patches.flatten(0, 1)
    count = torch.bincount(cell.flatten(), minlength=side**2 * (num + 1)).view(-1, num + 1)
    count[:, 0] = 0
    label = torch.cat([torch.zeros(1, dtype=torch.int64), objects.classes + 1])
    return label[count.argmax(1)]  # of nothing but zeros the first, the background
