"""Augmentation of images with objects: boxes and masks move with the image."""

import numpy as np
import pytest
import torch

from studies.data import Instances
from studies.data.object_transforms import EvalTransform, TrainTransform, fitting, patch_labels, resized_crop
from studies.data.transforms import seeded

SIDE = 64
PLAIN = ((0.0,) * 3, (1.0,) * 3)  # mean and std: the image stays in 0 to 1


def drawn(height=150, width=200):
    """A red rectangle, a green ellipse and a blue triangle on black, with their masks and tight boxes."""
    y, x = np.mgrid[:height, :width] * np.array([150 / height, 200 / width])[:, None, None]
    masks = np.stack([
        (x >= 5) & (x < 70) & (y >= 8) & (y < 50),
        ((x - 140) / 45) ** 2 + ((y - 50) / 35) ** 2 <= 1,
        (y >= 95) & (y < 145) & (x - 30 >= 2 * (y - 95)) & (x < 170),
    ])  # fmt: skip
    image = torch.from_numpy(masks * np.uint8(255))
    boxes = torch.tensor([tight(mask) for mask in masks])
    crowd, sizes = torch.zeros(3, dtype=torch.bool), torch.tensor([height, width])
    return image, Instances(boxes, torch.tensor([4, 0, 7]), torch.from_numpy(masks), crowd, sizes)


def tight(mask):
    rows, columns = np.nonzero(np.asarray(mask))
    return [float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def augmented(seed, ratio=(0.4, 2.0)):
    image, objects = drawn()
    with seeded(seed):
        return TrainTransform(SIDE, *PLAIN, ratio)(image, objects)


@pytest.mark.parametrize("seed", range(30))
def test_masks_cover_their_colour_and_boxes_are_tight(seed):
    image, objects = augmented(seed)
    assert image.shape == (3, SIDE, SIDE) and objects.masks.shape[1:] == (SIDE, SIDE)
    channels = {4: 0, 0: 1, 7: 2}
    for label, box, mask in zip(objects.classes.tolist(), objects.boxes.tolist(), objects.masks, strict=True):
        colour = image[channels[label]]
        assert mask[colour > 0.99].all() and (colour[mask] > 0.1).all()  # in between: pixels on the border
        assert (colour[mask] > 0.4).float().mean() > 0.9 or mask.sum() < 30
        assert box == tight(mask)
    gone = set(channels) - set(objects.classes.tolist())
    assert all(image[channels[label]].max() < 0.9 for label in gone)


def test_everything_that_is_random_happens():
    found = [augmented(seed, (0.1, 2.0)) for seed in range(60)]
    kept = {tuple(objects.classes.tolist()) for _, objects in found}
    heights = [int(objects.sizes[0]) for _, objects in found]
    widths = [int(objects.sizes[1]) for _, objects in found]
    assert kept >= {(4, 0, 7), (0, 7)} and min(widths) < 12 and max(heights) == max(widths) == SIDE
    whole = [objects for (_, objects), width in zip(found, widths, strict=True) if 30 < width < SIDE]
    left = [bool(objects.boxes[0, 0] < objects.sizes[1] / 4) for objects in whole]  # of the red one
    assert 0.25 < np.mean(left) < 0.75
    for image, objects in found:
        height, width = objects.sizes.tolist()
        assert not image[:, height:].any() and not image[:, :, width:].any()
        assert not objects.masks[:, height:].any() and not objects.masks[:, :, width:].any()


def test_the_same_key_gives_the_same_image():
    (image, objects), (same, again), (other, _) = augmented(3), augmented(3), augmented(4)
    assert torch.equal(image, same) and not torch.equal(image, other)
    assert all(torch.equal(a, b) for a, b in zip(objects, again, strict=True))


@pytest.mark.parametrize("size", [(48, 64), (300, 400), (97, 129)])
@pytest.mark.parametrize("corner", [(0, 0), (11, 40)])
def test_a_resized_crop_is_the_crop_of_the_resized(size, corner):
    image, objects = drawn()
    crop, moved = resized_crop(image, objects, size, corner, SIDE)
    height, width = crop.shape[-2:]
    assert (height, width) == tuple(min(SIDE, edge - first) for edge, first in zip(size, corner, strict=True))
    for k in range(3):
        for y, x in np.ndindex(height, width):
            row, column = (int((at + 0.5) * old / new) for at, old, new in (
                (y + corner[0], 150, size[0]), (x + corner[1], 200, size[1])
            ))  # fmt: skip
            assert moved.masks[k, y, x] == objects.masks[k, row, column]
        x0, y0, x1, y1 = (float(edge) for edge in objects.boxes[k])
        for number, (edge, old, new, first, most) in enumerate([
            (x0, 200, size[1], corner[1], width), (y0, 150, size[0], corner[0], height),
            (x1, 200, size[1], corner[1], width), (y1, 150, size[0], corner[0], height),
        ]):  # fmt: skip
            assert float(moved.boxes[k, number]) == pytest.approx(min(max(edge * new / old - first, 0), most), abs=1e-4)


def test_evaluation_resizes_and_pads_and_nothing_else():
    image, objects = drawn(40, SIDE)
    same, kept = EvalTransform(SIDE, (0.5,) * 3, (0.25,) * 3)(image, objects)
    assert torch.equal(same[:, :40], (image / 255 - 0.5) / 0.25) and not same[:, 40:].any()
    assert torch.equal(kept.boxes, objects.boxes) and torch.equal(kept.masks[:, :40], objects.masks)
    assert kept.sizes.tolist() == [40, SIDE] and not kept.masks[:, 40:].any()
    large, objects = drawn(200, 100)
    _, kept = EvalTransform(20, *PLAIN)(large, objects)
    torch.testing.assert_close(kept.boxes, objects.boxes / 10)
    assert kept.sizes.tolist() == [20, 10] and len(kept.masks) == 3
    assert fitting((427, 640), 1024) == (683, 1024) and fitting((1, 5000), 100) == (1, 100)


def test_an_image_without_objects():
    image, objects = drawn()
    none = Instances(*(part[:0] for part in objects[:4]), objects.sizes)
    for transform in (TrainTransform(SIDE, *PLAIN), EvalTransform(SIDE, *PLAIN)):
        _, kept = transform(image, none)
        assert kept.boxes.shape == (0, 4) and kept.masks.shape == (0, SIDE, SIDE)
        assert patch_labels(kept, 16).tolist() == [0] * 16


def test_patches_are_of_the_object_that_covers_most_of_them():
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 32, 32), bool)
    for mask in masks:
        (top, left), (high, wide) = rng.integers(0, 20, 2), rng.integers(1, 20, 2)
        mask[top : top + high, left : left + wide] = True
    classes = [3, 0, 8, 3, 1]
    expected = []
    for top, left in np.ndindex(4, 4):
        count = [0] * 5
        for y, x in np.ndindex(8, 8):
            there = [k for k in range(5) if masks[k, 8 * top + y, 8 * left + x]]
            if there:
                count[min(there, key=lambda k: masks[k].sum())] += 1
        expected.append(1 + classes[int(np.argmax(count))] if any(count) else 0)
    objects = Instances(
        torch.zeros(5, 4), torch.tensor(classes), torch.from_numpy(masks), torch.zeros(5, dtype=torch.bool),
        torch.tensor([32, 32]),
    )  # fmt: skip
    assert len({int(mask.sum()) for mask in masks}) == 5 and len(set(expected)) >= 4
    assert patch_labels(objects, 8).tolist() == expected
