"""Augmentation of images with masks: geometry by pixel pictures, photometry by colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from studies.data.augment import TrainTransform, distort, random_crop, resize
from studies.data.transforms import seeded

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


def picture(height=48, width=64) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertical stripes, 8 pixels wide, of a colour and a label each, and one ignored corner."""
    mask = (torch.arange(width) // 8 * 20).expand(height, width).to(torch.uint8).clone()
    mask[: height // 4, : width // 4] = 255
    return torch.stack([mask, 255 - mask, mask // 2]), mask


def test_image_and_mask_stay_together():
    image, mask = picture()
    flips, sizes = 0, set()
    for seed in range(40):
        with seeded(seed):
            x, y = TrainTransform(32, (0.0,) * 3, (1.0,) * 3)(image, mask)
        assert x.shape == (3, 32, 32) and x.dtype == torch.float32 and y.shape == (32, 32) and y.dtype == torch.int64
        assert set(y.unique().tolist()) <= set(mask.unique().tolist())
        # photometry maps a colour to one colour: where blurring does not reach, x is a function of y
        flat = torch.nn.functional.unfold(y[None, None].float(), 7, padding=3).view(49, 32, 32)
        inside = (flat == flat[:1]).all(0) & (y != 255)
        for label in y[inside].unique():
            values = x[:, inside & (y == label)]
            assert (values - values[:, :1]).abs().max() < 0.02
        stripes = torch.where(y == 255, -1, y).amax(0)
        stripes = stripes[stripes >= 0]  # grow to the right, or to the left when flipped
        flips += bool(stripes[0] > stripes[-1])
        sizes.add(int((y[:, 0] != 255).sum()))
    assert 10 < flips < 30 and len(sizes) > 3


def test_what_is_missing_is_padded_with_zero_and_ignored():
    image, mask = torch.full((3, 20, 40), 200, dtype=torch.uint8), torch.ones((20, 40), dtype=torch.uint8)
    with seeded(0):
        x, y = TrainTransform(64, MEAN, STD, ratio=(0.5, 0.5))(image, mask)
    assert (y[:32] == 1).all() and (y[32:] == 255).all()
    assert (x[:, 32:] == 0).all() and (x[:, :32] != 0).all()


def test_scale_is_drawn_from_the_ratio():
    mask = torch.zeros(100, 150, dtype=torch.uint8)
    mask[:, 75:] = 1
    image = mask.expand(3, -1, -1).clone()
    heights = []
    for seed in range(200):
        with seeded(seed):
            _, y = TrainTransform(64, MEAN, STD, ratio=(0.5, 1.0))(image, mask)
        heights.append(int((y[:, 0] != 255).sum()))
    assert min(heights) in (32, 33, 34) and max(heights) in (63, 64) and abs(np.mean(heights) - 48) < 3


@pytest.mark.parametrize("size", [(40, 60), (61, 40), (33, 100)])
def test_resizing(size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for side in (20, 80):
        resized = resize(image, side)
        expected = [max(side, round(s * side / min(size))) for s in size]
        assert list(resized.shape) == [3, *expected] and min(expected) == side
        pillow = np.array(Image.fromarray(pixels).resize(expected[::-1], Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1
        labels = resize(image[:1], side, nearest=True)[0]
        centres = [((np.arange(n) + 0.5) * s / n).astype(int) for n, s in zip(expected, size, strict=True)]
        assert np.array_equal(labels.numpy(), pixels[..., 0][np.ix_(*centres)])


# ---- crop


def share(labels: torch.Tensor) -> float:
    values, count = np.unique(labels[labels != 255].numpy(), return_counts=True)
    return count.max() / count.sum() if len(values) else 1.0


def test_the_first_crop_that_no_class_fills():
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:, 32:] = 1
    mask[40:, :] = 255
    image = torch.arange(64 * 64).view(1, 64, 64).expand(3, -1, -1)
    tries = []
    for seed in range(100):
        with seeded(seed):
            x, y = random_crop(image, mask, 24)
        with seeded(seed):
            corners = [[int(torch.randint(41, ())) for _ in "yx"] for _ in range(10)]
        filled = [share(mask[top : top + 24, left : left + 24]) for top, left in corners]
        number = next((i for i, most in enumerate(filled) if most < 0.75), 9)
        top, left = corners[number]
        assert torch.equal(y, mask[top : top + 24, left : left + 24])
        assert torch.equal(x, image[:, top : top + 24, left : left + 24])
        tries.append(number)
    assert 10 < tries.count(0) < 50 and tries.count(9) < 10  # a quarter of the places will do


def test_a_crop_of_one_class_is_better_than_none():
    with seeded(0):
        image, labels = random_crop(torch.zeros(3, 50, 20), torch.ones(50, 20, dtype=torch.uint8), 30)
    assert image.shape == (3, 30, 20) and (labels == 1).all()


# ---- photometry


def slow_distort(image: np.ndarray) -> np.ndarray:
    """[3, H, W] float64, pixel by pixel, with the same draws."""

    def draw(low: float, high: float) -> float | None:
        return float(torch.empty(()).uniform_(low, high)) if torch.rand(()) < 0.5 else None

    contrast, contrast_first = draw(0.5, 1.5), bool(torch.rand(()) < 0.5)
    brightness, saturation, hue = draw(-32 / 255, 32 / 255), draw(0.5, 1.5), draw(-0.1, 0.1)
    out = np.empty_like(image)
    for place in np.ndindex(image.shape[1:]):
        pixel = image[:, *place]
        if brightness is not None:
            pixel = np.clip(pixel + brightness, 0, 1)
        if contrast is not None and contrast_first:
            pixel = np.clip(pixel * contrast, 0, 1)
        if saturation is not None:
            grey = pixel @ np.array([0.2989, 0.587, 0.114])
            pixel = np.clip(grey + saturation * (pixel - grey), 0, 1)
        if hue is not None:
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            pixel = np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v))
        if contrast is not None and not contrast_first:
            pixel = np.clip(pixel * contrast, 0, 1)
        out[:, *place] = pixel
    return out


def test_photometric_distortion():
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    untouched = 0
    for seed in range(60):
        with seeded(seed):
            fast = distort(image)
        with seeded(seed):
            slow = slow_distort(image.double().numpy())
        with seeded(seed + 1000):
            other = slow_distort(image.double().numpy())
        untouched += torch.equal(fast, image)
        torch.testing.assert_close(fast.double().numpy(), slow, rtol=0, atol=2e-5)
        assert np.abs(other - slow).max() > 1e-3 or torch.equal(fast, image)
    assert 0 < untouched < 12  # one in sixteen
