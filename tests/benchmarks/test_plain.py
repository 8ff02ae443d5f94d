"""Yardsticks say what the models of the project say."""

import pytest
import torch
from benchmarks.plain import PLAIN, Plain, plain
from benchmarks.rounds import ratio_of, timed
from tiny_models import images, reducers, tiny

from cropr.vit import ReducedViT

ATOL = 1e-4
METHODS = [("cropr", False), ("cropr", True), ("random", False), ("random", True), ("tome", False),
           ("evit_fused", False), ("dynamicvit", False)]  # fmt: skip


def pair(method, llf=False):
    vit = tiny("token")
    model = ReducedViT(vit, reducers(method, vit, llf), llf=llf).eval()
    return model.fold().eval(), plain(model)


@torch.inference_mode()
@pytest.mark.parametrize(("method", "llf"), METHODS)
def test_a_yardstick_is_the_model(method, llf):
    ours, yardstick = pair(method, llf)
    batch = images(4)
    right = ours(batch)
    torch.testing.assert_close(yardstick(batch), right, atol=ATOL, rtol=0)
    assert (ours.vit(batch) - right).abs().max() > 10 * ATOL


@torch.inference_mode()
def test_many_queries():
    vit = tiny("token")
    from tiny_models import NUM_PATCHES, place

    model = ReducedViT(vit, place("cropr", vit, NUM_PATCHES, rate=5, queries=9)).eval()
    torch.testing.assert_close(plain(model)(images()), model.fold()(images()), atol=ATOL, rtol=0)


def reversed_order(self, reducer, x, position, images, right):
    return -right(self, reducer, x, position, images)


@torch.inference_mode()
@pytest.mark.parametrize("method", ["cropr", "random", "dynamicvit"])
def test_a_wrong_score_is_seen(method, monkeypatch):
    ours, yardstick = pair(method)
    right = type(yardstick).score
    monkeypatch.setattr(type(yardstick), "score", lambda *args: reversed_order(*args, right))
    assert (yardstick(images()) - ours(images())).abs().max() > 10 * ATOL


def test_each_of_the_five_has_one():
    assert len(PLAIN) == 5 and all(issubclass(cls, Plain) for cls in PLAIN.values())


def test_ratios_are_those_of_the_same_rounds():
    ours, theirs = [1.0, 2.0, 4.0, 1.0, 2.0], [1.1, 2.2, 4.4, 1.1, 2.2]
    found = ratio_of(ours, theirs)
    assert found["low"] == pytest.approx(1.1) == found["high"] and found["median"] == pytest.approx(1.1)
    noisy = ratio_of(ours, [2.2, 2.2, 2.2, 2.2, 2.2])
    assert noisy["low"] < noisy["median"] < noisy["high"]


@pytest.mark.parametrize("processor_time", [False, True])
def test_functions_are_timed_in_rounds(processor_time):
    calls = []
    record = timed({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, processor_time=processor_time)
    assert {name: len(samples) for name, samples in record["samples_s"].items()} == {"a": 3, "b": 3}
    assert record["clock"] == ("processor" if processor_time else "wall") and set(calls) == {"a", "b"}
