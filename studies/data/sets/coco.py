"""`coco`: COCO, or any data set of objects in its format (Lin et al., ECCV 2014; coco_files.py says what is read).

DIR/annotations/instances_train2017.json  instances_val2017.json      or instances_train*.json, instances_val*.json
DIR/train2017/*                           val2017/*                   the images: 118,287 and 5,000

Letters: B items, K objects of an image at most, H W height and width in pixels, S side of the square, L patches.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from studies.config import RunConfig
from studies.data import Batch, Dataset, Instances, Original
from studies.data.coco_files import (
    ImageEntry,
    Object,
    find_split,
    mask_of,
    read_annotations,
    rle_of,
    to_bbox,
)  # fmt: skip
from studies.data.loading import BadFile, FileDataset, Items, decode, held_out, listed, skim
from studies.data.object_transforms import EvalTransform, TrainTransform, patch_labels
from studies.data.segmentation_files import read_image
from studies.data.transforms import patch_size_of, vit_config_of

__all__ = ["Coco"]

IMAGE_SIZE = 1024  # ViTDet's
SCAN_LIMIT = 1000  # images of each split that are read before work starts: seconds

_logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """Images of an annotation file, and their objects."""

    file: Path
    folder: Path
    images: list[ImageEntry]
    objects: list[list[Object]]  # of each

    def where(self, chosen: Sequence[bool] | np.ndarray) -> Split:
        """Those of the images that are chosen."""
        both = [pair for pair, there in zip(zip(self.images, self.objects, strict=True), chosen, strict=True) if there]
        return self._replace(images=[image for image, _ in both], objects=[objects for _, objects in both])


class Coco(FileDataset):
    """The data set: images [B, 3, S, S], `Instances`, and the labels of patches [B, L].

    Training leaves out images without an object that is no crowd, as the field does, and yields random crops
    (object_transforms.TrainTransform). Testing yields every image whole, its long side resized to S, with what it is
    in its file (`Batch.originals`).

    `image_size`: S, a multiple of `patch_size`, which is that of the labels. `masks`: False reads boxes alone.
    `hold_out`: a share of train stands for val. `workers`: processes that decode; 0 decodes here. `skip_unreadable`:
    leave items with unreadable files out and name them in `unreadable`, instead of raising. `scan_limit`: so many
    images of each split, evenly spread, are all read here and now. The log says what was left out.

    Raises ValueError for what is wrong with the folder or the annotation files; UnreadableImages and WrongFiles (images
    of another size than their annotation says) for what it read.
    """

    name = "coco"

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int = IMAGE_SIZE,
        patch_size: int = 16,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        masks: bool = True,
        seed: int = 0,
        workers: int = 0,
        hold_out: bool = False,
        skip_unreadable: bool = False,
        scan_limit: int = SCAN_LIMIT,
    ):
        root = Path(root)
        self.image_size, self.patch_size, self.mean, self.std = image_size, patch_size, tuple(mean), tuple(std)
        self.classes, train = _read(root, "train", masks)
        self.num_classes = len(self.classes)
        if hold_out:
            out = held_out([image.path for image in train.images])
            train, val = train.where(~out), train.where(out)
        else:
            classes, val = _read(root, "val", masks)
            if classes != self.classes:
                raise ValueError(
                    f"{val.file} has other categories than {train.file.name}: {listed(classes)} in place of "
                    f"{listed(self.classes)}"
                )
        there = [any(not item.crowd for item in objects) for objects in train.objects]
        if not all(there):
            empty = [image.path for image, some in zip(train.images, there, strict=True) if not some]
            _logger.warning(
                "%s: %d of %d images are not trained on, without an object that is no crowd: %s",
                train.file.name, len(empty), len(there), listed(empty),
            )  # fmt: skip
        train = train.where(there)
        splits: dict[str, Items] = {
            "train": _Images(root, train, TrainTransform(image_size, mean, std), patch_size, seed),
            "val": _TestImages(root, val, EvalTransform(image_size, mean, std), patch_size, seed),
        }
        super().__init__(root, splits, seed=seed, workers=workers, skip_unreadable=skip_unreadable)
        self._note(self.scan(scan_limit).values())


def _read(root: Path, name: str, masks: bool) -> tuple[list[str], Split]:
    """Names of the classes, and the images of a split. The log says which annotations were left out."""
    file, folder = find_split(root, name)
    read = read_annotations(file, folder, masks)
    for note in read.notes():
        _logger.warning("%s: %s", file.name, note)
    return read.classes, Split(file, folder, read.images, read.objects)


class _Images(Items):
    """Images and their objects."""

    def __init__(self, root: Path, split: Split, transform: EvalTransform, patch_size: int, seed: int):
        super().__init__(root, [f"{split.folder.name}/{image.path}" for image in split.images], seed)
        self.split, self.transform, self.patch_size = split, transform, patch_size

    def read(self, index: int) -> tuple[Tensor, int]:
        image = read_image(self.root, self.paths[index])
        self._check_size(index, image.shape[-2:])
        return image, index

    def check(self, index: int) -> None:
        self._check_size(index, decode(self.root, self.paths[index], skim))

    def _check_size(self, index: int, size: Sequence[int]) -> None:
        entry = self.split.images[index]
        if tuple(size) != (entry.height, entry.width):
            said = f"{self.split.file.name} says {entry.width} x {entry.height} of image {entry.id}"
            raise BadFile(self.paths[index], f"{size[1]} x {size[0]} px, but {said}", wrong=True)

    def prepare(self, image: Tensor, index: int) -> tuple[Any, ...]:
        image, objects = self.transform(image, _instances(self.split.images[index], self.split.objects[index]))
        return image, objects, patch_labels(objects, self.patch_size)

    @staticmethod
    def batch(prepared: Sequence[tuple[Any, ...]], index: Tensor) -> Batch:
        images, objects, labels = zip(*prepared, strict=True)
        boxes, classes, masks, crowd, sizes = map(list, zip(*objects, strict=True))
        target = Instances(
            pad_sequence(boxes, batch_first=True), pad_sequence(classes, batch_first=True, padding_value=-1),
            pad_sequence(masks, batch_first=True), pad_sequence(crowd, batch_first=True), torch.stack(sizes),
        )  # fmt: skip
        return Batch(torch.stack(images), target, index, index, torch.stack(labels))

    def rows(self) -> Iterator[str]:
        yield hashlib.sha256(self.split.file.read_bytes()).hexdigest()
        for path in self.paths:
            yield f"{path}\0{(self.root / path).stat().st_size}"


class _TestImages(_Images):
    """The same, and what they are in their files."""

    def prepare(self, image: Tensor, index: int) -> tuple[Any, ...]:
        original = _original(self.split.images[index], self.split.objects[index])
        return *super().prepare(image, index), original

    @staticmethod
    def batch(prepared: Sequence[tuple[Any, ...]], index: Tensor) -> Batch:
        resized = _Images.batch([parts[:-1] for parts in prepared], index)
        return resized._replace(originals=[parts[-1] for parts in prepared])


def _original(entry: ImageEntry, objects: list[Object]) -> Original:
    found = [
        {
            "category_id": item.category, "bbox": to_bbox(item.box), "area": item.area, "iscrowd": int(item.crowd),
            "segmentation": rle_of(item, entry.height, entry.width),
        }
        for item in objects
    ]  # fmt: skip
    return Original(entry.height, entry.width, found)


def _instances(entry: ImageEntry, objects: list[Object]) -> Instances:
    """Of one image, without the letter B."""
    masks = np.zeros((len(objects), entry.height, entry.width), bool)
    for mask, item in zip(masks, objects, strict=True):
        mask[:] = mask_of(item, entry.height, entry.width)
    return Instances(
        torch.tensor([item.box for item in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([item.category for item in objects], dtype=torch.int64),
        torch.from_numpy(masks),
        torch.tensor([item.crowd for item in objects], dtype=torch.bool),
        torch.tensor([entry.height, entry.width]),
    )


def _make(config: RunConfig, workers: int) -> Coco:
    assert config.data_dir is not None
    vit_config, image_size = vit_config_of(config.backbone), config.img_size or IMAGE_SIZE
    patch_size = patch_size_of(config.backbone, image_size)
    return Coco(
        config.data_dir, image_size=image_size, patch_size=patch_size,
        mean=vit_config["mean"], std=vit_config["std"], masks=config.masks, seed=config.seed, workers=workers,
        hold_out=config.split == "val",
    )  # fmt: skip


DATASET = Dataset(
    name="coco",
    summary="COCO, or any data set of objects in its format",
    tasks=("detection",),
    splits={"train": "annotations/instances_train2017.json, train2017", "test": "the same of val2017"},
    sized=True,
    folder="a folder with annotations/instances_*.json, train2017/ and val2017/",
    make=_make,
)
