"""What is found out beside a measurement. Clocks are set by hand where a figure depends on them."""

import json
import time
from itertools import count

import pytest
import torch
from tiny_models import images, reduced, tiny
from torch import nn

from studies.measure import probes, throughput
from studies.measure.probes import best_batch, judged, known_pair, reducers_time

SETTING = {"device": "cpu", "dtype": "float32", "min_seconds": 0.0}


class Limited(nn.Module):
    """Has memory for `most` images."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def forward(self, images):
        if len(images) > self.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    "seconds_of, best, tried, ended",
    [
        # 1 s a pass and 0.1 s an image: +13.5 % from 32 to 64, +7.3 % to 128, +3.8 % to 256
        (lambda batch: 1 + 0.1 * batch, 128, [2**i for i in range(9)], "twice as many bring less than 5% more"),
        (lambda batch: 0.1 * batch, 1, [1, 2], "twice as many bring less than 5% more"),
        (lambda batch: 1.0, 16, [1, 2, 4, 8, 16], "32 do not fit into memory"),
    ],
)
def test_best_batch_is_the_last_that_was_worth_doubling(monkeypatch, seconds_of, best, tried, ended):
    def seconds(model, images, repeats, wait=False):
        model(images)
        return seconds_of(len(images))

    monkeypatch.setattr(probes, "seconds", seconds)
    most = 31 if "memory" in ended else 4096
    found, seen = best_batch("none", Limited(most), 8, **SETTING)
    assert found == best and [int(size) for size in seen["images_per_s"]] == tried
    assert seen["variant"] == "none" and seen["ended"] == ended
    assert seen["images_per_s"]["1"] == pytest.approx(1 / seconds_of(1))


def test_best_batch_goes_no_further_than_it_says(monkeypatch):
    monkeypatch.setattr(probes, "LARGEST", 8)
    monkeypatch.setattr(probes, "seconds", lambda model, images, repeats, wait=False: 1.0)
    assert best_batch("none", Limited(99), 4, **SETTING)[0] == 8


def test_other_errors_of_a_batch_are_errors():
    with pytest.raises(RuntimeError, match="normalized_shape"), torch.inference_mode():
        best_batch("none", nn.LayerNorm(3), 8, **SETTING)


@pytest.mark.parametrize(
    "low, high, quiet", [(1.95, 2.05, True), (1.9, 2.1, True), (1.89, 2.05, False), (1.95, 2.11, False),
                         (2.2, 2.21, False), (1.0, 1.01, False), (None, None, False)]
)  # fmt: skip
def test_two_blocks_must_take_twice_what_one_does(low, high, quiet):
    middle = 2.0 if low is None else (low + high) / 2
    found = judged({"median": middle, "low": low, "high": high}, rounds=12)
    assert found["quiet"] is quiet and f"{middle:.3f}" in found["why"] and "12 rounds" in found["why"]
    assert ("not within" in found["why"] or "too few" in found["why"]) is not quiet


@pytest.mark.parametrize("second, quiet", [(1.0, True), (1.2, False)])
def test_the_known_pair_is_one_block_and_two(monkeypatch, second, quiet):
    """On a clock by which a block takes a second, and the other one `second`."""
    vit, passed = tiny("token"), []
    vit.blocks[0].register_forward_hook(lambda *_: passed.append(1.0))
    vit.blocks[-1].register_forward_hook(lambda *_: passed.append(second))

    def seconds(model, images, repeats, wait=False):
        passed.clear()
        model(images)
        return sum(passed)

    monkeypatch.setattr(throughput, "seconds", seconds)
    found = known_pair(vit, device="cpu")
    assert found["quiet"] is quiet and found["ratio"]["median"] == pytest.approx(1 + second)
    assert found["num_tokens"] == 37 and found["rounds"] == 25 and found["band"] == 0.05


def test_the_known_pair_of_a_real_clock():
    found = known_pair(tiny("eva_fused"), device="cpu", dtype="bfloat16", max_seconds=1.0, min_seconds=0.0)
    assert json.loads(json.dumps(found)) == found
    assert found["dtype"] == "bfloat16" and found["ratio"]["median"] > 1


class Sleeping(nn.Module):
    def forward(self, x):
        time.sleep(0.002)
        return x


class Reduced(nn.Module):
    """Two reducers that take 2 ms each, and 4 ms of other work."""

    def __init__(self):
        super().__init__()
        self.reducers = nn.ModuleDict({"1": Sleeping(), "3": Sleeping()})

    def forward(self, x):
        for reducer in self.reducers.values():
            x = reducer(x)
        time.sleep(0.004)
        return x


def test_the_time_in_reducers_is_summed_over_blocks():
    model = Reduced()
    found = reducers_time(model, torch.zeros(2))
    assert found["passes"] == 5 and found["ms"]["p5"] >= 4 and 0 < found["share"] < 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert reducers_time(nn.Identity(), torch.zeros(2)) is None


def test_every_reducer_is_timed_once_a_pass(monkeypatch):
    """On a clock that goes on by a second whenever it is read."""
    ticks = count()
    monkeypatch.setattr(probes, "mark", lambda device: float(next(ticks)))
    model = reduced("cropr", "token")
    found = reducers_time(model, images())
    assert found["ms"]["median"] == 1e3 * len(model.reducers)
