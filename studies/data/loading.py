"""What data sets made of files have in common: the order of an epoch, decoding in worker processes, bad files.

The order of an epoch is a function of (seed, epoch) and the augmentation of an item one of (seed, epoch, index): every
reducer sees the same items in the same order, with any number of workers and after a restart.

Letters: B items, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from studies.data import Batch
from studies.data.transforms import seeded
from studies.data.workers import Workers

__all__ = [
    "BadFile", "FileDataset", "Items", "UnreadableImages", "WrongFiles", "decode", "held_out", "listed", "looked_into",
    "rgb",
    "skim",
]  # fmt: skip

HELD_OUT = 0.05  # share of the training items that choices are made by

WHOLE_BYTES = 2**27  # of a split whose files are part of its identity to the last bit
SOME_FILES = 500  # of a larger one

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)  # PIL raises all these
Key = tuple[int, int]  # epoch, index
Sample = tuple["tuple[Any, ...] | BadFile", int]  # of `Items`
T = TypeVar("T")


class BadFile(Exception):
    """A file that is no image, or (`wrong`) one that can be read and is not what it should be."""

    def __init__(self, path: str, reason: str, wrong: bool = False):
        super().__init__(path, reason, wrong)  # all of them: it comes back from worker processes
        self.path, self.reason, self.wrong = path, reason, wrong


class UnreadableImages(ValueError):
    """Files that are no images; `reasons` by path below the data folder."""

    def __init__(self, reasons: dict[str, str]):
        super().__init__(
            f"{len(reasons)} unreadable image{'s' * (len(reasons) > 1)}: {listed(map(_explained, reasons.items()))}; "
            "repair or remove them"
        )
        self.reasons = reasons


class WrongFiles(ValueError):
    """Files that are not what they should be, and are never left out; `reasons` by path below the data folder."""

    def __init__(self, reasons: dict[str, str]):
        super().__init__(
            f"{len(reasons)} wrong file{'s' * (len(reasons) > 1)}: {listed(map(_explained, reasons.items()))}"
        )
        self.reasons = reasons


def _error(bad: Collection[BadFile]) -> ValueError:
    """Of the wrong files if there are any: no option leaves them out."""
    wrong = {fault.path: fault.reason for fault in bad if fault.wrong}
    return WrongFiles(wrong) if wrong else UnreadableImages({fault.path: fault.reason for fault in bad})


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _explained(item: tuple[str, str]) -> str:
    return f"{item[0]} ({item[1]})"


def held_out(paths: Sequence[str]) -> np.ndarray:
    """Which training items choices are made by, where a data set has no split for that: a hashed share. -> [n] bool"""
    digests = [hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest() for path in paths]
    chosen = np.zeros(len(paths), bool)
    chosen[sorted(range(len(paths)), key=digests.__getitem__)[: math.ceil(HELD_OUT * len(paths))]] = True
    return chosen


def looked_into(files: Sequence[Path], whole_bytes: int = WHOLE_BYTES) -> Sequence[Path]:
    """The files whose content is part of a data set's identity: all, or of larger sets some, evenly spread."""
    if sum(file.stat().st_size for file in files) <= whole_bytes:
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, min(SOME_FILES, len(files))).astype(int)]


def decode(root: Path, path: str, read: Callable[[Image.Image], T]) -> T:
    """What `read` makes of an image file. Raises BadFile where PIL cannot read it."""
    try:
        with Image.open(root / path) as image:
            return read(image)
    except BROKEN as error:
        raise BadFile(path, str(error) or type(error).__name__) from error


