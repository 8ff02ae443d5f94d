"""Corruptions against loops over pixels in plain floats, and that no image depends on the batch that it is in."""

import math

import numpy as np
import pytest
import torch

from studies.data import Batch
from studies.data.sets.scenes import Scenes
from studies.robustness.corruptions import CORRUPTIONS, corrupted, parse_corruptions

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
ITEMS = (3, 11, 4)


def batch(items, side=9):
    """Each item has its own pixels, whatever else is there."""
    drawn = [np.random.default_rng(item).random((3, side, side), np.float32) for item in items]
    shift, scale = (np.array(own, np.float32)[:, None, None] for own in (MEAN, STD))
    item = torch.tensor(items)
    return Batch(torch.from_numpy((np.stack(drawn) - shift) / scale), item % 3, item, item)


def pixels(images):
    return images.double() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def blurred(plane, sigma):
    """In two dimensions at once, the border mirrored without its last pixel."""
    side, reach = len(plane), math.ceil(3 * sigma)
    near = [i if i < side else 2 * side - 2 - i for i in map(abs, range(-reach, side + reach))]
    weight = {(a, b): math.exp(-(a * a + b * b) / (2 * sigma**2)) for a in range(-reach, reach + 1)
              for b in range(-reach, reach + 1)}  # fmt: skip
    total = sum(weight.values())
    return [
        [sum(w * plane[near[y + a + reach]][near[x + b + reach]] for (a, b), w in weight.items()) / total
         for x in range(side)]
        for y in range(side)
    ]  # fmt: skip


def pixelated(plane, block):
    side, out = len(plane), [[0.0] * len(plane) for _ in plane]
    for top in range(0, side, block):
        for left in range(0, side, block):
            places = [(y, x) for y in range(top, min(top + block, side)) for x in range(left, min(left + block, side))]
            for y, x in places:
                out[y][x] = sum(plane[a][b] for a, b in places) / len(places)
    return out


def contrast(plane, share):
    mean = sum(map(sum, plane)) / len(plane) ** 2
    return [[mean + share * (value - mean) for value in row] for row in plane]


@pytest.mark.parametrize(
    ("name", "slowly"),
    [
        ("blur", lambda plane: blurred(plane, 0.8)),
        ("pixelate", lambda plane: pixelated(plane, 2)),
        ("contrast", lambda plane: contrast(plane, 0.3)),
    ],
)
def test_corruptions_are_those_of_loops(name, slowly):
    (found,) = corrupted([batch(ITEMS)], name, MEAN, STD)
    for image, clean in zip(pixels(found.images), pixels(batch(ITEMS).images), strict=True):
        for own, plane in zip(image, clean, strict=True):
            np.testing.assert_allclose(own.numpy(), slowly(plane.tolist()), atol=1e-5)
            assert (own - plane).abs().max() > 0.05


def test_severities_of_larger_images_follow_their_side():
    for name, slowly in (("blur", lambda p: blurred(p, 100 / 75)), ("pixelate", lambda p: pixelated(p, 4))):
        side = 100 if name == "blur" else 224
        (found,) = corrupted([batch((5,), side)], name, MEAN, STD)
        plane = pixels(batch((5,), side).images)[0, 1].tolist()
        rows = 12 if name == "blur" else side  # of the loops a corner is enough
        expected = slowly([row[:rows] for row in plane[:rows]])
        np.testing.assert_allclose(pixels(found.images)[0, 1, :6, :6].numpy(), np.array(expected)[:6, :6], atol=1e-5)


def test_noise_has_its_deviation_and_is_clipped_like_every_corruption():
    grey = torch.zeros(4, 3, 64, 64)
    item = torch.arange(4)
    (found,) = corrupted([Batch(grey, item, item, item)], "noise", (0.5,) * 3, (0.25,) * 3)
    noise = (found.images * 0.25).double()
    assert noise.std() == pytest.approx(0.18, abs=0.004) and noise.mean() == pytest.approx(0, abs=0.003)
    correlation = np.corrcoef(noise.flatten(1).numpy())
    assert np.abs(correlation - np.eye(4)).max() < 0.05  # every item has its own
    for name in CORRUPTIONS:
        (found,) = corrupted([batch(ITEMS)], name, MEAN, STD)
        assert pixels(found.images).min() > -1e-6 and pixels(found.images).max() < 1 + 1e-6


def test_the_occluding_square_is_a_third_of_the_side_and_lies_anywhere():
    items = list(range(300))
    (found,) = corrupted([batch(items)], "occlusion", MEAN, STD)
    grey = ((pixels(found.images) - 0.5).abs() < 1e-6).all(dim=1)  # [B, S, S]
    clean = pixels(batch(items).images)
    seen = set()
    for own, before, image in zip(grey, clean, pixels(found.images), strict=True):
        rows, cols = own.any(dim=1).nonzero()[:, 0].tolist(), own.any(dim=0).nonzero()[:, 0].tolist()
        assert len(rows) == len(cols) == 3 and own.sum() == 9
        assert (image[:, ~own] - before[:, ~own]).abs().max() < 1e-6
        seen.add((rows[0], cols[0]))
    assert len(seen) == 49  # every place that there is


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_its_batch(name):
    together = next(corrupted([batch(ITEMS)], name, MEAN, STD)).images
    for row, item in enumerate(ITEMS):
        assert torch.equal(next(corrupted([batch([item])], name, MEAN, STD)).images[0], together[row])
    data = Scenes(once=True)
    small, large = ([own.images for own in corrupted(data.test_batches(size), name, data.mean, data.std)]
                    for size in (7, 250))  # fmt: skip
    assert torch.equal(torch.cat(small), torch.cat(large))


def test_names():
    assert parse_corruptions("all") == tuple(CORRUPTIONS) and parse_corruptions("blur, noise") == ("blur", "noise")
    with pytest.raises(ValueError, match="unknown corruption 'nois'; did you mean noise"):
        parse_corruptions("blur,nois")
    with pytest.raises(ValueError, match="unknown corruption ''"):
        parse_corruptions("")
    with pytest.raises(ValueError, match="twice"):
        parse_corruptions("blur,blur")
