"""Models behind a data loader: what a sample covers, on a clock that is set by hand, and what figures follow."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch
from torch import nn

from studies.measure import clock, end_to_end
from studies.measure.end_to_end import Loader, limited_by, with_loader
from studies.measure.throughput import measure


class Clock:
    """Goes on only where it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("workers, batches", [(0, 5), (2, 3), (1, 1)])
def test_a_sample_is_the_middle_of_a_stream(workers, batches, monkeypatch):
    """Batches at both ends take a hundred times as long: none of that is in it. Every batch is taken from the stream,
    and the model sees no more of them than the clock is through with."""
    hand, seen, taken, lead = Clock(), [], [], 2 * workers
    monkeypatch.setattr(end_to_end, "time", hand)

    def stream(num):
        assert num == batches + 2 * lead
        for i in range(num):
            hand.now += 3 if lead <= i < lead + batches else 300
            taken.append(i)
            yield torch.full((2, 3, 4, 4), float(i))

    class Model(nn.Module):
        def forward(self, images):
            assert images.dtype is torch.bfloat16
            hand.now += 4
            seen.append(int(images.max()))

    loader = Loader(stream, workers, {}, like=torch.zeros(0, dtype=torch.bfloat16), batches=batches)
    assert loader.seconds() == 3 and not seen
    taken.clear()
    assert loader.seconds(Model()) == 7
    assert taken == list(range(batches + 2 * lead)) and seen == list(range(lead + batches))


def test_a_sample_is_long_enough_and_has_one_batch_of_each_worker(monkeypatch):
    hand = Clock()
    monkeypatch.setattr(end_to_end, "time", hand)

    def stream(num):
        for _ in range(num):
            hand.now += 0.01
            yield torch.zeros(1, 3, 4, 4)

    for workers, min_seconds, expected in ((0, 0.095, 10), (3, 0.0, 3), (0, 0.0, 1)):
        loader = Loader(stream, workers, {}, samples_s=[1.0])
        loader.prepare(torch.zeros(0), min_seconds)
        assert loader.batches == expected and loader.samples_s == []


def rounds_of(seconds, seed, n=25):
    return (seconds * np.exp(0.01 * np.random.default_rng(seed).normal(size=n))).tolist()


@pytest.mark.parametrize("model_s, said", [(0.5, "loader"), (2.0, "model"), (1.0, "not told apart")])
def test_the_slower_of_the_two_limits(model_s, said):
    loader, model, both, dense = (rounds_of(s, i) for i, s in enumerate((1.0, model_s, max(1.0, model_s), 2.0)))
    found = with_loader(loader, model, both, dense, 8)
    assert found["limited_by"] == said
    own = np.array(both, dtype=np.float64)
    assert found["images_per_s"]["median"] == pytest.approx(8 / np.median(own))
    assert found["ratio"]["median"] == pytest.approx(np.median(np.array(dense) / own))
    assert found["model_over_loader"]["median"] == pytest.approx(np.median(np.array(loader) / model))
    few = with_loader(loader[:5], model[:5], both[:5], None, 8)
    assert few["limited_by"] == "not told apart" and few["ratio"]["median"] is None
    assert limited_by({"low": 1.0, "high": 1.2}) == "not told apart"


def test_all_take_turns_in_the_same_rounds():
    said, seen = [], []
    models = {name: nn.Sequential(nn.Flatten(), nn.Linear(768, 2)) for name in ("none", "a")}
    for name, model in models.items():
        model.register_forward_hook(lambda *_, name=name: seen.append(name))

    def stream(num):
        seen.append("loader")
        return iter([torch.zeros(4, 3, 16, 16)] * num)

    loader = Loader(stream, 0, {"dataset": "made", "num_items": 4})
    record = measure(
        models, dense="none", img_size=16, batch_size=4, device="cpu", rounds=8, min_seconds=0.0, latency=False,
        loader=loader, progress=lambda text: (said.append(text), text.startswith("round") and seen.append(text)),
    )  # fmt: skip
    whole, own = record["end_to_end"], [row["end_to_end"] for row in record["variants"]]
    assert (whole["dataset"], whole["workers"], len(whole["samples_s"])) == ("made", 0, 8)
    assert [len(row["samples_s"]) for row in own] == [8, 8] and own[0]["ratio"]["median"] == 1
    assert json.loads(json.dumps(record)) == record
    turns = "\n".join(seen).split("round ")[1:]
    assert len(turns) == 8 and all(len(turn.split()) == 1 + 7 for turn in turns)  # 2 alone, 3 streams, 2 behind them
    assert len({turn.partition("\n")[2] for turn in turns}) > 3  # in another order each time


def test_what_fails_behind_the_loader_is_flagged_and_the_others_go_on():
    class Failing(nn.Module):
        def forward(self, images):
            if images.max() > 0:
                raise torch.OutOfMemoryError("a lot")
            return images

    models = {"none": nn.Flatten(), "large": Failing()}
    loader = Loader(lambda num: iter([torch.ones(4, 3, 16, 16)] * num), 0, {})
    record = measure(
        models, dense="none", img_size=16, batch_size=4, device="cpu", rounds=4, min_seconds=0.0, latency=False,
        loader=loader, images=torch.zeros(4, 3, 16, 16),
    )  # fmt: skip
    dense, large = record["variants"]
    assert large["flags"] == ["out of memory"] and large["end_to_end"] is None
    assert len(dense["end_to_end"]["samples_s"]) == 4


def test_work_of_processes_that_still_run_is_own_work():
    code = "import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(600)"
    before = clock.own_seconds() - time.process_time()
    process = multiprocessing.get_context("spawn").Process(target=exec, args=(code,), daemon=True)
    process.start()
    try:
        end = time.monotonic() + 120
        while clock.own_seconds() - time.process_time() - before < 0.4:
            assert time.monotonic() < end and process.is_alive()
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()
