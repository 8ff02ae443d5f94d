"""Classification: what is recorded of each item, held against a slow computation in plain Python floats."""

import math

import numpy as np
import pytest
import torch
from tiny_models import SMALL, tiny

from cropr.vit import ReducedViT
from studies.data import Batch
from studies.tasks.classification import evaluate

NUM = 7


def batches(images, target, size=3):
    for first in range(0, len(images), size):
        item = torch.arange(first, min(first + size, len(images)))
        yield Batch(images[item], target[item], item, item)


def test_confidence_is_the_top_softmax_probability():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM, 3, SMALL["img_size"], SMALL["img_size"], generator=generator)
    model = ReducedViT(tiny("token")).eval()
    with torch.no_grad():
        model.vit.head.weight.mul_(1.5 / model(images).std())  # neither uniform nor saturated
        logits = model(images).double().tolist()
    target = torch.tensor([row.index(max(row)) if i % 2 else 0 for i, row in enumerate(logits)])
    found = evaluate(model, batches(images, target), "cpu")
    confidence = found.predictions["confidence"]
    assert confidence.dtype == np.float16 and len(confidence) == NUM
    exponents = [[math.exp(value - max(row)) for value in row] for row in logits]
    expected = [max(row) / sum(row) for row in exponents]
    assert confidence.tolist() == pytest.approx(expected, rel=2**-10) and np.ptp(confidence) > 0.1
    gaps: dict[int, float] = {}
    for i, own in enumerate(confidence.tolist()):
        hit = logits[i].index(max(logits[i])) == target[i]
        gaps[math.ceil(own * 15)] = gaps.get(math.ceil(own * 15), 0) + float(hit) - own
    assert found.metrics["ece"] == pytest.approx(sum(map(abs, gaps.values())) / NUM, abs=1e-9)


def test_top1_by_place_is_of_the_items_there():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM, 3, SMALL["img_size"], SMALL["img_size"], generator=generator)
    model = ReducedViT(tiny("token")).eval()
    place = torch.tensor([0, 1, 1, 0, 1, 0, 1])  # nothing at the border
    with torch.no_grad():
        target = torch.where(torch.arange(NUM) < 3, model(images).argmax(dim=1), -1)
    target = target.clamp(min=0)
    plain = evaluate(model, batches(images, target), "cpu")
    told = (batch._replace(place=place[batch.item]) for batch in batches(images, target))
    found = evaluate(model, told, "cpu")
    hit = (found.predictions["prediction"] == found.predictions["target"]).tolist()
    for number, name in enumerate(("near_centre", "between")):
        own = [one for one, where in zip(hit, place.tolist(), strict=True) if where == number]
        assert found.metrics[f"top1_{name}"] == pytest.approx(sum(own) / len(own))
    assert found.predictions["place"].tolist() == place.tolist()
    assert {*found.metrics} - {*plain.metrics} == {
        "top1_near_centre",
        "top1_between",
    } and "place" not in plain.predictions
