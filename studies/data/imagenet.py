"""`imagenet`, and any folder of images: DIR/train/<class>/* and DIR/val/<class>/*, or ImageNet's own flat DIR/val.

Images are prepared by timm as the backbone's configuration says (size, mean, std, crop, interpolation). The order of an
epoch is a function of (seed, epoch) and the augmentation of an image one of (seed, epoch, index): every reducer sees
the same images in the same order, with any number of workers and after a restart.

Letters: B images, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from studies.data import Batch
from studies.data.imagenet_files import Listing, list_split, read_classes
from studies.data.transforms import eval_transform, seeded, train_transform

__all__ = ["ImageFolder", "UnreadableImages"]

SCAN_LIMIT = 5000  # images that are all read before work starts: seconds; ImageNet would take an hour
Sample = tuple[Tensor | tuple[str, str], int]
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)  # PIL raises all these


class UnreadableImages(ValueError):
    """Files that are no images; `reasons` by path below the data folder."""

    def __init__(self, reasons: dict[str, str]):
        first = [f"{path} ({reason})" for path, reason in reasons.items()][:5]
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        super().__init__(
            f"{len(reasons)} unreadable image{'s' * (len(reasons) > 1)}: {', '.join(first)}{more}; "
            "repair or remove them, or leave them out with skip_unreadable=True (they are counted in the record)"
        )
        self.reasons = reasons


class ImageFolder:
    """The data set.

    `vit_config`: of `timm.data.resolve_model_data_config`. `augment`: arguments of `timm.data.create_transform` for
    training (transforms.AUGMENTS); None: timm's own. `workers`: processes that decode; 0 decodes here.
    `skip_unreadable`: leave broken images out and name them in `unreadable`, instead of raising.
    `scan_limit`: up to this many images are all read here and now.

    Raises ValueError for a folder that is missing, empty or not of this layout; UnreadableImages where some were found.
    """

    name = "imagenet"

    def __init__(
        self,
        root: str | Path,
        *,
        vit_config: dict[str, Any],
        seed: int = 0,
        workers: int = 0,
        augment: dict[str, Any] | None = None,
        skip_unreadable: bool = False,
        scan_limit: int = SCAN_LIMIT,
    ):
        self.root, self.seed, self.workers, self.skip_unreadable = Path(root), seed, workers, skip_unreadable
        channels, height, width = vit_config["input_size"]
        if channels != 3 or height != width:
            raise ValueError(f"input size {(channels, height, width)} is not that of a square RGB image")
        self.image_size = height
        self.mean, self.std = tuple(vit_config["mean"]), tuple(vit_config["std"])
        self.classes = read_classes(self.root)
        self.num_classes = len(self.classes)
        train, test = (list_split(self.root, split, self.classes) for split in ("train", "val"))
        self._splits = {
            "train": _Items(self.root, train, train_transform(vit_config, augment), seed),
            "val": _Items(self.root, test, eval_transform(vit_config), seed),
        }
        self.num_train, self.num_test = len(train.paths), len(test.paths)
        self.unreadable: list[str] = []
        self._loaders: dict[str, DataLoader] = {}
        self._orders: dict[str, _Order] = {}
        if self.num_train + self.num_test <= scan_limit:
            self._note(self.scan())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all paths, sizes and labels, not of the pixels: those would take hours."""
        digest = hashlib.sha256()
        for items in self._splits.values():
            for path, label in zip(items.listing.paths, items.listing.labels.tolist(), strict=True):
                digest.update(f"{path}\0{(self.root / path).stat().st_size}\0{self.classes[label]}\n".encode())
        return digest.hexdigest()

    def scan(self, limit: int | None = None) -> dict[str, str]:
        """Reads every image (the first `limit` of each split); what is wrong with the broken ones, by path."""
        paths = chain.from_iterable(items.listing.paths[:limit] for items in self._splits.values())
        return {path: reason for path in paths if (reason := _fault(self.root / path))}

    def train_batches(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Full batches of an epoch from number `start` on; those before are not decoded."""
        if batch_size > self.num_train:
            raise ValueError(
                f"batch_size {batch_size} is more than the {self.num_train} training images of {self.root}"
            )
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_train)
        full = order[: self.num_train // batch_size * batch_size].reshape(-1, batch_size)
        yield from self._batches("train", [[(epoch, i) for i in batch] for batch in full[start:].tolist()])

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """All images of val; the last batch may be smaller."""
        index = range(self.num_test)
        starts = range(0, self.num_test, batch_size)
        yield from self._batches("val", [[(0, i) for i in index[first : first + batch_size]] for first in starts])

    def _batches(self, split: str, keys: list[list[tuple[int, int]]]) -> Iterator[Batch]:
        items = self._splits[split]
        if self.workers == 0:
            loaded: Iterable = (collate([items[key] for key in batch]) for batch in keys)
        else:
            loaded = self._loader(split, keys)
        for images, index, broken in loaded:
            self._note(broken)
            if len(index):
                yield Batch(images, items.labels[index], index, index)
            elif split == "train":  # without it all later batches would have other numbers
                raise UnreadableImages(broken)

    def _loader(self, split: str, keys: list[list[tuple[int, int]]]) -> DataLoader:
        """The workers live on from epoch to epoch; which epoch it is comes with every key."""
        if split not in self._loaders:
            self._orders[split] = _Order()
            self._loaders[split] = DataLoader(
                self._splits[split],
                batch_sampler=self._orders[split],
                num_workers=self.workers,
                collate_fn=collate,
                multiprocessing_context="spawn",  # safe beside threads and CUDA
                persistent_workers=True,
            )
        self._orders[split].keys = keys
        return self._loaders[split]

    def _note(self, broken: dict[str, str]) -> None:
        if broken and not self.skip_unreadable:
            raise UnreadableImages(broken)
        self.unreadable += [path for path in broken if path not in self.unreadable]


class _Order:
    """The batches of the epoch at hand."""

    keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Items(Dataset):
    """(epoch, index) -> (image [3, S, S], index), or ((path, reason), index) where there is none. It is pickled once,
    on its way to a worker."""

    def __init__(self, root: Path, listing: Listing, transform: Any, seed: int):
        self.root, self.listing, self.transform, self.seed = root, listing, transform, seed
        self.labels = torch.from_numpy(listing.labels)

    def __len__(self) -> int:
        return len(self.listing.paths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        path = self.listing.paths[index]
        try:
            with Image.open(self.root / path) as file:
                image = file.convert("RGB")
        except BROKEN as error:
            return (path, str(error) or type(error).__name__), index
        with seeded(self.seed, epoch, index):
            return self.transform(image), index


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor, dict[str, str]]:
    """-> images [B, 3, S, S] and indices [B] of those that could be read, path and reason of the others"""
    good = [(image, index) for image, index in samples if isinstance(image, Tensor)]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    index = torch.tensor([index for _, index in good], dtype=torch.int64)
    return images, index, dict(fault for fault, _ in samples if not isinstance(fault, Tensor))


def _fault(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (32, 32))  # JPEG: decodes at an eighth of the size, and still sees where it is cut off
            image.load()
    except BROKEN as error:
        return str(error) or type(error).__name__
    return None
