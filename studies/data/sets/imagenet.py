"""`imagenet`, and any folder of images: DIR/train/<class>/* and DIR/val/<class>/*, or ImageNet's own flat DIR/val.

Images are prepared by timm as the backbone's configuration says (size, mean, std, crop, interpolation).

Letters: S image side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studies.config import RunConfig
from studies.data import Dataset
from studies.data.imagenet_files import Listing, list_split, read_classes
from studies.data.loading import FileDataset, Items, UnreadableImages, decode, held_out, rgb, skim
from studies.data.transforms import eval_transform, train_transform, vit_config_of

__all__ = ["ImageFolder", "UnreadableImages"]

SCAN_LIMIT = 5000  # images that are all read before work starts: seconds; ImageNet would take an hour


class ImageFolder(FileDataset):
    """The data set.

    `vit_config`: of `timm.data.resolve_model_data_config`. `augment`: arguments of `timm.data.create_transform` for
    training (transforms.AUGMENTS); None: timm's own. `hold_out`: a share of train stands for val. `workers`: processes
    that decode; 0 decodes here. `skip_unreadable`: leave broken images out and name them in `unreadable`, instead of
    raising. `scan_limit`: up to this many images are all read here and now.

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
        hold_out: bool = False,
        skip_unreadable: bool = False,
        scan_limit: int = SCAN_LIMIT,
    ):
        root = Path(root)
        channels, height, width = vit_config["input_size"]
        if channels != 3 or height != width:
            raise ValueError(f"input size {(channels, height, width)} is not that of a square RGB image")
        self.image_size = height
        self.mean, self.std = tuple(vit_config["mean"]), tuple(vit_config["std"])
        self.classes = read_classes(root)
        self.num_classes = len(self.classes)
        train = list_split(root, "train", self.classes)
        if hold_out:
            out = held_out(train.paths)
            train, test = train.where(~out), train.where(out)
        else:
            test = list_split(root, "val", self.classes)
        splits: dict[str, Items] = {
            "train": _Images(root, train, self.classes, train_transform(vit_config, augment), seed),
            "val": _Images(root, test, self.classes, eval_transform(vit_config), seed),
        }
        super().__init__(root, splits, seed=seed, workers=workers, skip_unreadable=skip_unreadable)
        if self.num_train + self.num_test <= scan_limit:
            self._note(self.scan().values())


class _Images(Items):
    """Images and their classes."""

    def __init__(self, root: Path, listing: Listing, classes: list[str], transform: Any, seed: int):
        super().__init__(root, listing.paths, seed)
        self.labels, self.classes, self.transform = torch.from_numpy(listing.labels), classes, transform

    def read(self, index: int) -> tuple[Image.Image, Tensor]:
        return decode(self.root, self.paths[index], rgb), self.labels[index]

    def prepare(self, image: Image.Image, label: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(image), label

    def check(self, index: int) -> None:
        decode(self.root, self.paths[index], skim)

    def rows(self) -> Iterator[str]:
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield f"{path}\0{(self.root / path).stat().st_size}\0{self.classes[label]}"


def _make(config: RunConfig, workers: int) -> ImageFolder:
    assert config.data_dir is not None
    recipe = config.recipe
    augment = {} if recipe is None else {"auto_augment": recipe.augment, "re_prob": recipe.random_erasing}
    vit_config = vit_config_of(config.backbone)
    return ImageFolder(
        config.data_dir,
        vit_config=vit_config,
        seed=config.seed,
        workers=workers,
        augment=augment,
        hold_out=config.split == "val",
    )


DATASET = Dataset(
    name="imagenet",
    summary="ImageNet, or any folder of class folders",
    tasks=("classification", "fidelity"),
    splits={"train": "train/<class>/*", "test": "val/<class>/*, or ImageNet's own flat val/*"},
    settings=("augment", "random_erasing"),
    folder="a folder with train/<class>/* and val/<class>/*",
    make=_make,
)
