"""The embedded data set: what is disjoint, what is pure, and that labels are where the ink is."""

import math
import time

import numpy as np
import pytest
import torch

from studies.data import Batch
from studies.data.sets import scenes
from studies.data.sets.scenes import COLUMNS, GRID, IMAGE_SIZE, Scenes, load_sources, patch_labels
from studies.data.sets.scenes import split_digits as split_labels


def split_digits():
    return split_labels(load_sources().labels)


def without_digits(sources):
    return sources._replace(digits=np.zeros_like(sources.digits))


def same(a: Batch, b: Batch) -> bool:
    assert a.originals is b.originals is None
    return all(torch.equal(x, y) for x, y in zip(a[:5], b[:5], strict=True))


def test_digits_are_split_disjointly_and_by_class():
    split, labels = split_digits(), load_sources().labels
    assert {name: len(digits) for name, digits in split.items()} == {"train": 898, "val": 225, "test": 674}
    assert sorted(np.concatenate(list(split.values()))) == list(range(1797))
    for name, share in (("train", 0.5), ("val", 0.125), ("test", 0.375)):
        assert np.abs(np.bincount(labels[split[name]]) / np.bincount(labels) - share).max() < 0.02


@pytest.mark.parametrize("seed", [0, 3])
def test_scenes_show_only_digits_of_their_split(seed):
    data = Scenes(seed=seed, num_digits=(1, 4))
    for split in ("train", "val", "test"):
        sources = data.render(split, np.arange(2022)).sources
        assert set(sources[sources >= 0]) == set(split_digits()[split])


def test_photographs_share_no_pixel_between_splits():
    sources = load_sources()
    place = np.indices(sources.photos[:, 0].shape).astype(np.float32)  # photo, row and column of each pixel, as colours
    marked = without_digits(sources)._replace(photos=place.swapaxes(0, 1))
    seen = {split: Scenes(sources=marked).render(split, np.arange(4000)).image for split in COLUMNS}
    columns = {split: image[:, 2] for split, image in seen.items()}
    for split, (first, end) in COLUMNS.items():
        assert (columns[split].min(), columns[split].max()) == (first, end - 1)
    assert sorted(COLUMNS.values()) == [(0, 384), (384, 448), (448, sources.photos.shape[3])]
    assert all(set(np.unique(image[:, 0])) == {0, 1} for image in seen.values())


@pytest.mark.parametrize("num_digits", [(1, 1), (1, 4)])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_scene_does_not_depend_on_its_batch(split, num_digits):
    data = Scenes(num_digits=num_digits)
    index = np.random.default_rng(0).permutation(2000)[:50]  # training: across two epochs
    together = data.render(split, index)
    for row, i in enumerate(index):
        for whole, alone in zip(together, Scenes(num_digits=num_digits).render(split, np.array([i])), strict=True):
            np.testing.assert_array_equal(whole[row], alone[0])


def test_seed_changes_training_and_not_test():
    one, other, again = Scenes(seed=1), Scenes(seed=2), Scenes(seed=1)
    train = [next(s.train_batches(0, 16)) for s in (one, other, again)]
    assert same(train[0], train[2]) and not torch.equal(train[0].images, train[1].images)
    assert not torch.equal(train[0].cluster, train[1].cluster)
    for held in ("val_batches", "test_batches"):
        assert all(same(a, b) for a, b in zip(getattr(one, held)(500), getattr(other, held)(500), strict=True))


def test_index_runs_on_and_each_epoch_shows_each_digit_once():
    data = Scenes()
    epochs = [list(data.train_batches(e, 898)) for e in (0, 1)]
    assert [len(e) for e in epochs] == [1, 1]
    for number, (batch,) in enumerate(epochs):
        assert batch.item.tolist() == list(range(number * 898, (number + 1) * 898))
        assert sorted(batch.cluster.tolist()) == sorted(split_digits()["train"])
    (first,), (second,) = epochs
    assert not torch.equal(first.cluster, second.cluster)
    a, b = first.cluster.argsort(), second.cluster.argsort()  # the same digits, in new scenes
    assert (first.images[a] - second.images[b]).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_start_resumes_in_the_middle_of_an_epoch():
    data = Scenes()
    whole = list(data.train_batches(2, 64))
    assert len(whole) == data.num_train // 64 and all(len(b.item) == 64 for b in whole)
    rest = list(data.train_batches(2, 64, start=5))
    assert len(rest) == len(whole) - 5 and all(same(a, b) for a, b in zip(rest, whole[5:], strict=True))
    assert list(data.train_batches(2, 64, start=len(whole))) == []


