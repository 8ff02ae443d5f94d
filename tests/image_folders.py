"""Small folders of images for the tests."""

import numpy as np
from PIL import Image

from studies.data.sets.imagenet import ImageFolder

CLASSES = ("n01440764", "n01443537", "n02119789")
CONFIG = {
    "input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "crop_pct": 0.8,
    "interpolation": "bicubic", "crop_mode": "center",
}  # fmt: skip


def draw(path, seed: int, size=(50, 40), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_root(path):
    """7 images for training and 3 for testing of each of 3 classes, JPEG, PNG and a grey PNG among them."""
    for label, name in enumerate(CLASSES):
        for i in range(7):
            kind = ("jpg", "png", "JPEG")[i % 3]
            draw(path / "train" / name / f"{i}.{kind}", 10 * label + i, mode="L" if i == 4 else "RGB")
        for i in range(3):
            draw(path / "val" / name / f"{i}.png", 100 + 10 * label + i)
    return path


def folder(root, **options) -> ImageFolder:
    return ImageFolder(root, **{"vit_config": CONFIG, **options})
