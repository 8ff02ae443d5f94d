"""Folders of images: what is read, in which order, how it is augmented, and what happens to broken ones."""

import random
import shutil

import numpy as np
import pytest
import timm
import torch
from image_folders import CLASSES, CONFIG, folder, write_root
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from studies.data.sets.imagenet import UnreadableImages


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "data")


def same(a, b) -> bool:
    pairs = list(zip(a, b, strict=True))
    return bool(pairs) and all(torch.equal(x, y) for p in pairs for x, y in zip(p[0][:4], p[1][:4], strict=True))


# ---- what is read


def test_sizes_labels_and_batches(root):
    data = folder(root)
    assert (data.num_classes, data.num_train, data.num_test, data.image_size) == (3, 21, 9, 32)
    assert (data.mean, data.std) == (CONFIG["mean"], CONFIG["std"])
    train, test = list(data.train_batches(0, 4)), list(data.test_batches(4))
    assert [len(b.images) for b in train] == [4] * 5 and [len(b.images) for b in test] == [4, 4, 1]
    assert torch.cat([b.item for b in test]).tolist() == list(range(9))
    assert torch.cat([b.target for b in test]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all((b.target == b.item // 7).all() and torch.equal(b.cluster, b.item) for b in train)
    batch = train[0]
    assert batch.images.shape == (4, 3, 32, 32) and batch.images.dtype == torch.float32
    assert batch.target.dtype == batch.item.dtype == torch.int64 and batch.patch_target is None


def test_evaluation_is_timms_for_the_model(root):
    config = resolve_model_data_config(timm.create_model("test_vit"))
    transform = create_transform(**config, is_training=False)
    with Image.open(root / "val" / CLASSES[1] / "2.png") as image:
        expected = transform(image.convert("RGB"))
    data = folder(root, vit_config=config)
    assert torch.equal(torch.cat([b.images for b in data.test_batches(4)])[5], expected)
    assert data.image_size == 160


def test_fingerprint(root, tmp_path):
    first = folder(root).fingerprint
    assert first == folder(root, seed=4).fingerprint == folder(shutil.copytree(root, tmp_path / "copy")).fingerprint
    (root / "val" / CLASSES[0] / "0.png").rename(root / "val" / CLASSES[1] / "7.png")
    assert folder(root).fingerprint != first


# ---- order and augmentation

STRONG = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "re_mode": "pixel", "interpolation": "random"}


def test_training_images_are_a_function_of_seed_epoch_and_index(root):
    data = folder(root, augment=STRONG)
    epoch = list(data.train_batches(1, 4))
    again = folder(root, augment=STRONG)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    list(again.train_batches(0, 7))
    assert same(epoch, again.train_batches(1, 4))
    by_item = {int(i): x for b in epoch for i, x in zip(b.item, b.images, strict=True)}
    for batch in data.train_batches(1, 7):  # whatever the batch
        assert all(torch.equal(by_item.get(int(i), x), x) for i, x in zip(batch.item, batch.images, strict=True))
    assert not same(epoch, data.train_batches(2, 4))
    assert not same(epoch, folder(root, augment=STRONG, seed=1).train_batches(1, 4))


def test_each_image_comes_once_an_epoch_and_differs_in_the_next(root):
    data = folder(root)
    first, second = (next(data.train_batches(epoch, 21)) for epoch in (0, 1))
    assert sorted(first.item.tolist()) == sorted(second.item.tolist()) == list(range(21))
    assert first.item.tolist() != second.item.tolist()
    a, b = first.images[first.item.argsort()], second.images[second.item.argsort()]
    assert (a != b).flatten(1).any(1).all()


def test_start_skips_without_decoding(root):
    data = folder(root)
    batches = list(data.train_batches(0, 4))
    for i in torch.cat([b.item for b in batches[:3]]).tolist():
        (root / data._splits["train"].paths[i]).unlink()
    assert same(batches[3:], data.train_batches(0, 4, start=3))


def test_random_numbers_of_others_are_left_alone(root):
    data = folder(root, augment=STRONG)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    list(data.train_batches(0, 4))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_workers_give_the_same(root):
    here, there = folder(root, augment=STRONG), folder(root, augment=STRONG, workers=1)
    assert same(here.train_batches(0, 4), there.train_batches(0, 4))
    next(there.train_batches(1, 4))  # left in the middle
    assert same(here.train_batches(3, 4, start=2), there.train_batches(3, 4, start=2))
    (root / "train" / CLASSES[0] / "1.png").write_bytes(b"")
    with pytest.raises(UnreadableImages, match="train/n01440764/1.png"):
        list(there.train_batches(0, 21))


def test_unknown_augmentation(root):
    with pytest.raises(ValueError, match="unknown augmentation 'reprob'; did you mean re_prob"):
        folder(root, augment={"reprob": 0.5})
    with pytest.raises(ValueError, match="timm makes no augmentation of"):
        folder(root, augment={"auto_augment": "nonsense"})


# ---- broken images


@pytest.fixture
def broken(root):
    """One cut off JPEG, one PNG with a wrong byte, one text, one empty file; returns their paths."""
    files = [root / "train" / CLASSES[0] / "0.jpg", root / "val" / CLASSES[0] / "0.png"]
    files += [root / "train" / CLASSES[1] / "1.png", root / "val" / CLASSES[2] / "2.png"]
    data = files[0].read_bytes()
    files[0].write_bytes(data[: len(data) // 2])
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 255
    files[1].write_bytes(data)
    files[2].write_text("not an image")
    files[3].write_bytes(b"")
    return {path.relative_to(root).as_posix() for path in files}


def test_broken_images_of_small_folders_are_named_at_once(root, broken):
    with pytest.raises(UnreadableImages, match="4 unreadable images") as error:
        folder(root)
    assert set(error.value.reasons) == broken
    assert all(name in str(error.value) for name in broken)
    assert set(folder(root, scan_limit=0).scan()) == broken


def test_broken_images_of_large_folders_are_named_when_met(root, broken):
    data = folder(root, scan_limit=0)
    with pytest.raises(UnreadableImages, match=r"1 unreadable image: val/n01440764/0.png \("):
        list(data.test_batches(4))
    with pytest.raises(UnreadableImages, match="train/"):
        list(data.train_batches(0, 4))


@pytest.mark.parametrize("scan_limit", [0, 5000])
def test_broken_images_left_out_are_counted(root, broken, scan_limit):
    data = folder(root, skip_unreadable=True, scan_limit=scan_limit)
    for _ in range(2):
        items = torch.cat([b.item for b in data.test_batches(4)]).tolist()
        assert items == [1, 2, 3, 4, 5, 6, 7]
        assert sum(len(b.images) for b in data.train_batches(0, 3)) == 19
    assert len(data.unreadable) == 4 and set(data.unreadable) == broken
    assert len(list(data.test_batches(1))) == 7
    with pytest.raises(UnreadableImages):  # the batches behind one of nothing would have other numbers
        list(data.train_batches(0, 1))


def test_rows_and_turns_are_parts_of_the_batches(root):
    data = folder(root)
    whole, part = next(data.train_batches(0, 8, 1)), next(data.train_batches(0, 8, 1, slice(2, 5)))
    assert all(torch.equal(ours, column[2:5]) for ours, column in zip(part[:4], whole[:4], strict=True))
    items = [torch.cat([b.item for b in data.test_batches(2, slice(turn, None, 2))]).tolist() for turn in range(2)]
    assert sorted(sum(items, [])) == list(range(data.num_test)) and all(items)
