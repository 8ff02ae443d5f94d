"""Folders of images and masks: what is read, in which order, how test images are batched."""

import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_folders import CLASSES, draw_mask, folder, save_mask, write_root
from torch.nn.functional import interpolate

from studies.data.loading import UnreadableImages


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "data")


def same(a, b) -> bool:
    pairs = list(zip(a, b, strict=True))
    return bool(pairs) and all(torch.equal(x, y) for p in pairs for x, y in zip(p[0][:4], p[1][:4], strict=True))


def test_training_batches(root):
    data = folder(root)
    assert (data.num_classes, data.num_train, data.num_test, data.image_size) == (4, 12, 8, 32)
    assert data.ignore_index == 255 and data.classes == list(CLASSES)
    batches = list(data.train_batches(0, 5))
    assert [batch.images.shape for batch in batches] == [(5, 3, 32, 32)] * 2
    for batch in batches:
        assert batch.target.shape == (5, 32, 32) and torch.equal(batch.cluster, batch.item)
        assert batch.images.dtype == torch.float32 and batch.target.dtype == batch.item.dtype == torch.int64
        assert set(batch.target.unique().tolist()) <= {0, 1, 2, 255}
    with pytest.raises(ValueError, match="batch_size 13 is more than the 12"):
        next(data.train_batches(0, 13))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_test_images_are_whole_and_batched_by_size(root, batch_size):
    batches = list(folder(root).test_batches(batch_size))
    assert sorted(torch.cat([batch.item for batch in batches]).tolist()) == list(range(8))
    assert max(len(batch.item) for batch in batches) == min(batch_size, 4)  # four images of 60 x 40
    for batch in batches:
        for image, target, item in zip(batch.images, batch.target, batch.item.tolist(), strict=True):
            with Image.open(root / "images" / "val" / f"{item:02}.{('jpg', 'png')[item % 2]}") as file:
                pixels = torch.from_numpy(np.array(file)).permute(2, 0, 1)[None].double() / 255
            mask = draw_mask(800 + item, file.size)
            assert np.array_equal(target.numpy(), mask)
            short = 32 / min(file.size)
            size = [round(side * short) for side in (file.height, file.width)]
            expected = (interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)[0] - 0.5) / 0.5
            torch.testing.assert_close(image.double(), expected, rtol=0, atol=1.1 / 127.5)  # 8 bits between two passes
            wrong = interpolate(pixels, size, mode="nearest-exact")[0] * 2 - 1
            assert (image.double() - wrong).abs().max() > 11 / 127.5


def test_items_by_number(root):
    data = folder(root)
    batch = data.test_items([2, 0])
    assert batch.item.tolist() == [2, 0] and np.array_equal(batch.target[0].numpy(), draw_mask(802, (60, 40)))
    (root / "masks" / "val" / "02.png").write_bytes(b"")
    with pytest.raises(UnreadableImages, match="masks/val/02.png"):
        data.test_items([2, 0])


def test_normalisation(root):
    plain, other = folder(root), folder(root, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    for a, b in zip(plain.test_batches(8), other.test_batches(8), strict=True):
        mean, std = (torch.tensor(v)[:, None, None] for v in (other.mean, other.std))
        torch.testing.assert_close(b.images, (a.images * 0.5 + 0.5 - mean) / std)


# ---- order and augmentation


def test_training_items_are_a_function_of_seed_epoch_and_index(root):
    data, again = folder(root), folder(root)
    epoch = list(data.train_batches(1, 4))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    list(again.train_batches(0, 7))
    assert same(epoch, again.train_batches(1, 4))
    assert same(epoch[2:], data.train_batches(1, 4, start=2))
    by_item = {int(i): x for b in epoch for i, x in zip(b.item, zip(b.images, b.target, strict=True), strict=True)}
    for batch in data.train_batches(1, 12):  # whatever the batch
        for i, image, target in zip(batch.item.tolist(), batch.images, batch.target, strict=True):
            assert torch.equal(by_item[i][0], image) and torch.equal(by_item[i][1], target)
    assert not same(epoch, data.train_batches(2, 4))
    assert not same(epoch, folder(root, seed=1).train_batches(1, 4))


def test_each_item_comes_once_an_epoch_and_differs_in_the_next(root):
    first, second = (next(folder(root).train_batches(epoch, 12)) for epoch in (0, 1))
    assert sorted(first.item.tolist()) == sorted(second.item.tolist()) == list(range(12))
    assert first.item.tolist() != second.item.tolist()
    a, b = first.images[first.item.argsort()], second.images[second.item.argsort()]
    assert (a != b).flatten(1).any(1).all()


def test_random_numbers_of_others_are_left_alone(root):
    before = torch.get_rng_state()
    list(folder(root).train_batches(0, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_give_the_same(root):
    here, there = folder(root), folder(root, workers=1)
    assert same(here.train_batches(0, 4), there.train_batches(0, 4))
    save_mask(root / "masks" / "train" / "03.png", np.full((50, 50), 9, np.uint8))
    with pytest.raises(ValueError, match=r"1 wrong file: masks/train/03.png \(label 9 out of range"):
        list(there.train_batches(0, 12))


def test_fingerprint(root, tmp_path):
    first = folder(root).fingerprint
    assert first == folder(root, seed=4).fingerprint == folder(shutil.copytree(root, tmp_path / "copy")).fingerprint
    (root / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    assert folder(root).fingerprint != first
    (root / "classes.txt").write_text("\n".join(CLASSES))
    assert folder(root).fingerprint == first
    save_mask(root / "masks" / "val" / "00.png", np.zeros((40, 60), np.uint8))
    assert folder(root).fingerprint != first


def test_a_class_that_no_test_mask_has_is_named(root):
    assert folder(root).empty_classes == ["never"]
    mask = draw_mask(800, (60, 40))
    mask[0, 0] = 3
    save_mask(root / "masks" / "val" / "00.png", mask)
    assert folder(root).empty_classes == []