def rgb(image: Image.Image) -> Image.Image:
    """An image in 8 bits of red, green and blue, as timm reads it (no rotation by EXIF, what is transparent shows its
    colour); 16 bits of grey are scaled, which PIL would clip. Raises ValueError for other numbers than these."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
            raise ValueError(f"pixels of mode {image.mode} have no range that is known; valid: 8 or 16 bits a channel")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    return image.convert("RGB")


def skim(image: Image.Image) -> tuple[int, int]:
    """Reads an image to its end, as fast as can be. -> height, width"""
    width, height = image.size
    image.draft("RGB", (32, 32))  # JPEG: decodes at an eighth of the size, and still sees where it is cut off
    image.load()
    return height, width


class Items(Dataset):
    """(epoch, index) -> (what `prepare` makes, index), or (BadFile, index) where there is none. It is pickled once, on
    its way to a worker."""

    def __init__(self, root: Path, paths: Sequence[str], seed: int):
        self.root, self.paths, self.seed = root, paths, seed  # paths below root

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        try:
            files = self.read(index)
        except BadFile as fault:
            return fault, index
        with seeded(self.seed, epoch, index):
            return self.prepare(*files), index

    def read(self, index: int) -> tuple[Any, ...]:
        """What the files of an item hold. Raises BadFile."""
        raise NotImplementedError

    def prepare(self, *files: Any) -> tuple[Any, ...]:
        """Image and target of what was read, and what else `batch` takes, with whatever is random about them."""
        raise NotImplementedError

    @staticmethod
    def batch(prepared: Sequence[tuple[Any, ...]], index: Tensor) -> Batch:
        """What `prepare` made of the items `index` [B]."""
        images, targets = map(torch.stack, zip(*prepared, strict=True))
        return Batch(images, targets, index, index)

    @classmethod
    def collate(cls, samples: Sequence[Sample]) -> tuple[Batch | None, list[BadFile]]:
        """The items that could be read, if there are any, and the others."""
        good = [(sample, index) for sample, index in samples if not isinstance(sample, BadFile)]
        bad = [sample for sample, _ in samples if isinstance(sample, BadFile)]
        if not good:
            return None, bad
        prepared, index = zip(*good, strict=True)
        return cls.batch(prepared, torch.tensor(index)), bad

    def check(self, index: int) -> None:
        """Raises BadFile where `read` would, if possible in less time."""
        self.read(index)

    def rows(self) -> Iterator[str]:
        """What tells this split from another: names, sizes and labels, but no pixels."""
        raise NotImplementedError

    def files(self) -> Sequence[str]:
        """All that it reads, below root."""
        return self.paths


class FileDataset:
    """A data set of two `Items`, "train" and "val"."""

    name: ClassVar[str]
    num_classes: int
    num_val = 0  # its own val stands for the test items: what is chosen is chosen by a share of train, see `held_out`

    def __init__(self, root: Path, splits: dict[str, Items], *, seed: int, workers: int, skip_unreadable: bool):
        self.root, self.seed, self.workers, self.skip_unreadable = root, seed, workers, skip_unreadable
        self._splits = splits
        self.num_train, self.num_test = len(splits["train"]), len(splits["val"])
        self.unreadable: list[str] = []
        self._workers: dict[str, Workers] = {}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all paths, sizes and labels, and of what the files hold: of all in a small set, else of some that
        are evenly spread, as all would take hours."""
        digest = hashlib.sha256()
        for items in self._splits.values():
            for row in items.rows():
                digest.update(f"{row}\n".encode(errors="surrogateescape"))
            for file in looked_into([self.root / path for path in items.files()]):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def scan(self, limit: int | None = None) -> dict[str, BadFile]:
        """Reads every item, or `limit` of each split, evenly spread; what is wrong with the bad files, by path."""
        bad: dict[str, BadFile] = {}
        for items in self._splits.values():
            num = len(items) if limit is None else min(limit, len(items))
            for index in np.linspace(0, len(items) - 1, num).astype(int).tolist():
                try:
                    items.check(index)
                except BadFile as fault:
                    bad[fault.path] = fault
        return bad

    def train_batches(self, epoch: int, batch_size: int, start: int = 0, rows: slice = slice(None)) -> Iterator[Batch]:
        """Full batches of an epoch from number `start` on, and of them `rows`; nothing else is decoded."""
        if batch_size > self.num_train:
            raise ValueError(
                f"batch_size {batch_size} is more than the {self.num_train} training images of {self.root}"
            )
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_train)
        full = order[: self.num_train // batch_size * batch_size].reshape(-1, batch_size)
        yield from self._batches("train", [[(epoch, i) for i in batch] for batch in full[start:, rows].tolist()])

    def val_batches(self, batch_size: int, turns: slice = slice(None)) -> Iterator[Batch]:
        """None."""
        yield from ()

    def test_batches(self, batch_size: int, turns: slice = slice(None)) -> Iterator[Batch]:
        """All images of val, or of these batches some; the last one may be smaller."""
        yield from self._batches("val", [[(0, i) for i in batch] for batch in self.test_order(batch_size)[turns]])

    def stream(self, batch_size: int, num: int) -> Iterator[Batch]:
        """`num` full batches of val, from its first image again behind its last."""
        index = [[(0, i % self.num_test) for i in range(n * batch_size, (n + 1) * batch_size)] for n in range(num)]
        yield from self._batches("val", index)

    def test_order(self, batch_size: int) -> list[Sequence[int]]:
        """The images of each test batch."""
        index = range(self.num_test)
        return [index[first : first + batch_size] for first in range(0, self.num_test, batch_size)]

    def test_items(self, items: Sequence[int]) -> Batch:
        """Images of val by number. Raises UnreadableImages, WrongFiles."""
        val = self._splits["val"]
        batch, bad = val.collate([val[0, i] for i in items])
        if batch is None or bad:
            raise _error(bad)
        return batch

    def _batches(self, split: str, keys: list[list[Key]]) -> Iterator[Batch]:
        items = self._splits[split]
        if self.workers == 0:
            loaded: Iterable = (items.collate([items[key] for key in batch]) for batch in keys)
        else:
            if split not in self._workers:
                self._workers[split] = Workers(items, items.collate, self.workers)
            loaded = self._workers[split].batches(keys)
        for batch, bad in loaded:
            self._note(bad)
            if batch is not None:
                yield batch
            elif split == "train":  # without it all later batches would have other numbers
                raise _error(bad)

    def _note(self, bad: Collection[BadFile]) -> None:
        """Raises for bad files, or remembers those that may be left out."""
        if bad and (not self.skip_unreadable or any(fault.wrong for fault in bad)):
            raise _error(bad)
        self.unreadable += [fault.path for fault in bad if fault.path not in self.unreadable]
