"""ADE20K in the folders of its release, written here: three classes of 150 on a few JPEGs."""

import numpy as np
import pytest
import torch
from PIL import Image

from studies.data.loading import WrongFiles
from studies.data.sets.ade20k import ADE20k


def write_root(root):
    rng = np.random.default_rng(0)
    for split, short, num in (("training", "train", 4), ("validation", "val", 3)):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for i in range(1, num + 1):
            width, height = rng.integers(64, 100, 2)
            labels = np.zeros((height, width), np.uint8)
            labels[5:40], labels[40:], labels[10:20, 10:20] = 1, 150, 13
            photo = np.kron(rng.integers(0, 256, (13, 13, 3), np.uint8), np.ones((8, 8, 1), np.uint8))[:height, :width]
            Image.fromarray(labels).save(root / "annotations" / split / f"ADE_{short}_{i:08}.png")
            Image.fromarray(photo).save(root / "images" / split / f"ADE_{short}_{i:08}.jpg", quality=95)
    return root


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "ADEChallengeData2016")


def test_labels_move_down_by_one_and_zero_is_ignored(root):
    data = ADE20k(root, image_size=64)
    assert (data.num_classes, data.num_train, data.num_test, data.ignore_index) == (150, 4, 3, 255)
    assert (data.classes[0], data.classes[12], data.classes[149]) == ("wall", "person", "flag")
    assert len(data.empty_classes) == 147 and not {"wall", "person", "flag"} & set(data.empty_classes)
    batches = list(data.test_batches(1))
    assert sorted(int(batch.item) for batch in batches) == [0, 1, 2]
    for batch in batches:
        with Image.open(root / "annotations" / "validation" / f"ADE_val_{int(batch.item) + 1:08}.png") as file:
            raw = np.array(file).astype(int)
        assert np.array_equal(batch.target[0].numpy(), np.where(raw == 0, 255, raw - 1))
        assert batch.target.unique().tolist() == [0, 12, 149, 255]
        assert min(batch.images.shape[-2:]) == 64


def test_training_crops(root):
    data = ADE20k(root)
    assert data.image_size == 512
    batch = next(data.train_batches(0, 2))
    assert batch.images.shape == (2, 3, 512, 512) and set(batch.target.unique().tolist()) <= {0, 12, 149, 255}


def test_normalisation_is_127_5(root):
    data = ADE20k(root, image_size=64)
    for path in (root / "images" / "validation").glob("*.jpg"):
        Image.fromarray(np.tile(np.array([0, 102, 255], np.uint8), (70, 80, 1))).save(path, quality=100, subsampling=0)
    for i, path in enumerate(sorted((root / "annotations" / "validation").glob("*.png"))):
        Image.fromarray(np.ones((70, 80), np.uint8)).save(path)
        pixel = data.test_items([i]).images[0, :, 30, 30]
        torch.testing.assert_close(pixel, torch.tensor([-1.0, -0.2, 1.0]), rtol=0, atol=2 / 127.5)


def test_labels_out_of_range(root):
    Image.fromarray(np.full((64, 64), 151, np.uint8)).save(root / "annotations" / "validation" / "ADE_val_00000001.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "images" / "validation" / "ADE_val_00000001.jpg")
    with pytest.raises(WrongFiles, match=r"00000001.png \(label 151 out of range; valid: 1 to 150, and 0 to ignore\)"):
        ADE20k(root)


def test_another_folder(root):
    with pytest.raises(ValueError, match="images/training does not exist; .* has: ADEChallengeData2016"):
        ADE20k(root.parent)
