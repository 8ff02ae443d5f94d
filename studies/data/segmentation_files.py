"""Folders of images and masks: which files belong together, and what a mask may hold.

A mask is a PNG of the size of its image whose pixels are class numbers. Letters: H W height and width in pixels.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from studies.data.augment import IGNORE
from studies.data.imagenet_files import image_paths
from studies.data.loading import BadFile, decode, listed, rgb

__all__ = ["Folders", "MaskFormat", "list_pairs", "read_classes", "read_image", "read_mask"]

CLASSES = "classes.txt"
GREY, PALETTE = ("1", "I;16", "L"), "P"  # PIL's modes


class Folders(NamedTuple):
    """Where the images and the masks of a split are, below the data folder."""

    images: str
    masks: str


class MaskFormat(NamedTuple):
    """How pixels name classes: 0 to num_classes - 1 and `ignore`; or, where zero is ignored, from 1 on."""

    num_classes: int
    zero_is_ignored: bool = False
    palette: bool = False  # accept palette PNGs, and read the index into the palette as the class
    ignore: int = IGNORE  # what is no class, even where it is the number of one

    def labels(self) -> tuple[list[int], str]:
        """The values that a pixel may have, and the same in words."""
        if self.zero_is_ignored:
            return list(range(self.num_classes + 1)), f"1 to {self.num_classes}, and 0 to ignore"
        return [*range(self.num_classes), self.ignore], f"0 to {self.num_classes - 1}, and {self.ignore} to ignore"


def read_classes(root: Path) -> list[str]:
    """The names of the classes in the order of their numbers: the lines of `root`/classes.txt."""
    _require(root)
    if not (root / CLASSES).is_file():
        raise ValueError(f"{root} has no {CLASSES}; needed: the name of each class on a line of its own, class 0 first")
    names = [line.strip() for line in (root / CLASSES).read_text().splitlines() if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{root / CLASSES} names classes twice: {listed(twice)}")
    if not 2 <= len(names) <= IGNORE:
        raise ValueError(f"{root / CLASSES} has {len(names)} classes; possible: 2 to {IGNORE}")
    return names


def list_pairs(root: Path, folders: Folders) -> list[Folders]:
    """Image and mask of each item, in the order of the images' paths; they share the path below their folders but for
    the extension. Raises ValueError for missing folders and for files without partner."""
    images, masks = (_by_stem(root, folder) for folder in folders)
    if not images:
        raise ValueError(f"{root / folders.images} has no images")
    complaints = [
        f"{len(alone)} {kind} without {partner}: {listed(alone)}"
        for kind, partner, alone in (
            ("images", f"mask in {folders.masks}", [images[stem] for stem in images if stem not in masks]),
            ("masks", f"image in {folders.images}", [masks[stem] for stem in masks if stem not in images]),
        )
        if alone
    ]
    if complaints:
        raise ValueError(f"{root}: {'; '.join(complaints)}")
    return [Folders(images[stem], masks[stem]) for stem in images]


def _by_stem(root: Path, folder: str) -> dict[str, str]:
    _require(root / folder)
    stems: dict[str, str] = {}
    for path in sorted(image_paths(root, root / folder)):
        stem = str(PurePosixPath(path).relative_to(folder).with_suffix(""))
        if stem in stems:
            raise ValueError(f"{root}: {stems[stem]} and {path} have the same name; which one is meant?")
        stems[stem] = path
    return stems


def _require(folder: Path) -> None:
    if not folder.is_dir():
        above = next(parent for parent in folder.parents if parent.is_dir())
        found = listed(sorted(entry.name for entry in above.iterdir())) or "nothing"
        raise ValueError(f"data folder {folder} does not exist; {above} has: {found}")


def read_image(root: Path, path: str) -> Tensor:
    """-> [3, H, W] uint8. Raises BadFile."""
    return decode(root, path, lambda file: pil_to_tensor(rgb(file)))


def read_mask(root: Path, path: str, image: str, size: tuple[int, ...], form: MaskFormat) -> Tensor:
    """-> labels [H, W] uint8: 0 to num_classes - 1, 255 to ignore. `size`: height and width of its image `image`.
    Raises BadFile, also for a mask that is not as `form` says."""
    kind, mode, raw = decode(root, path, lambda file: (str(file.format), file.mode, np.array(file)))
    if fault := _form_fault(kind, mode, form) or _size_fault(raw.shape, size, image) or _label_fault(raw, form):
        raise BadFile(path, fault, wrong=True)
    labels = raw.astype(np.uint8)
    if form.zero_is_ignored:
        return torch.from_numpy(labels - np.uint8(1))  # 0 - 1 is 255 in uint8
    labels[labels == form.ignore] = IGNORE
    return torch.from_numpy(labels)


def _form_fault(kind: str, mode: str, form: MaskFormat) -> str | None:
    if kind != "PNG":
        return f"a {kind}, but a mask is a PNG"
    if mode == PALETTE and not form.palette:
        return (
            "a palette PNG where class numbers are expected; if the indices into the palette are the classes, ask for "
            "them with palette=True, or --dataset masks-palette"
        )
    if mode not in (*GREY, PALETTE):
        return f"an {mode} image, but a mask has one channel: the class number of each pixel"
    return None


def _size_fault(found: tuple[int, ...], size: tuple[int, ...], image: str) -> str | None:
    if found == size:
        return None
    return f"{found[1]} x {found[0]} px, but its image {image} has {size[1]} x {size[0]} px"


def _label_fault(raw: np.ndarray, form: MaskFormat) -> str | None:
    values, words = form.labels()
    count = np.bincount(raw.ravel(), minlength=IGNORE + 1)
    count[values] = 0
    wrong = np.flatnonzero(count).tolist()
    if not wrong:
        return None
    return f"label{'s' * (len(wrong) > 1)} {listed(map(str, wrong))} out of range; valid: {words}"
