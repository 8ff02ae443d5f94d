"""Coverage: objects with a live token, against loops over objects, pixels and tokens."""

import numpy as np
import pytest
import torch
from tiny_models import reduced as tiny_reduced

from studies.data import COCO_AREAS
from studies.data.sets.scenes import OBJECT_AREAS, Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.tasks.coverage import Coverage, found_by_place, patches_of, place_of
from studies.tasks.detection import evaluate


@pytest.fixture(scope="module")
def batch():
    return Scenes("detection", num_digits=(1, 4)).test_items(range(12))


def detector(spec, budget):
    torch.manual_seed(0)
    return build(create_backbone("scenes_vit_sincos", pretrained=False, detector=True), parse_one(spec, True), budget)


def states_of(model, images):
    """What every reducer returned, by block."""
    states = {}
    for block, reducer in model.reducers.items():
        reducer.register_forward_hook(lambda _, args, tokens, block=block: states.__setitem__(int(block), tokens))
    with torch.no_grad():
        model.eval()(images)
    return states


def places_held(tokens, image):
    """Grid places (row, column of 8 x 8) that a live token stands for."""
    live = tokens.positions()[image].tolist()
    if tokens.owner is None:
        return {divmod(place, 8) for place in live}
    return {divmod(place, 8) for place, owner in enumerate(tokens.owner[image].tolist()) if 0 <= owner < len(live)}


@pytest.mark.parametrize("spec", ["random", "cropr", "evit", "tome", "dynamicvit"])
def test_objects_with_a_token_against_loops(spec, batch):
    model = detector(spec, 0.45).model.fold()
    model.vit.head.roi_heads.score_thresh = 1.0  # nothing is found, by chance neither
    said = evaluate(model, [batch], "cpu").facts
    states = states_of(model, batch.images)
    expected = {block: [0, 0, 0] for block in states}
    objects, uncovered = [0, 0, 0], [0, 0, 0]
    for image, masks in enumerate(batch.target.masks.tolist()):
        for mask in masks:
            pixels = [(y, x) for y in range(32) for x in range(32) if mask[y][x]]
            if not pixels:
                continue
            size = (len(pixels) > OBJECT_AREAS[0]) + (len(pixels) > OBJECT_AREAS[1])
            objects[size] += 1
            for block, tokens in states.items():
                held = places_held(tokens, image)
                expected[block][size] += any((y // 4, x // 4) in held for y, x in pixels)
            uncovered[size] += not any((y // 4, x // 4) in held for y, x in pixels)
    found = said["coverage"]
    assert found["blocks"] == list(states) and found["objects"] == objects and sum(objects) > 20
    assert found["covered"] == list(expected.values())
    assert found["missed_without_token"] == uncovered
    assert found["missed_with_token"] == [n - gone for n, gone in zip(objects, uncovered, strict=True)]
    assert (spec == "tome") == (sum(found["covered"][-1]) == sum(objects))  # what merges is still there
    assert said["object_areas"] == list(OBJECT_AREAS) and said["evaluator"].startswith("pycocotools ")


def test_a_patch_counts_that_is_live_or_owned_by_one_that_is():
    """One object in the first patch, one in the last: dropped (-1), live, merged into another."""
    coverage = Coverage(tiny_reduced("random", "token"))
    masks = torch.zeros(2, 48, 48, dtype=torch.uint8)
    masks[0, :3, 0], masks[1, 47, 47] = 1, 1
    for first, last in ((-1, 35), (0, -1), (7, 0)):
        held = torch.full((1, 36), -1)
        held[0, 0], held[0, 35] = first, last
        coverage.held = {"2": held}
        coverage.add([masks])
    assert torch.cat(coverage.covered)[:, 0].tolist() == [False, True, True, False, True, True]


def test_what_was_found_is_not_missed():
    coverage = Coverage(tiny_reduced("random", "token"))
    coverage.held = {"1": None, "3": None}
    coverage.covered = [torch.tensor([[1, 1], [1, 0], [1, 0], [0, 0]], dtype=torch.bool)]
    areas = np.array([10.0, 2000.0, 1024.0, 99999.0])  # small, medium, medium (the limit is the larger one's), large
    (record,) = coverage.record(areas, np.array([True, False, True, False]), COCO_AREAS).values()
    assert record == {
        "blocks": [1, 3], "objects": [1, 2, 1], "covered": [[1, 2, 0], [1, 0, 0]],
        "missed_with_token": [0, 0, 0], "missed_without_token": [0, 1, 1],
    }  # fmt: skip


def test_nothing_is_said_where_nothing_leaves(batch):
    assert "coverage" not in evaluate(detector("none", None).model, [batch], "cpu").facts
    masked = detector("dynamicvit", 0.7).model
    masked.masked_eval = True
    assert "coverage" not in evaluate(masked, [batch], "cpu").facts


@pytest.mark.parametrize("size", [(12, 8), (13, 11)])
def test_patches_that_see_a_pixel(size):
    masks = torch.rand(5, *size, generator=torch.Generator().manual_seed(0)) < 0.04
    rows, columns = -(-size[0] // 4), -(-size[1] // 4)
    expected = torch.zeros(5, rows * columns, dtype=torch.bool)
    for number, y, x in masks.nonzero().tolist():
        expected[number, y // 4 * columns + x // 4] = True
    assert torch.equal(patches_of(masks.byte(), (4, 4)), expected) and 0 < expected.float().mean() < 1


def test_places_are_thirds_of_the_area():
    width, height, thirds = 300, 120, [0, 0, 0]
    for x in range(width):
        for y in range(height):
            thirds[place_of((x - 5, y - 10, 11, 21), height, width)] += 1  # a box whose middle is that of a pixel
    assert np.array(thirds) / (width * height) == pytest.approx([1 / 3] * 3, abs=0.01)
    assert [place_of((x, 59, 2, 2), height, width) for x in (149, 240, 290)] == [0, 1, 2]
    assert place_of((149, 0, 2, 2), height, width) == place_of((0, 59, 2, 2), height, width) == 2


def test_found_by_place_counts_each_object_in_its_image():
    rng, items = np.random.default_rng(0), np.array([7, 3, 12, 5])
    image, place, found = rng.choice([7, 3, 5], 40), rng.integers(3, size=40), rng.random(40) < 0.5
    counts = found_by_place(image, place, found, items)
    expected = np.zeros((4, 3, 2), int)
    for own, at, hit in zip(image.tolist(), place.tolist(), found.tolist(), strict=True):
        expected[items.tolist().index(own), at, 1] += 1
        expected[items.tolist().index(own), at, 0] += hit
    assert (counts == expected).all() and counts.sum() == 40 + found.sum() and not counts[2].any()


def test_sizes_of_digits_are_thirds_of_those_of_training():
    scenes = Scenes("detection", num_digits=(1, 4))
    area = []
    for start in range(0, 898, 449):
        places = scenes.render("train", np.arange(start, start + 449)).instances
        area += [n for own in places for n in np.bincount(own.ravel(), minlength=5)[1:] if n]
    small, large = (np.array(area) < OBJECT_AREAS[0]).mean(), (np.array(area) > OBJECT_AREAS[1]).mean()
    assert small == pytest.approx(1 / 3, abs=0.03) and large == pytest.approx(1 / 3, abs=0.03)
