"""Annotation files in COCO's own format: the boxes and masks of objects, https://cocodataset.org/#format-data.

Whatever a file says is checked when it is read, in part because pycocotools does not: it makes masks of memory that
was never written from runs that end too early, and crashes on polygons that lead far out of the image.
"""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired

import numpy as np
from pycocotools import mask as coco_mask
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from cropr.nearest import did_you_mean
from results.records.files import read_json
from results.records.schema import check
from studies.data.loading import listed

__all__ = [
    "Annotations", "ImageEntry", "Object", "Rle", "Segmentation", "find_split", "mask_of", "read_annotations", "rle_of",
    "to_bbox",
]  # fmt: skip

SMALLEST = 1.0  # px; a box below it has no pixel of its own
FAR = 1_000_000  # px; pycocotools walks along the edges of polygons in memory: at 100 times as much it takes gigabytes

SMALL_BOX = f"box narrower or lower than {SMALLEST:g} px within the image"
NO_POLYGON = "no polygon of 3 points or more"
NO_PIXEL = "RLE without a pixel"


class Rle(TypedDict):
    """Runs of background and object in turn, background first, column by column; as numbers or as pycocotools' text."""

    counts: list[int] | str
    size: list[int]  # height, width


Segmentation = list[list[float]] | Rle  # polygons x0 y0 x1 y1 ..., whose union is the mask; or runs


class _Image(TypedDict):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(TypedDict):
    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    segmentation: NotRequired[Segmentation]  # asked for later, where masks are wanted
    area: float
    iscrowd: Literal[0, 1]


class _Category(TypedDict):
    id: int
    name: str


class _Coco(TypedDict):
    images: list[_Image]
    annotations: NotRequired[list[_Annotation]]  # asked for later, with a better message
    categories: list[_Category]


class ImageEntry(NamedTuple):
    """An image as the annotation file describes it; the file itself was not opened."""

    id: int
    path: str  # below the folder of the images
    height: int
    width: int


