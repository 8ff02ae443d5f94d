"""Live patches that runs record, against loops over images, blocks and places, one image at a time."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import NUM_PATCHES, SMALL, tiny

from cropr.reducer import observed
from studies.data import Batch
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.runs.decisions import kept_of_mirrored, watched
from studies.tasks import kept
from studies.tasks.kept import KeptPatches, followed, rank_correlation

NUM, FOLLOWED = 9, [0, 1, 3, 5, 7]  # five of nine, evenly spaced


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(kept, "NUM_ITEMS", 5)


def batches():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM, 3, SMALL["img_size"], SMALL["img_size"], generator=generator)
    truth = (torch.rand(NUM, NUM_PATCHES, generator=generator) < 0.2).long() * 3
    for first in range(0, NUM, 4):
        item = torch.arange(first, min(first + 4, NUM))
        yield Batch(images[item], item % 3, item, item // 2, truth[item])


def made(spec):
    return build(tiny("token"), parse_one(spec), None if spec == "none" else 0.6, seed=0).model.fold().eval()


@torch.inference_mode()
def recorded(model, passes=1):
    patches = KeptPatches(model, NUM)
    with watched(model, "cpu", patches):
        for batch in patches.of(batches()):
            for _ in range(passes):
                model(batch.images)
    return patches.arrays()


@torch.inference_mode()
def slowly(model, image):
    """Level of each place, and by reducer the scores of places; of one image."""
    levels, scores = [0] * NUM_PATCHES, []

    def note(block, args, tokens):
        for place in tokens.positions()[0].tolist():
            levels[place] += place >= 0
        ranking = model.reducers[block].ranking(*args)
        places = args[0].positions()[0].tolist()
        told = [] if ranking is None or ranking[0].shape[1] != len(places) else ranking[0][0].tolist()
        scores.append({place: score for place, score in zip(places, told, strict=False) if place >= 0})

    with observed(dict(model.reducers.items()), note):
        model(image[None])
    return levels, scores


@pytest.mark.parametrize("spec", ["random", "cropr", "evit", "norm:rest=squeeze", "tome", "kmedoids", "dynamicvit"])
def test_live_patches_are_those_of_loops(spec):
    model = made(spec)
    found = recorded(model)
    assert found["item"].tolist() == FOLLOWED and found["cluster"].tolist() == [item // 2 for item in FOLLOWED]
    assert found["blocks"].tolist() == [int(block) for block in model.reducers] and found["level"].dtype == np.uint8
    images = torch.cat([batch.images for batch in batches()])
    truth = torch.cat([batch.patch_target for batch in batches()])
    for row, item in enumerate(FOLLOWED):
        levels, scores = slowly(model, images[item])
        assert found["level"][row].tolist() == levels
        bits = np.unpackbits(found["foreground"][row])[:NUM_PATCHES]
        assert bits.tolist() == [int(label > 0) for label in truth[item].tolist()]
        for number, rho in enumerate(found["consistency"][row].tolist()):
            first, second = scores[number], scores[number + 1]
            both = sorted(first.keys() & second.keys())
            if not both:
                assert np.isnan(rho)
                continue
            expected = spearmanr([first[place] for place in both], [second[place] for place in both]).statistic
            assert rho == pytest.approx(expected, abs=2e-3)
    assert np.isnan(found["consistency"]).all() == (spec == "tome")


class Items:
    """The test items of a data set, by number."""

    num_test = NUM

    def test_items(self, items):
        parts = [torch.cat(column) for column in zip(*(batch[:5] for batch in batches()), strict=True)]
        return Batch(*(part[list(items)] for part in parts))


@pytest.mark.parametrize("spec", ["norm", "evit", "tome", "oracle"])
@torch.inference_mode()
def test_live_patches_of_mirror_images_lie_on_the_images(spec):
    model = made(spec)
    height, width = model.grid_size
    found = kept_of_mirrored(model, Items(), FOLLOWED, 2, "cpu")
    assert found.shape == (len(FOLLOWED), NUM_PATCHES) and found.dtype == np.uint8
    images, truth = (torch.cat([batch[part] for batch in batches()]) for part in (0, 4))
    differ = 0
    for row, item in enumerate(FOLLOWED):
        labels = [[int(truth[item][y * width + width - 1 - x] > 0) for x in range(width)] for y in range(height)]
        with model.told(torch.tensor(labels).reshape(1, -1) if model.reads_truth else None):
            levels, _ = slowly(model, torch.stack([images[item][..., -1 - x] for x in range(images.shape[-1])], dim=-1))
        back = [levels[y * width + width - 1 - x] for y in range(height) for x in range(width)]
        assert found[row].tolist() == back
        differ += back != levels
    assert differ == len(FOLLOWED)  # left as they lie they would be others


def test_nothing_is_recorded_where_nothing_leaves_or_an_image_is_seen_twice():
    assert recorded(made("none")) == {}
    assert recorded(made("random"), passes=2) == {}


def test_items_are_evenly_spaced(monkeypatch):
    monkeypatch.setattr(kept, "NUM_ITEMS", 256)
    assert followed(3).tolist() == [0, 1, 2] and followed(0).tolist() == []
    many = followed(50_000)
    assert len(many) == 256 and many[0] == 0 and set(many.diff().tolist()) == {195, 196} and many[-1] > 49_000


def test_rank_correlation_shares_ranks_and_leaves_out_what_has_no_score():
    first, second = np.array([1.0, 2, 2, np.nan, 5, 4]), np.array([10.0, 30, 20, 5, np.nan, 70])
    expected = spearmanr([1, 2, 2, 4], [10, 30, 20, 70]).statistic
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert abs(expected - np.corrcoef([1, 2, 2, 4], [10, 30, 20, 70])[0, 1]) > 0.01  # Pearson's r would be another
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0))) and np.isnan(rank_correlation(first[:1], second[:1]))