@pytest.mark.parametrize(
    ("split", "num", "repeats"), [("val", 900, 4), ("test", 2022, 3), ("val", 225, 1), ("test", 674, 1)]
)
def test_what_is_scored_is_every_digit_as_often(split, num, repeats):
    data = Scenes(once=repeats == 1)
    batches = list(getattr(data, f"{split}_batches")(400))
    assert getattr(data, f"num_{split}") == num and [len(b.item) for b in batches] == [400] * (num // 400) + [num % 400]
    assert torch.cat([b.item for b in batches]).tolist() == list(range(num))
    cluster = torch.cat([b.cluster for b in batches])
    assert (cluster.bincount()[split_digits()[split]] == repeats).all()
    assert torch.equal(torch.cat([b.target for b in batches]), torch.tensor(load_sources().labels)[cluster])
    images = torch.cat([b.images for b in batches]).flatten(1)
    assert len(images.unique(dim=0)) == num


def test_validation_scenes_stand_for_the_test_items_where_something_is_chosen():
    chosen, plain = Scenes(scored="val"), Scenes()
    assert chosen.num_test == plain.num_val and chosen.fingerprint != plain.fingerprint
    assert all(same(a, b) for a, b in zip(chosen.test_batches(300), plain.val_batches(300), strict=True))
    assert same(chosen.test_items([3, 5]), plain.batch("val", np.array([3, 5])))
    assert same(next(chosen.train_batches(0, 8)), next(plain.train_batches(0, 8)))


def test_batches_have_the_shapes_and_types_of_the_contract():
    for task, shape in (("classification", (8,)), ("segmentation", (8, 32, 32))):
        data = Scenes(task)
        batch = next(data.train_batches(0, 8))
        assert batch.images.shape == (8, 3, 32, 32) and batch.images.dtype == torch.float32
        assert batch.images.is_contiguous() and batch.target.shape == shape and batch.patch_target.shape == (8, 64)
        assert {t.dtype for t in batch[1:5]} == {torch.int64}
        assert batch.target.max() < data.num_classes
        # At a quarter of the photographs' contrast they vary less than the 0.25 that they are divided by.
        assert batch.images.mean().abs() < 0.5 and 0.3 < batch.images.std() < 1.5


@pytest.mark.parametrize("num_digits", [(1, 1), (1, 4), (3, 3)])
def test_labels_are_where_the_ink_is(num_digits):
    black = load_sources()._replace(photos=np.zeros_like(load_sources().photos))
    data = Scenes(num_digits=num_digits, sources=black)
    for split in COLUMNS:
        drawn = data.render(split, np.arange(200))
        light = drawn.image.max(1)  # bright on black: opacity times an ink of 0.8 to 1
        ink = drawn.mask > 0
        assert light[ink].min() > 0.8 * scenes.INK and light[~ink].max() <= scenes.INK
        assert 0.04 < ink.mean() / (drawn.classes >= 0).sum(1).mean() < 0.15
        assert ink[light > scenes.INK].all() and not ink[light < 0.8 * scenes.INK].any()
        assert ((drawn.classes >= 0).sum(1) >= num_digits[0]).all()
        for b, slot in zip(*np.nonzero(drawn.classes >= 0), strict=True):
            own = drawn.instances[b] == slot + 1
            rows, cols = np.nonzero(own)
            if (drawn.classes[b] >= 0).sum() == 1:  # one opacity divides a digit from what is around it
                assert light[b][own].min() > light[b][~own].max()
            assert (drawn.mask[b][own] == drawn.classes[b, slot] + 1).all()
            assert drawn.boxes[b, slot].tolist() == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
            assert np.ptp(rows) < 16 and np.ptp(cols) < 16
        assert drawn.instances.max() <= num_digits[1] and (drawn.boxes[drawn.classes < 0] == 0).all()
        np.testing.assert_array_equal(drawn.instances > 0, ink)
        labels = np.where(drawn.sources < 0, -1, load_sources().labels[drawn.sources])
        np.testing.assert_array_equal(drawn.classes, labels)


def test_ink_shows_on_the_photographs():
    data, index = Scenes(), np.arange(1000)
    drawn = data.render("test", index)
    bare = without_digits(load_sources())
    change = np.abs(drawn.image - Scenes(sources=bare).render("test", index).image).max(1)  # what the ink alone did
    ink = drawn.mask > 0
    assert change[ink].mean() > 0.2 > 10 * change[~ink].mean()
    assert (change > 0).mean() < 0.25  # nothing outside the digit's square is touched


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patch_labels_are_those_of_their_pixels(patch_size):
    mask = Scenes(num_digits=(1, 4)).render("test", np.arange(20)).mask
    labels = patch_labels(mask, patch_size).reshape(20, IMAGE_SIZE // patch_size, -1)
    for y in range(labels.shape[1]):
        for x in range(labels.shape[2]):
            pixels = mask[:, y * patch_size :, x * patch_size :][:, :patch_size, :patch_size].reshape(20, -1)
            expected = [p.max() if (p > 0).mean() >= scenes.PATCH_INK else 0 for p in pixels]
            assert all(len(set(p[p > 0])) <= 1 for p in pixels)
            assert labels[:, y, x].tolist() == expected


def test_every_place_of_the_grid_is_used():
    boxes = Scenes().render("test", np.arange(2022)).boxes[:, 0]
    assert boxes.min() == 0 and boxes.max() == IMAGE_SIZE
    for low, high in ((0, 2), (1, 3)):
        assert len(np.unique(boxes[:, low] // GRID)) >= 5 and (boxes[:, low] < boxes[:, high]).all()


class Backwards(Scenes):
    """Another order of the digits of each split."""

    split = property(lambda self: {split: digits[::-1] for split, digits in split_labels(self.sources.labels).items()})


def test_fingerprint_is_the_data_and_not_the_run():
    value = Scenes().fingerprint
    assert value == Scenes("segmentation", seed=5, patch_size=2).fingerprint and len(value) == 64
    assert value != Scenes(num_digits=(1, 2)).fingerprint
    start = time.perf_counter()
    Scenes().fingerprint  # noqa: B018
    assert time.perf_counter() - start < 0.5  # about 5 ms; the bound is for a busy machine
    sources = load_sources()
    for name in ("digits", "photos"):
        changed = getattr(sources, name) * np.float32(1 + 1e-5)
        assert Scenes(sources=sources._replace(**{name: changed})).fingerprint != value
    assert Scenes(sources=sources._replace(digits=sources.digits.copy())).fingerprint == value
    assert Backwards().fingerprint != value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "clasification"}, "clasification.*available: classification, segmentation"),
        ({"patch_size": 8}, "patch_size 8.*1, 2 or 4"),
        ({"num_digits": (0, 2)}, "num_digits"),
        ({"num_digits": (2, 5)}, r"1\.\.4"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**options)


def test_rows_and_turns_are_parts_of_the_batches():
    data = Scenes()
    whole, part = next(data.train_batches(1, 12, 3)), next(data.train_batches(1, 12, 3, slice(4, 9)))
    assert all(torch.equal(ours, column[4:9]) for ours, column in zip(part[:5], whole[:5], strict=True))
    items = [torch.cat([b.item for b in data.test_batches(400, slice(turn, None, 2))]) for turn in range(2)]
    assert sorted(torch.cat(items).tolist()) == list(range(2022)) and len(items[0]) == 1200


def test_places_are_about_thirds_of_the_training_scenes():
    data = Scenes()
    counts = [0, 0, 0]
    for epoch in range(4):
        for batch in data.train_batches(epoch, 449):
            for place in batch.place.tolist():
                counts[place] += 1
    assert all(0.28 < count / sum(counts) < 0.42 for count in counts), counts
    scenes, test = data.render("test", np.arange(200)), next(data.test_batches(200))
    for (left, top, right, bottom), place in zip(scenes.boxes[:, 0].tolist(), test.place.tolist(), strict=True):
        apart = math.hypot((left + right) / 2 - 16, (top + bottom) / 2 - 16) / 16
        assert place == (apart >= 0.4) + (apart >= 0.56)
    assert next(Scenes("detection", num_digits=(1, 4)).test_batches(2)).place is None
