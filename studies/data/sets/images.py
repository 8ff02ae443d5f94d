"""`images`: any folder of photographs, without labels: DIR/**/*. Nothing is trained on them.

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

from cropr.nearest import did_you_mean
from studies.config import RunConfig
from studies.data import Dataset
from studies.data.imagenet_files import EXTENSIONS, image_paths
from studies.data.loading import FileDataset, Items, decode, rgb, skim
from studies.data.transforms import eval_transform, vit_config_of

__all__ = ["Images"]

SCAN_LIMIT = 5000  # images that are all read before work starts: seconds
NO_LABEL = -1


class Images(FileDataset):
    """The data set: all images below `root`, in the order of their paths; their target is -1.

    `vit_config`: of `timm.data.resolve_model_data_config`; `num_classes`: of the model. `workers`: processes that
    decode. `scan_limit`: up to this many images are all read here and now.

    Raises ValueError for a folder that is missing or has no images; UnreadableImages where some were found.
    """

    name = "images"
    classes = ()

    def __init__(
        self,
        root: str | Path,
        *,
        vit_config: dict[str, Any],
        num_classes: int,
        seed: int = 0,
        workers: int = 0,
        scan_limit: int = SCAN_LIMIT,
    ):
        root = Path(root)
        if not root.is_dir():
            beside = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
            raise ValueError(f"data folder {root} does not exist{did_you_mean(root.name, beside)}")
        channels, height, width = vit_config["input_size"]
        if channels != 3 or height != width:
            raise ValueError(f"input size {(channels, height, width)} is not that of a square RGB image")
        self.image_size, self.num_classes = height, num_classes
        self.mean, self.std = tuple(vit_config["mean"]), tuple(vit_config["std"])
        paths = sorted(path.removeprefix("./") for path in image_paths(root, root))
        if not paths:
            raise ValueError(f"{root} has no images in it or below ({', '.join(EXTENSIONS)})")
        transform = eval_transform(vit_config)
        splits: dict[str, Items] = {
            name: _Images(root, own, transform) for name, own in (("train", []), ("val", paths))
        }
        super().__init__(root, splits, seed=seed, workers=workers, skip_unreadable=False)
        if len(paths) <= scan_limit:
            self._note(self.scan().values())


class _Images(Items):
    """Images alone."""

    def __init__(self, root: Path, paths: list[str], transform: Any):
        super().__init__(root, paths, seed=0)
        self.transform = transform

    def read(self, index: int) -> tuple[Image.Image]:
        return (decode(self.root, self.paths[index], rgb),)

    def prepare(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        return self.transform(image), torch.tensor(NO_LABEL)

    def check(self, index: int) -> None:
        decode(self.root, self.paths[index], skim)

    def rows(self) -> Iterator[str]:
        for path in self.paths:
            yield f"{path}\0{(self.root / path).stat().st_size}"


def _make(config: RunConfig, workers: int) -> Images:
    from timm.models import get_pretrained_cfg

    assert config.data_dir is not None
    vit_config, own = vit_config_of(config.backbone), get_pretrained_cfg(config.backbone)
    assert own is not None  # else it has no vit_config
    return Images(
        config.data_dir, vit_config=vit_config, num_classes=own.num_classes, seed=config.seed, workers=workers
    )


DATASET = Dataset(
    name="images",
    summary="any folder of photographs, without labels",
    tasks=("fidelity",),
    splits={"train": "nothing", "test": "all images in the folder and below"},
    folder="a folder of images",
    make=_make,
)
