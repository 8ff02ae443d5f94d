"""Thumbnails are the images that the model sees, of the items that runs follow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from results.records.items import FILE, Items, read_items, write_items
from studies import thumbnails
from studies.commands.run import Options, configs_of, prepare
from studies.data.sets.scenes import Scenes
from studies.thumbnails import SIDE, keep_thumbnails, thumbnail


@pytest.fixture(scope="module")
def scenes():
    return Scenes()


def pixels(file):
    return np.asarray(Image.open(io.BytesIO(file)))


def test_scenes_are_kept_as_they_are(scenes, tmp_path):
    keep_thumbnails(scenes, tmp_path)
    found = read_items(tmp_path)
    assert list(found.pictures) == [i * scenes.num_test // 128 for i in range(128)]
    assert list(found.classes) == list("0123456789") and (tmp_path / FILE).stat().st_size < 300_000
    for item in (0, 1011, 2006):
        drawn = scenes.render("test", np.array([item])).image[0].astype(np.float64)
        assert np.abs(pixels(found.pictures[item]).transpose(2, 0, 1) - 255 * drawn).max() <= 0.5 + 1e-3


def test_only_what_is_lacking_is_added(scenes, tmp_path, monkeypatch):
    keep_thumbnails(Scenes(once=True), tmp_path)
    fewer, changed = read_items(tmp_path).pictures, (tmp_path / FILE).stat().st_mtime_ns
    keep_thumbnails(Scenes(once=True), tmp_path)
    assert (tmp_path / FILE).stat().st_mtime_ns == changed
    keep_thumbnails(scenes, tmp_path)
    found = read_items(tmp_path).pictures
    assert len(found) > 128 and fewer.items() <= found.items() and list(found) == sorted(found)
    (tmp_path / FILE).write_bytes(b"torn")
    keep_thumbnails(scenes, tmp_path)
    assert len(read_items(tmp_path).pictures) == 128


@pytest.mark.parametrize(("shape", "small"), [((224, 224), (64, 64)), ((64, 48), (64, 48)), ((128, 512), (16, 64))])
def test_larger_images_are_made_smaller(shape, small):
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in shape), indexing="ij")
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    image = torch.stack([y, x, torch.full_like(x, 0.25)])
    file = thumbnail((image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None], mean, std)
    found = pixels(file)
    assert found.shape == (*small, 3) and max(small) <= SIDE and len(file) < 8192
    assert file.startswith(b"\x89PNG" if shape == small else b"\xff\xd8")
    h, w = small
    wanted = np.stack([*np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij"),
                       np.full(small, 0.25)], axis=-1)  # fmt: skip
    assert np.abs(found / 255 - wanted).max() < (0.06 if shape != small else 0.012)


def test_a_study_keeps_them_or_not(tmp_path, monkeypatch):
    for keep in (False, True):
        options = Options(reducers="none", quick=True, out=tmp_path / str(keep), thumbnails=keep)
        prepare(configs_of(options), options)
        assert (tmp_path / str(keep) / FILE).exists() == keep


def test_an_image_that_cannot_be_read_is_passed_over(scenes, tmp_path):
    class Torn:
        num_test, mean, std, classes = 3, scenes.mean, scenes.std, scenes.classes

        def test_items(self, items):
            if items == [1]:
                raise thumbnails.UnreadableImages({"1.png": "torn"})
            return scenes.test_items(items)

    keep_thumbnails(Torn(), tmp_path)
    assert list(read_items(tmp_path).pictures) == [0, 2]
    write_items(tmp_path, Items())
    assert read_items(tmp_path) == Items([], {})
