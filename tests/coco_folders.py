"""Small folders in COCO's format for the tests."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

IDS = (1, 2, 5, 13, 90)  # with gaps, as COCO's own
NAMES = ("person", "bicycle", "airplane", "stop sign", "toothbrush")
EMPTY = 2  # the image without objects
FORMS = ("polygons", "runs", "text")  # of segmentations, in turn


def draw_object(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, list[float] | None]:
    """A rectangle or an ellipse within the image. -> mask [H, W] bool; the rectangle as a polygon"""
    wide, high = rng.integers(10, 30, 2)
    left, top = rng.integers(0, width - wide), rng.integers(0, height - high)
    y, x = np.mgrid[:height, :width]
    if rng.random() < 0.5:
        away = ((x + 0.5 - left - wide / 2) / (wide / 2)) ** 2 + ((y + 0.5 - top - high / 2) / (high / 2)) ** 2
        return away <= 1, None
    mask = (left <= x) & (x < left + wide) & (top <= y) & (y < top + high)
    return mask, [float(c) for c in (left, top, left + wide, top, left + wide, top + high, left, top + high)]


def runs_of(mask: np.ndarray) -> dict:
    """Uncompressed RLE of a mask [H, W] bool."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return {"counts": np.diff(changes, prepend=0).tolist(), "size": list(mask.shape)}


def text_of(mask: np.ndarray) -> dict:
    """Compressed RLE of a mask [H, W] bool."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"counts": rle["counts"].decode(), "size": list(mask.shape)}


def annotation(number: int, image: int, mask: np.ndarray, segmentation, category: int = 1, crowd: int = 0) -> dict:
    """The annotation of a mask [H, W] bool, with its tight box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [float(edge) for edge in box],
        "segmentation": segmentation,
        "area": float(mask.sum()),
        "iscrowd": crowd,
    }


def segmentation_of(mask: np.ndarray, polygon: list[float] | None, form: str):
    """A mask in one of `FORMS`; what is no polygon is text."""
    if form == "runs":
        return runs_of(mask)
    return [polygon] if polygon and form == "polygons" else text_of(mask)


def write_split(root, split: str = "val2017", num_images: int = 5, seed: int = 0) -> dict[int, np.ndarray]:
    """A folder of PNGs and its annotation file: two or three objects an image but for image `EMPTY`, the last object a
    crowd. Ellipses are RLEs, rectangles polygons or RLEs. -> mask [H, W] bool of each annotation id"""
    rng = np.random.default_rng(seed)
    folder, file = root / split, root / "annotations" / f"instances_{split}.json"
    folder.mkdir(parents=True)
    file.parent.mkdir(exist_ok=True)
    images, annotations, masks = [], [], {}
    for i in range(num_images):
        height, width = (int(side) for side in rng.integers(40, 81, 2))
        images.append({"id": 10 * i + 7, "file_name": f"{i:012}.png", "height": height, "width": width})
        picture = rng.integers(0, 60, (height, width, 3), np.uint8)
        for _ in range(0 if i == EMPTY else 2 + i % 2):
            n = len(masks)
            mask, polygon = draw_object(rng, height, width)
            segmentation = segmentation_of(mask, polygon, FORMS[n % 3])
            annotations.append(annotation(100 + n, 10 * i + 7, mask, segmentation, IDS[n % len(IDS)]))
            masks[100 + n] = mask
            picture[mask] = rng.integers(60, 256, 3)
        Image.fromarray(picture).save(folder / f"{i:012}.png")
    annotations[-1] |= {"iscrowd": 1, "segmentation": runs_of(mask)}
    categories = [{"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories[::-1]}))
    return masks
