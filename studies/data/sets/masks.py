"""`masks`: any folder of images with masks for semantic segmentation.

DIR/classes.txt                the name of each class on a line, class 0 first
DIR/images/train/*  val/*      images of any size and kind
DIR/masks/train/*   val/*      a PNG of the same name and size for each: its pixels are class numbers, 255 to ignore

Letters: B items, H W height and width in pixels, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from studies.config import RunConfig
from studies.data import Dataset
from studies.data.augment import IGNORE, EvalTransform, TrainTransform
from studies.data.loading import BadFile, FileDataset, Items, decode, held_out, skim
from studies.data.segmentation_files import Folders, MaskFormat, list_pairs, read_classes, read_image, read_mask
from studies.data.transforms import vit_config_of

__all__ = ["MaskFolder"]

SCAN_LIMIT = 1000  # pairs of each split that are read before work starts: seconds


class MaskFolder(FileDataset):
    """The data set.

    Training yields images [B, 3, S, S] and masks [B, S, S], augmented (augment.TrainTransform).

    Testing yields each image whole, its short side resized to S, and its mask [H, W] as it is: resize the logits to the
    mask. Images of one size come together, at most `batch_size` of them, so their order is not that of their numbers,
    nothing is padded, and what a model says of an image depends on no other.

    `image_size`: S. `hold_out`: a share of train stands for val. `palette`: accept palette PNGs, whose indices are the
    classes. `ignore`: the pixel value that counts nowhere; None: 255, where that leaves more than one class. `workers`:
    processes that decode; 0 decodes here. `skip_unreadable`: leave items with unreadable files out and name them in
    `unreadable`, instead of raising. `scan_limit`: so many pairs of each split, evenly spread, are all read here and
    now.

    Raises ValueError for a folder that is missing or empty, files without partner, or classes.txt; UnreadableImages and
    WrongFiles (masks of another size than their image, with labels out of range, of another form) for what it read;
    ValueError too where these hold but one class beside what is ignored.
    """

    name = "masks"
    ignore_index = IGNORE
    zero_is_ignored: ClassVar[bool] = False
    train, val = Folders("images/train", "masks/train"), Folders("images/val", "masks/val")

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int = 512,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        seed: int = 0,
        workers: int = 0,
        palette: bool = False,
        ignore: int | None = None,
        hold_out: bool = False,
        skip_unreadable: bool = False,
        scan_limit: int = SCAN_LIMIT,
    ):
        root = Path(root)
        self.image_size, self.mean, self.std = image_size, tuple(mean), tuple(std)
        self.classes = self.read_classes(root)
        self.num_classes = len(self.classes)
        form = MaskFormat(self.num_classes, self.zero_is_ignored, palette, IGNORE if ignore is None else ignore)
        pairs = list_pairs(root, self.train)
        if hold_out:
            out = held_out([pair.images for pair in pairs])
            train, val = ([p for p, there in zip(pairs, out, strict=True) if there == which] for which in (False, True))
        else:
            train, val = pairs, list_pairs(root, self.val)
        self._train, self._val = (
            _Pairs(root, split, self.classes, form, transform(image_size, self.mean, self.std), seed)
            for split, transform in ((train, TrainTransform), (val, EvalTransform))
        )
        splits: dict[str, Items] = {"train": self._train, "val": self._val}
        super().__init__(root, splits, seed=seed, workers=workers, skip_unreadable=skip_unreadable)
        self._note(self.scan(scan_limit).values())
        seen = self._train.seen | self._val.seen
        if ignore is None and seen[IGNORE] and seen[: self.num_classes].sum() == 1 < self.num_classes:
            only = self.classes[int(seen[: self.num_classes].nonzero())]
            raise ValueError(
                f"the masks of {root} hold one class ({only}) and {IGNORE}, which is ignored: every model would be "
                f"right; if {IGNORE} is a class, write its number into the masks; if it is not, say --ignore {IGNORE}"
            )

    def read_classes(self, root: Path) -> list[str]:
        """The names of the classes in the order of their numbers."""
        return read_classes(root)

    @cached_property
    def empty_classes(self) -> list[str]:
        """Classes that occur in no test mask. Reads them all."""
        seen = torch.zeros(IGNORE + 1, dtype=torch.bool)
        for index in range(self.num_test):
            try:
                seen[self._val.mask(index, self._val.size(index)).unique().long()] = True
            except BadFile as fault:
                self._note([fault])
        return [name for number, name in enumerate(self.classes) if not seen[number]]

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Test images by size. Unreadable ones stand alone: reading them shows what is wrong."""
        groups: dict[object, list[int]] = {}
        for index in range(self.num_test):
            try:
                groups.setdefault(self._val.size(index), []).append(index)
            except BadFile:
                groups[index] = [index]
        return list(groups.values())

    def test_order(self, batch_size: int) -> list[Sequence[int]]:
        return [
            group[first : first + batch_size] for group in self._groups for first in range(0, len(group), batch_size)
        ]


class _Pairs(Items):
    """Images and their masks."""

    def __init__(
        self,
        root: Path,
        pairs: list[Folders],
        classes: list[str],
        form: MaskFormat,
        transform: TrainTransform | EvalTransform,
        seed: int,
    ):
        super().__init__(root, [pair.images for pair in pairs], seed)
        self.masks, self.classes, self.form, self.transform = [pair.masks for pair in pairs], classes, form, transform
        self.seen = torch.zeros(IGNORE + 1, dtype=torch.bool)  # labels of the masks that were checked

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        image = read_image(self.root, self.paths[index])
        return image, self.mask(index, image.shape[-2:])

    def check(self, index: int) -> None:
        labels = self.mask(index, decode(self.root, self.paths[index], skim))
        self.seen[labels.unique().long()] = True

    def mask(self, index: int, size: tuple[int, ...]) -> Tensor:
        """The mask of an image of `size`, height and width."""
        return read_mask(self.root, self.masks[index], self.paths[index], size, self.form)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image by its header."""
        return decode(self.root, self.paths[index], lambda file: (file.height, file.width))

    def prepare(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(image, mask)

    def files(self) -> Sequence[str]:
        return [*self.paths, *self.masks]

    def rows(self) -> Iterator[str]:
        yield "\0".join(self.classes)
        if self.form.ignore != IGNORE:
            yield str(self.form.ignore)
        for pair in zip(self.paths, self.masks, strict=True):
            yield "\0".join(f"{path}\0{(self.root / path).stat().st_size}" for path in pair)


def _make(config: RunConfig, workers: int) -> MaskFolder:
    assert config.data_dir is not None
    vit_config = vit_config_of(config.backbone)
    size, mean, std = vit_config["input_size"][-1], vit_config["mean"], vit_config["std"]
    return MaskFolder(
        config.data_dir, image_size=size, mean=mean, std=std, seed=config.seed, workers=workers,
        palette=config.dataset == PALETTE.name, ignore=config.ignore, hold_out=config.split == "val",
    )  # fmt: skip


DATASET = Dataset(
    name="masks",
    summary="any folder of images, masks of class numbers and classes.txt",
    tasks=("segmentation",),
    splits={"train": "images/train, masks/train", "test": "images/val, masks/val"},
    ignore=True,
    folder="a folder with images/, masks/ and classes.txt",
    make=_make,
)
PALETTE = replace(
    DATASET, name="masks-palette", summary="the same, where masks are palette PNGs whose indices are the classes"
)
