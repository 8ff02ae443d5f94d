"""Which files a folder of images has, and their labels: class folders, or ImageNet's flat validation folder.

ImageNet numbers its classes in two ways. `val.txt` (Caffe) counts from 0 in the order of the sorted class names.
`ILSVRC2012_validation_ground_truth.txt` (development kit) counts from 1 in an order of its own, which only `meta.mat`
of the same kit tells: without it nearly every label would be wrong.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cropr.nearest import did_you_mean

__all__ = ["EXTENSIONS", "Listing", "image_paths", "in_order", "list_split", "read_classes"]

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
CLASS_MAP = "class_map.txt"
CAFFE, KIT, META = "val.txt", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


_logger = logging.getLogger(__name__)


class Listing(NamedTuple):
    """The images of a split, in the order of their paths."""

    paths: list[str]  # below the data folder
    labels: np.ndarray  # [number of images] int64

    def where(self, chosen: np.ndarray) -> Listing:
        """The images that `chosen` [number of images] marks."""
        return Listing([path for path, there in zip(self.paths, chosen, strict=True) if there], self.labels[chosen])


def read_classes(root: Path) -> list[str]:
    """The class folders of `root`/train in the order of their numbers: that of CLASS_MAP where the data folder has it,
    else timm's. Raises ValueError where there are none."""
    if not root.is_dir():
        beside = _folders(root.parent) if root.parent.is_dir() else []
        raise ValueError(f"data folder {root} does not exist{did_you_mean(root.name, beside)}")
    for split in ("train", "val"):
        if not (root / split).is_dir():
            found = ", ".join(sorted(_folders(root))[:10]) or "no folders"
            raise ValueError(
                f"{root} has no folder {split!r}; needed: train/<class>/* and val/<class>/*; found: {found}"
            )
    classes = in_order(_folders(root / "train"))
    if not classes:
        raise ValueError(f"{root / 'train'} has no class folders; needed: train/<class>/*")
    return _listed_classes(root / CLASS_MAP, classes) if (root / CLASS_MAP).exists() else classes


def in_order(names: list[str]) -> list[str]:
    """Class names in the order of their numbers, which is timm's: 2 comes before 10. Where the order of characters is
    another one the log says which class has which number."""
    from timm.utils import natural_key

    natural = sorted(names, key=natural_key)
    if natural != sorted(names):
        shown = {number: natural[number] for number in (*range(min(3, len(natural))), len(natural) - 1)}
        _logger.warning(
            "class folders are numbered as timm does (%s), not in the order of characters; %s in the data folder, a "
            "name a line, says otherwise", ", ".join(f"{number}: {name}" for number, name in shown.items()), CLASS_MAP,
        )  # fmt: skip
    return natural


def _listed_classes(file: Path, classes: list[str]) -> list[str]:
    """The class folders in the order of a file with a name a line, as timm's `--class-map`."""
    names = [name.strip() for name in file.read_text().splitlines() if name.strip()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file} names class {twice} twice")
    if lost := next((name for name in classes if name not in names), None):
        raise ValueError(f"{file} lacks class folder train/{lost}{did_you_mean(lost, names)}")
    if lost := next((name for name in names if name not in classes), None):
        raise ValueError(f"{file} names {lost}, which is no class folder of train{did_you_mean(lost, classes)}")
    return names


def list_split(root: Path, split: str, classes: list[str]) -> Listing:
    """The images of `root`/`split` with their labels."""
    folders = sorted(_folders(root / split))
    if split == "val" and not folders:
        return _list_flat(root, classes)
    paths: list[str] = []
    labels: list[int] = []
    for name in folders:
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise ValueError(f"class folder {split}/{name} is none of the {len(classes)} classes of train{hint}")
        found = sorted(image_paths(root, root / split / name))
        if not found:
            raise ValueError(f"class folder {root / split / name} has no images ({', '.join(EXTENSIONS)})")
        paths += found
        labels += [classes.index(name)] * len(found)
    return Listing(paths, np.array(labels, np.int64))


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if os.path.isdir(entry) and not entry.name.startswith(".")]


def image_paths(root: Path, folder: Path) -> list[str]:
    """All images in and below `folder`, as paths below `root`, in no order."""
    found = []
    for path, _, files in os.walk(folder, followlinks=True):  # subsets of ImageNet are often made of links
        below = Path(path).relative_to(root).as_posix()
        found += [f"{below}/{name}" for name in files if name.lower().endswith(EXTENSIONS) and name[0] != "."]
    return found


# ---- the flat validation folder


def _list_flat(root: Path, classes: list[str]) -> Listing:
    paths = sorted(image_paths(root, root / "val"))
    if not paths:
        raise ValueError(f"{root / 'val'} has no images ({', '.join(EXTENSIONS)}) and no class folders")
    if file := _find(root, CAFFE):
        labels = _caffe_labels(file, paths, classes)
    elif file := _find(root, KIT):
        labels = _kit_labels(root, file, paths, classes)
    else:
        raise ValueError(
            f"{root / 'val'} has images but no class folders; their labels are needed in {root}: {CAFFE} (lines "
            f"'image class'), or {KIT} and {META} of the development kit"
        )
    return Listing(paths, np.array(labels, np.int64))


def _find(root: Path, name: str) -> Path | None:
    places = (root, root / "val", root / "ILSVRC2012_devkit_t12" / "data")
    return next((place / name for place in places if (place / name).is_file()), None)


def _caffe_labels(file: Path, paths: list[str], classes: list[str]) -> list[int]:
    """Lines `image class`; the class is its name, or its number from 0 in the order of the sorted names."""
    numbers = {name: i for i, name in enumerate(classes)}
    by_image: dict[str, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        image, _, label = line.strip().rpartition(" ")
        known = label in numbers or (label.isdecimal() and int(label) < len(classes))
        if not image or not known:
            raise ValueError(
                f"{file} line {number}: {line!r}; needed: 'image class', the class as a folder of train or 0 to "
                f"{len(classes) - 1}"
            )
        by_image[Path(image).name] = numbers[label] if label in numbers else int(label)
    unlabelled = [path for path in paths if Path(path).name not in by_image]
    if unlabelled:
        raise ValueError(f"{file} has no label for {len(unlabelled)} images: {', '.join(unlabelled[:5])}")
    return [by_image[Path(path).name] for path in paths]


def _kit_labels(root: Path, file: Path, paths: list[str], classes: list[str]) -> list[int]:
    """One number a line, for the images in the order of their names; `meta.mat` says which class it is."""
    meta = _find(root, META)
    if meta is None:
        raise ValueError(
            f"{file} numbers the classes in an order that only {META} of the same development kit tells; put it "
            f"beside, or give {CAFFE} with lines 'image class'"
        )
    lines = file.read_text().split()
    if len(lines) != len(paths):
        raise ValueError(f"{file} has {len(lines)} labels, and {root / 'val'} {len(paths)} images")
    names, numbers = _kit_classes(meta), {name: i for i, name in enumerate(classes)}
    labels = []
    for line in lines:
        name = names.get(int(line)) if line.isdecimal() else None
        if name not in numbers:
            raise ValueError(f"{file}: {line!r} ({name or 'not in ' + META}) is none of the classes of train")
        labels.append(numbers[name])
    return labels


def _kit_classes(meta: Path) -> dict[int, str]:
    """Number -> class name (n01440764) out of the `synsets` of meta.mat."""
    from scipy.io import loadmat  # comes with scikit-learn

    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"{meta} is not the meta.mat of ImageNet's development kit ({error})") from error
