"""What `show` says of objects: found, missed, and missed for lack of tokens."""

import numpy as np
import pytest
import torch

from cropr.dense import DenseViT
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.show import trace
from studies.shown_objects import FOUND, GONE, MIN_SCORE, MISSED, judged, object_maps
from studies.tasks.detector import Detections

CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def target():
    """The first test scene with four digits."""
    batch = Scenes("detection", num_digits=(4, 4)).test_items([0])
    return batch.target.targets()[0]


def detections(target, scores=(0.9, 0.8, 0.7, 0.6), shift=0.0, classes=None):
    labels = target["labels"] - 1 if classes is None else torch.tensor(classes)
    return Detections(target["boxes"] + shift, labels, torch.tensor(scores), target["masks"].bool())


ALL = torch.ones(64, dtype=torch.bool)


def test_what_is_found_has_its_class_its_place_and_its_score(target):
    right = judged(target, detections(target), ALL, (4, 4))
    assert right.found.all() and right.right.all() and right.covered.all()
    assert right.verdict() == "4 of 4 objects found"
    low = judged(target, detections(target, (0.9, MIN_SCORE, 0.49, 0.1)), ALL, (4, 4))
    assert low.shown.tolist() == [0, 1] and low.found.tolist() == [True, True, False, False]
    other = [(int(label) % 10) for label in target["labels"]]  # each the next class
    assert not judged(target, detections(target, classes=other), ALL, (4, 4)).right.any()
    assert not judged(target, detections(target, shift=9.0), ALL, (4, 4)).found.any()


def test_what_has_no_token_is_told_from_what_was_only_missed(target):
    live = ALL.clone()
    gone = target["masks"][2].nonzero() // 4
    live[gone[:, 0] * 8 + gone[:, 1]] = False
    became = judged(target, detections(target, (0.9, 0.1, 0.1, 0.1)), live, (4, 4))
    assert became.covered.tolist() == [True, True, False, True]
    assert became.verdict() == "1 of 4 objects found, 1 missed without a token"
    objects, found = object_maps(
        np.zeros((32, 32, 3)), target, detections(target, (0.9, 0.1, 0.1, 0.1)), became, CLASSES
    )
    assert [box.colour for box in objects.boxes] == [FOUND, MISSED, GONE, MISSED]
    assert [box.dashed for box in objects.boxes] == [False, False, True, False]
    assert [box.name for box in objects.boxes] == [CLASSES[label - 1] for label in target["labels"]]
    assert len(found.boxes) == 1 and (*found.boxes[0].start, *found.boxes[0].end) == tuple(target["boxes"][0].tolist())
    inked = objects.picture.any(axis=2)
    assert (inked == target["masks"].numpy().any(axis=0)).all()
    assert (found.picture.any(axis=2) == target["masks"][0].numpy().astype(bool)).all()


def test_nothing_found_is_drawn_too(target):
    became = judged(target, detections(target, (0.1,) * 4), ~ALL, (4, 4))
    assert became.verdict() == "0 of 4 objects found, 4 missed without a token"
    assert object_maps(np.zeros((32, 32, 3)), target, detections(target, (0.1,) * 4), became, CLASSES)[1].boxes == ()


@pytest.mark.parametrize(("spec", "budget"), [("none", None), ("random", 0.5)])
@torch.no_grad()
def test_the_map_of_a_trace_is_what_the_deployed_model_detects_from(spec, budget):
    torch.manual_seed(0)
    vit = create_backbone("scenes_vit_sincos", pretrained=False, detector=True)
    model = (build(vit, parse_one(spec, True), budget).model if budget else DenseViT(vit)).fold().eval()
    images = Scenes("detection", num_digits=(1, 4)).test_items(range(2)).images
    assert torch.equal(trace(model, images).logits, model(images))