class Object(NamedTuple):
    """An object in an image."""

    category: int  # 0 to number of classes - 1
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in px, within the image
    segmentation: Segmentation  # as in the file, without polygons of fewer than 3 points; or the box, without masks
    area: float  # px, as in the file
    crowd: bool  # a region of many objects, which no prediction needs to find
    id: int


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file. The images, those without objects too, are in the order of the file, and so
    are the objects of each."""

    classes: list[str]  # by number: the names in the order of the ids of the categories
    images: list[ImageEntry]
    objects: list[list[Object]]  # of each of the images
    skipped: dict[str, list[int]]  # why annotations were left out: their ids

    def notes(self) -> list[str]:
        """A line for each reason to leave annotations out: how many, and the first five ids."""
        return [
            f"{len(ids)} annotation{'s' * (len(ids) > 1)} left out, {reason}: {listed(map(str, ids))}"
            for reason, ids in self.skipped.items()
        ]


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """-> annotation file and folder of the images: annotations/instances_{split}2017.json and {split}2017, as COCO has
    them; else instances_{split}.json, or the one instances_{split}*.json, with the folder of the same name behind
    `instances_`. Raises ValueError where they are not there, or several files fit."""
    folder = root / "annotations"
    for wanted in (root, folder):
        if not wanted.is_dir():
            raise ValueError(f"data folder {wanted} does not exist{_instead(wanted)}")
    found = sorted(file.name[10:-5] for file in folder.glob("instances_*.json"))
    name = _chosen(folder, split, found)
    if not (root / name).is_dir():
        raise ValueError(f"{root} has no folder {name} with the images of instances_{name}.json{_instead(root / name)}")
    return folder / f"instances_{name}.json", root / name


def _chosen(folder: Path, split: str, found: list[str]) -> str:
    for name in (f"{split}2017", split):
        if name in found:
            return name
    fitting = [name for name in found if name.startswith(split)]
    if len(fitting) > 1:
        files = listed(f"instances_{name}.json" for name in fitting)
        raise ValueError(f"{folder} has several annotation files of split {split!r}: {files}; which one is meant?")
    if not fitting:
        files = listed(f"instances_{name}.json" for name in found) or "no instances_*.json"
        hint = did_you_mean(f"{split}2017", found) or did_you_mean(split, found)
        raise ValueError(f"{folder} has no instances_{split}2017.json or instances_{split}*.json; found: {files}{hint}")
    return fitting[0]


def _instead(path: Path) -> str:
    """What there is in place of a path that does not exist."""
    above = next(parent for parent in path.parents if parent.is_dir())
    found = sorted(entry.name for entry in above.iterdir())
    return f"; {above} has: {listed(found) or 'nothing'}{did_you_mean(path.name, found)}"


def read_annotations(file: Path, folder: Path, masks: bool = True) -> Annotations:
    """The content of `file` (instances_*.json), whose images are in `folder`. Annotations with too small a box or an
    empty mask are left out and named in `skipped`; boxes that stick out of the image are clipped. `masks`: False reads
    no segmentation, and the box stands for it. Raises ValueError for all else that cannot be meant, and names file and
    id."""
    for there, path in ((file.is_file(), file), (folder.is_dir(), folder)):
        if not there:
            raise ValueError(f"{path} does not exist{_instead(path)}")
    content = check(file, read_json(file), _Coco)
    if not content.get("annotations"):
        raise ValueError(f"{file} has no annotations; expected: the objects of each image, which test sets do not tell")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    _once(file, "category ids", (category["id"] for category in categories))
    _once(file, "category names", (category["name"] for category in categories))
    images = _images(file, folder, content["images"])
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    objects, skipped = _objects(file, content["annotations"], images, numbers, masks)
    read = Annotations([category["name"] for category in categories], images, objects, skipped)
    if not any(objects):
        raise ValueError(f"{file}: no annotation can be used: {'; '.join(read.notes())}")
    return read


def _once(file: Path, kind: str, values: Iterable[Hashable]) -> None:
    twice = [str(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{file} has {kind} twice: {listed(twice)}")


def _images(file: Path, folder: Path, entries: list[_Image]) -> list[ImageEntry]:
    images = [ImageEntry(entry["id"], entry["file_name"], entry["height"], entry["width"]) for entry in entries]
    _once(file, "image ids", (image.id for image in images))
    if empty := next((image for image in images if min(image.height, image.width) < 1), None):
        raise ValueError(f"{file}: image {empty.id}: {empty.width} x {empty.height} px, expected 1 x 1 or more")
    missing = [image.path for image in images if not os.path.isfile(folder / image.path)]
    if missing:
        raise ValueError(f"{file}: {len(missing)} of {len(images)} images are not in {folder}: {listed(missing)}")
    return images


def _objects(
    file: Path, entries: list[_Annotation], images: list[ImageEntry], numbers: dict[int, int], masks: bool
) -> tuple[list[list[Object]], dict[str, list[int]]]:
    """-> the objects of each image; the ids of what was left out, by reason"""
    _once(file, "annotation ids", (entry["id"] for entry in entries))
    by_id = {image.id: image for image in images}
    objects: dict[int, list[Object]] = {image.id: [] for image in images}
    skipped: dict[str, list[int]] = {}
    for entry in entries:
        try:
            found = _object(entry, by_id, numbers, masks)
        except ValueError as error:
            raise ValueError(f"{file}: annotation {entry['id']}: {error}") from None
        if isinstance(found, str):
            skipped.setdefault(found, []).append(entry["id"])
        else:
            objects[entry["image_id"]].append(found)
    return [objects[image.id] for image in images], skipped


def _object(entry: _Annotation, images: dict[int, ImageEntry], numbers: dict[int, int], masks: bool) -> Object | str:
    """An object, or the reason to leave it out. Raises ValueError, without file and id."""
    if (image := images.get(entry["image_id"])) is None:
        raise ValueError(f"image {entry['image_id']} is none of the {len(images)} images")
    if (category := numbers.get(entry["category_id"])) is None:
        raise ValueError(f"category {entry['category_id']} is unknown; categories: {listed(map(str, numbers))}")
    if not 0 <= entry["area"] < float("inf"):
        raise ValueError(f"area {entry['area']}, expected a finite number from 0 on")
    box = _clipped(entry["bbox"], image)
    segmentation, fault = _segmentation(entry.get("segmentation"), image) if masks else (_rectangle(*box), None)
    if min(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        return SMALL_BOX
    return fault or Object(category, box, segmentation, float(entry["area"]), entry["iscrowd"] == 1, entry["id"])


def _clipped(bbox: list[float], image: ImageEntry) -> tuple[float, float, float, float]:
    if len(bbox) != 4:
        raise ValueError(f"bbox has {len(bbox)} numbers, expected 4: x, y, width, height")
    _near("bbox", bbox)
    x, y, width, height = bbox
    outside = x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0
    if outside and min(width, height) > 0:  # one without extent is degenerate wherever it is
        raise ValueError(f"bbox {bbox} is outside its image {image.path}, which has {image.width} x {image.height} px")
    x0, x1 = (float(min(max(edge, 0), image.width)) for edge in (x, x + width))
    y0, y1 = (float(min(max(edge, 0), image.height)) for edge in (y, y + height))
    return x0, y0, x1, y1


def _near(kind: str, numbers: list[float]) -> None:
    if bad := [number for number in numbers if not abs(number) <= FAR]:  # not: nan is neither above nor below
        raise ValueError(f"{kind} has the coordinate {bad[0]}, expected finite numbers within ±{FAR:,}")


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Segmentation:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def _segmentation(found: Segmentation | None, image: ImageEntry) -> tuple[Segmentation, str | None]:
    """-> what of it is to be used, and why nothing is"""
    if found is None:
        raise ValueError("no segmentation, expected polygons or RLE, which masks are made of")
    if isinstance(found, dict):
        return found, None if _covered(found, image) else NO_PIXEL
    for polygon in found:
        if len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers, expected pairs of x and y")
        _near("a polygon", polygon)
    polygons = [polygon for polygon in found if len(polygon) >= 6]
    return polygons, None if polygons else NO_POLYGON


def _covered(rle: Rle, image: ImageEntry) -> int:
    """How many pixels are the object's."""
    size = [image.height, image.width]
    if rle["size"] != size:
        raise ValueError(f"RLE of size {rle['size']}, expected that of its image {image.path}: {size} (height, width)")
    runs = _runs(rle["counts"])
    pixels = image.height * image.width
    if min(runs, default=0) < 0:
        raise ValueError(f"RLE with a run of {min(runs)} pixels, expected 0 or more")
    if sum(runs) != pixels:
        raise ValueError(f"RLE of {sum(runs)} pixels, expected the {pixels} of its image {image.path}")
    return sum(runs[1::2])


