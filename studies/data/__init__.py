"""Data sets (sets/) and what they are made of. Each yields `Batch`es; none knows a model or a reducer.

Nothing heavy is imported here: what a data set is, in types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from studies.config import RunConfig

__all__ = ["COCO_AREAS", "IGNORE_INDEX", "OWN_SETTINGS", "Batch", "Data", "Dataset", "Instances", "Original"]

OWN_SETTINGS = ("augment", "random_erasing")  # of recipes, which only some data sets read
IGNORE_INDEX = 255  # label of pixels that count nowhere
COCO_AREAS = (32.0**2, 96.0**2)  # pixels, between small, medium and large objects


class Instances(NamedTuple):
    """The objects of images. Letters: B batch, K objects of an image at most, S image side in pixels. Places that an
    image leaves empty have class -1, a box of zeros and an empty mask."""

    boxes: Tensor  # [B, K, 4] float32 x0 y0 x1 y1 in pixels, x1 and y1 exclusive
    classes: Tensor  # [B, K] int64
    masks: Tensor  # [B, K, S, S] bool, which may overlap
    crowd: Tensor  # [B, K] bool, a region of many objects: no target, and nothing that has to be found
    sizes: Tensor  # [B, 2] int64 height and width of the image in the square; right of it and below there is padding

    @property
    def areas(self) -> tuple[float, float]:
        """Pixels, between what the data set calls small, medium and large objects."""
        return COCO_AREAS

    def targets(self) -> list[dict[str, Tensor]]:
        """As torchvision's detectors want them, without crowds: of each image boxes [n, 4], labels [n] from 1 on and
        masks [n, S, S] uint8."""
        found = []
        for boxes, classes, masks, crowd, _ in zip(*self, strict=True):
            there = (classes >= 0) & ~crowd
            found.append({"boxes": boxes[there], "labels": classes[there] + 1, "masks": masks[there].byte()})
        return found


class Original(NamedTuple):
    """A test image as it is in its file, in whose pixels detection is scored."""

    height: int
    width: int
    objects: list[dict[str, Any]]  # category_id (0..C-1), bbox, area, iscrowd, segmentation (compressed RLE), as COCO's


class Batch(NamedTuple):
    """What every data set yields. Letters: B batch, S image side in pixels, L patches."""

    images: Tensor  # [B, 3, S, S] float32, normalised, contiguous
    target: Any  # [B] int64 class, or [B, S, S] int64 mask for segmentation, or objects for detection
    item: Tensor  # [B] int64 index of the item in its split
    cluster: Tensor  # [B] int64 what items share (their source digit or image), for paired and cluster statistics
    patch_target: Tensor | None = None  # [B, L] int64 labels in the patch grid, where the data set has them
    originals: Sequence[Original] | None = None  # [B] of test images that were resized, for detection
    place: Tensor | None = None  # [B] int64 0 near the centre, 1 between, 2 near the border: the object, where known

    @property
    def truth(self) -> Tensor | None:
        """[B, L] 1 where a patch has something to predict (label 0 is the background), for controls that read it."""
        return None if self.patch_target is None else self.patch_target > 0


class Data(Protocol):
    """What training and scoring ask of a data set."""

    @property
    def classes(self) -> Sequence[str]:
        """Their names."""

    @property
    def num_classes(self) -> int:
        """Logits that a model of it has: the classes, and the background where that is one."""

    @property
    def image_size(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]:
        """[3] of the normalisation, as `std`."""

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def seed(self) -> int:
        """What its training items depend on."""

    @property
    def num_train(self) -> int: ...

    @property
    def num_val(self) -> int:
        """Items that nothing is trained on, and that choices may be made by; 0 where there are none."""

    @property
    def num_test(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """A digest that other items change."""

    def train_batches(self, epoch: int, batch_size: int, start: int = 0, rows: slice = ...) -> Iterator[Batch]:
        """Full batches of an epoch from number `start` on, and of each its `rows`."""

    def val_batches(self, batch_size: int, turns: slice = ...) -> Iterator[Batch]:
        """The validation items, each once, or of these batches some."""

    def test_batches(self, batch_size: int, turns: slice = ...) -> Iterator[Batch]:
        """The test items, each once, or of these batches some."""

    def stream(self, batch_size: int, num: int) -> Iterator[Batch]:
        """`num` full batches of test items, from the first again behind the last, without a pause between: to be
        timed."""

    def test_items(self, items: Sequence[int]) -> Batch:
        """Test items by number, of one size."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The declaration of a data set. `make` reads it for a run, to be decoded by a number of worker processes, and
    raises ValueError for what is missing or cannot be read."""

    name: str
    summary: str
    tasks: tuple[str, ...]
    splits: dict[str, str]  # what a model is trained on and scored on -> what that is
    make: Callable[[RunConfig, int], Data]
    settings: tuple[str, ...] = ()  # of OWN_SETTINGS, those that it reads
    ignore: bool = False  # takes `--ignore`, the pixel value that counts nowhere
    sized: bool = False  # its images are made as large as `--img-size` says
    folder: str = ""  # what `--data` names; "": nothing, the items are embedded
