"""Small folders of images and masks for the tests."""

import numpy as np
from PIL import Image

from studies.data.sets.masks import MaskFolder

CLASSES = ("background", "square", "disc", "never")
SIZES = ((60, 40), (40, 60), (60, 40), (50, 50))  # width, height
COLOURS = np.array([[20, 60, 120], [200, 40, 40], [60, 220, 90], [0, 0, 0]], np.uint8)


def draw_mask(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A square and a disc on the background, one ignored corner. -> [H, W] uint8"""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    mask = np.zeros((size[1], size[0]), np.uint8)
    top, left = rng.integers(0, 15, 2)
    mask[top : top + 20, left : left + 20] = 1
    mask[(y - rng.integers(20, size[1])) ** 2 + (x - rng.integers(20, size[0])) ** 2 < 100] = 2
    mask[-4:, -6:] = 255
    return mask


def save_mask(path, mask: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def save_image(path, mask: np.ndarray, seed: int) -> None:
    """A noisy picture of the mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 30, (*mask.shape, 3))
    Image.fromarray((COLOURS[mask % 4] + noise).clip(0, 255).astype(np.uint8)).save(path)


def write_root(root, palette: bool = False):
    """12 images for training and 8 for testing, JPEG and PNG, of four sizes."""
    for split, num in (("train", 12), ("val", 8)):
        for i in range(num):
            mask = draw_mask(100 * num + i, SIZES[i % 4])
            save_image(root / "images" / split / f"{i:02}.{('jpg', 'png')[i % 2]}", mask, seed=i)
            save_mask(root / "masks" / split / f"{i:02}.png", mask, palette)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def folder(root, **options) -> MaskFolder:
    return MaskFolder(root, **{"image_size": 32, **options})