def _runs(counts: list[int] | str | bytes) -> list[int]:
    """The lengths themselves, or those that pycocotools' text stands for: characters of 5 bits, lowest first, and a
    sixth where more follow; behind the third length they are differences to the last but one (rleFrString of cocoapi's
    maskApi.c)."""
    if isinstance(counts, list):
        return counts
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode() if isinstance(counts, str) else counts:
        bits = code - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"RLE text {reprlib.repr(counts)}, expected characters from '0' to 'o'")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) >> 4 << shift  # the highest bit is the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f"RLE text {reprlib.repr(counts)} ends within a number, expected a whole one")
    return runs


def rle_of(item: Object, height: int, width: int) -> dict[str, Any]:
    """The mask of an object of an image of `height` x `width` px as compressed RLE, size and counts; which pixels
    polygons cover says pycocotools."""
    found: Any = item.segmentation
    if isinstance(found, list):
        return coco_mask.merge(coco_mask.frPyObjects(found, height, width))
    return coco_mask.frPyObjects(found, height, width) if isinstance(found["counts"], list) else found


def mask_of(item: Object, height: int, width: int) -> np.ndarray:
    """The same as pixels. -> [height, width] bool"""
    runs = _runs(rle_of(item, height, width)["counts"])  # pycocotools' own `decode` warns with NumPy 2
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T.copy()


def to_bbox(box: Sequence[float]) -> list[float]:
    """x0 y0 x1 y1 -> x y width height, as COCO has boxes."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
