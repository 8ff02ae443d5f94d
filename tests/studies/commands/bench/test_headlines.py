"""What records come to, on records whose answer is known."""

import pytest

from studies.commands.bench.headlines import break_even, headline_lines, headlines

SLOWER, ALIKE, FASTER = (0.8, 0.9), (0.95, 1.05), (1.1, 1.2)


def ratio(ends):
    return {"median": sum(ends) / 2, "p5": ends[0] / 2, "p95": 2 * ends[1], "low": ends[0], "high": ends[1]}


@pytest.mark.parametrize(
    "along, slower, faster",
    [
        ({1: SLOWER, 4: FASTER, 16: FASTER}, 1, 4),
        ({16: FASTER, 1: SLOWER, 4: ALIKE}, 1, 16),  # in any order; between them it is not known
        ({1: FASTER, 4: FASTER}, None, 1),
        ({1: SLOWER, 4: SLOWER}, 4, None),
        ({1: ALIKE}, None, None),
        ({1: FASTER, 4: SLOWER, 16: FASTER}, 4, 16),
        ({1: SLOWER, 4: FASTER, 16: ALIKE}, 1, None),
    ],
)
def test_break_even_is_between_sizes_that_were_measured(along, slower, faster):
    found = break_even({size: ratio(ends) for size, ends in along.items()})
    assert found == {"slower_up_to": slower, "faster_from": faster}


def test_without_an_interval_nothing_is_told_apart():
    assert break_even({1: ratio((2, 3)) | {"low": None, "high": None}}) == {
        "slower_up_to": None, "faster_from": None,
    }  # fmt: skip


def record(img_size, batch_size, ends, mode="eager"):
    middle = sum(ends) / 2
    dense = {"variant": "none", "ratio": ratio((1.0, 1.0)), "speedup_per_mac_ratio": 1.0}
    own = {
        "variant": "mine@0.5", "ratio": ratio(ends), "speedup_per_mac_ratio": middle / 2,
        "reducers": {"ms": {"median": 1.5, "p5": 1, "p95": 2}, "share": 0.25, "passes": 5} if mode == "eager" else None,
        "kernel": {"backend": "math", "kept": False, "why": "2 of 3 calls have a mask"},
    }  # fmt: skip
    failed = {"variant": "failed", "ratio": {"median": None}, "speedup_per_mac_ratio": None}
    return {
        "backbone": "b", "task": "classification", "device_name": "cpu", "dtype": "float32", "mode": mode,
        "num_threads": 2, "dense": "none", "img_size": img_size, "batch_size": batch_size,
        "variants": [dense, own, failed],
    }  # fmt: skip


def test_headlines_say_where_it_pays_and_what_is_lost():
    records = [
        record(32, 4, FASTER), record(32, 1, (0.8, 0.88)), record(64, 4, (1.2, 1.4)), record(32, 1, FASTER, "onnx"),
    ]  # fmt: skip
    eager, onnx = headlines(records)
    assert (eager["mode"], onnx["mode"]) == ("eager", "onnx") and len(eager["variants"]) == 1
    mine = eager["variants"][0]
    assert [(one["img_size"], one["batch_size"], one["share"]) for one in mine["arrives"]] == [
        (32, 1, pytest.approx(0.42)), (32, 4, pytest.approx(0.575)), (64, 4, pytest.approx(0.65)),
    ]  # fmt: skip
    assert mine["break_even"]["batch_size"] == [
        {"img_size": 32, "measured": [1, 4], "slower_up_to": 1, "faster_from": 4},
        {"img_size": 64, "measured": [4], "slower_up_to": None, "faster_from": 4},
    ]
    text = list(headline_lines([eager, onnx]))
    assert text[0] == "headlines: b, float32, eager, cpu, 2 threads"
    for words in (
        "42% (32 px, batch 1) and 65% (64 px, batch 4) of the MAC ratio arrive",
        "break-even batch: 4 (slower up to 1) at 32 px, none measured (faster from 4 on) at 64 px",
        "break-even image size: none measured (slower up to 32 px) at batch 1",
        "reducers take 1.50 ms, 25.0% of a pass (32 px, batch 1), 1.50 ms, 25.0% of a pass (64 px, batch 4)",
        "attention kernel lost (math): 2 of 3 calls have a mask",
    ):
        assert words in text[1], text[1]
    assert "reducers take" not in text[3] and "arrives;" in text[3]
