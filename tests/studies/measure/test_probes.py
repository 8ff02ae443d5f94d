"""What is found out beside a measurement. Clocks are set by hand where a figure depends on them."""

import pytest
import torch
from torch import nn

from studies.measure import probes
from studies.measure.probes import best_batch

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
