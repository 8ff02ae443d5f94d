"""Folders of images and masks that are not as they should be: each gives one clear message."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_folders import draw_mask, folder, save_mask, write_root

from studies.config import RunConfig
from studies.data.datasets import create_dataset
from studies.data.loading import UnreadableImages, WrongFiles


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "data")


def test_missing_folders_and_classes(root, tmp_path):
    with pytest.raises(ValueError, match="dta does not exist; .* has: data"):
        folder(tmp_path / "dta")
    (root / "classes.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="names classes twice: a"):
        folder(root)
    (root / "classes.txt").write_text("\n".join(map(str, range(256))))
    with pytest.raises(ValueError, match="has 256 classes; possible: 2 to 255"):
        folder(root)
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match="has no classes.txt; needed: the name of each class"):
        folder(root)


def test_missing_and_empty_splits(root):
    shutil.rmtree(root / "masks" / "val")
    with pytest.raises(ValueError, match="masks/val does not exist; .*masks has: train"):
        folder(root)
    shutil.rmtree(root / "images" / "train")
    (root / "images" / "train").mkdir()
    with pytest.raises(ValueError, match="images/train has no images"):
        folder(root)


def test_files_without_partner_are_named_and_counted(root):
    for i in range(7):
        (root / "masks" / "train" / f"{i:02}.png").unlink()
    (root / "images" / "train" / "08.jpg").unlink()
    with pytest.raises(ValueError) as error:
        folder(root)
    message = str(error.value)
    assert "7 images without mask in masks/train: images/train/00.jpg, images/train/01.png" in message
    assert "images/train/04.jpg and 2 more; 1 masks without image in images/train: masks/train/08.png" in message


def test_two_images_of_one_name(root):
    shutil.copy(root / "images" / "train" / "01.png", root / "images" / "train" / "00.png")
    with pytest.raises(ValueError, match="images/train/00.jpg and images/train/00.png have the same name"):
        folder(root)


def test_pairs_in_folders_below(root):
    for kind in ("images", "masks"):
        (root / kind / "val" / "town").mkdir()
        for file in sorted((root / kind / "val").glob("0[0-3].*")):
            file.rename(file.parent / "town" / file.name)
    assert folder(root).num_test == 8


@pytest.mark.parametrize("scan_limit", [0, 1000])
def test_a_mask_of_another_size(root, scan_limit):
    save_mask(root / "masks" / "val" / "01.png", draw_mask(0, (60, 40)))
    with pytest.raises(
        WrongFiles, match=r"1 wrong file: masks/val/01.png \(60 x 40 px, but its image images/val/01.png "
    ):
        list(folder(root, scan_limit=scan_limit).test_batches(3))


@pytest.mark.parametrize("scan_limit", [0, 1000])
def test_labels_out_of_range(root, scan_limit):
    mask = draw_mask(800, (60, 40))
    mask[3, 4], mask[5, 6] = 4, 254
    save_mask(root / "masks" / "val" / "00.png", mask)
    with pytest.raises(WrongFiles, match=r"00.png \(labels 4, 254 out of range; valid: 0 to 3, and 255 to ignore\)"):
        list(folder(root, scan_limit=scan_limit).test_batches(3))
    with pytest.raises(WrongFiles):  # which skip_unreadable does not leave out
        list(folder(root, scan_limit=scan_limit, skip_unreadable=True).test_batches(3))


def test_sixteen_bit_masks(root):
    mask = draw_mask(800, (60, 40)).astype(np.uint16)
    save_mask(root / "masks" / "val" / "00.png", mask)
    assert np.array_equal(folder(root).test_items([0]).target[0].numpy(), mask)
    mask[0, 0] = 256  # 0 in eight bits
    save_mask(root / "masks" / "val" / "00.png", mask)
    with pytest.raises(WrongFiles, match="label 256 out of range"):
        folder(root)


def test_palettes_are_read_when_asked_for(tmp_path):
    root = write_root(tmp_path / "palette", palette=True)
    with pytest.raises(WrongFiles, match="20 wrong files: .*a palette PNG .* palette=True, or --dataset masks-palette"):
        folder(root)
    indices = folder(write_root(tmp_path / "indices"))
    for a, b in zip(folder(root, palette=True).test_batches(4), indices.test_batches(4), strict=True):
        assert torch.equal(a.target, b.target)


def test_masks_of_another_kind(root):
    target = root / "masks" / "val" / "00.png"
    Image.fromarray(draw_mask(800, (60, 40))).convert("RGB").save(target)
    with pytest.raises(WrongFiles, match=r"masks/val/00.png \(an RGB image, but a mask has one channel"):
        folder(root)
    target.unlink()
    Image.fromarray(draw_mask(800, (60, 40))).save(target.with_suffix(".jpg"))
    with pytest.raises(WrongFiles, match=r"masks/val/00.jpg \(a JPEG, but a mask is a PNG\)"):
        folder(root)


# ---- unreadable files


@pytest.fixture
def broken(root):
    """A JPEG and a mask cut off, an empty image and a mask that is text; returns their paths."""
    paths = ["images/train/00.jpg", "masks/train/01.png", "images/val/01.png", "masks/val/02.png"]
    for path in paths[:2]:
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: len(data) // 2])
    (root / paths[2]).write_bytes(b"")
    (root / paths[3]).write_text("not an image")
    return set(paths)


def test_unreadable_files_are_named_at_once(root, broken):
    with pytest.raises(UnreadableImages, match="4 unreadable images") as error:
        folder(root)
    assert set(error.value.reasons) == broken and all(path in str(error.value) for path in broken)


def test_unreadable_files_are_named_when_met(root, broken):
    data = folder(root, scan_limit=0)
    with pytest.raises(UnreadableImages, match="/val/"):
        list(data.test_batches(2))
    with pytest.raises(UnreadableImages, match="/train/"):
        list(data.train_batches(0, 4))


@pytest.mark.parametrize("scan_limit", [0, 3, 1000])
def test_unreadable_files_left_out_are_counted(root, broken, scan_limit):
    data = folder(root, skip_unreadable=True, scan_limit=scan_limit)
    items = torch.cat([batch.item for batch in data.test_batches(2)]).tolist()
    assert sorted(items) == [0, 3, 4, 5, 6, 7]
    assert sum(len(batch.item) for batch in data.train_batches(0, 6)) == 10
    assert len(data.unreadable) == 4 and set(data.unreadable) == broken
    assert data.empty_classes == ["never"]


def test_large_folders_are_sampled_evenly(root):
    data = folder(root, scan_limit=0)
    (root / "masks" / "train" / "11.png").write_bytes(b"")
    (root / "masks" / "val" / "04.png").write_bytes(b"")
    assert set(data.scan(1)) == set()
    assert set(data.scan(2)) == {"masks/train/11.png"}
    assert set(data.scan()) == {"masks/train/11.png", "masks/val/04.png"}


def test_binary_masks_of_0_and_255_are_refused(root):
    """255 is ignored, so that all that is left is background: 100 % for every model."""
    for path in root.glob("masks/*/*.png"):
        with Image.open(path) as opened:
            mask = np.array(opened)
        save_mask(path, np.where(mask > 0, 255, 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"one class \(background\) and 255, .* write its number"):
        folder(root)
    asked = folder(root, ignore=255)  # whoever says so has it
    assert set(asked.test_items([0]).target.unique().tolist()) == {0, 255}
    path = next(root.glob("masks/val/*.png"))
    with Image.open(path) as opened:
        mask = np.array(opened)
    mask[:9, :9] = 1  # another class is there: nothing is lost
    save_mask(path, mask)
    assert folder(root).num_test == 8


def test_another_value_may_count_nowhere(root):
    """--ignore 0: the background, though it is a class; 255 is none then, and enters the identity of the data."""
    for path in root.glob("masks/*/*.png"):
        with Image.open(path) as opened:
            mask = np.array(opened)
        save_mask(path, np.where(mask == 255, 0, mask).astype(np.uint8))
    plain, asked = folder(root), folder(root, ignore=0)
    for before, after in zip(plain.test_batches(1), asked.test_batches(1), strict=True):
        assert torch.equal(after.target, torch.where(before.target == 0, 255, before.target))
        assert (before.target == 0).any()
    assert asked.fingerprint != plain.fingerprint == folder(root, ignore=255).fingerprint
    mask[:3] = 255
    save_mask(path, mask)
    with pytest.raises(ValueError, match=r"label 255 out of range; valid: 0 to 3, and 0 to ignore"):
        folder(root, ignore=0)


def test_data_sets_without_such_masks_read_no_ignore():
    config = RunConfig("s", "segmentation", "scenes", "scenes_vit", "none", 1, None, 0, None, ignore=255)
    with pytest.raises(ValueError, match="scenes reads no --ignore 255; valid with masks, masks-palette"):
        create_dataset(config)
    assert config.id != dataclasses.replace(config, ignore=None).id
