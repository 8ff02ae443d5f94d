"""Samples to figures: intervals against the exact distribution of a bootstrap, when rounds end, who is ahead."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from studies.measure.speed_record import Rounds, median_interval, median_ratio, ranks, ratio_spread


@pytest.mark.parametrize("n", [7, 21, 61])
def test_interval_is_that_of_the_exact_bootstrap_distribution(n):
    """The median of a resample is at most the k-th value if more than half of it are among the k lowest (n odd)."""
    values = np.random.default_rng(n).gamma(2.0, size=n)
    at_most = binom.sf((n + 1) / 2 - 1, n, np.arange(1, n + 1) / n)
    order = np.sort(values)
    found = median_interval(values.tolist())
    for key, share in (("low", 0.025), ("high", 0.975)):
        around = np.searchsorted(at_most, [share - 0.012, share + 0.012])  # 2,000 resamples
        assert order[around[0]] <= found[key] <= order[min(around[1], n - 1)]
    assert found == median_interval(values.tolist())
    assert found["low"] < np.median(values) < found["high"]


def test_five_values_have_no_interval():
    assert median_interval([1.0, 2, 3, 4, 5]) == {"low": None, "high": None}
    assert median_interval([1.0, 2, 3, 4, 5, 6])["low"] is not None


@pytest.mark.parametrize("n", [10, 30])
def test_intervals_hold_the_truth_as_often_as_they_say(n):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = median_interval(np.exp(0.03 * rng.standard_t(3, size=n)))
        held += found["low"] <= 1 <= found["high"]
    assert 0.91 <= held / 400 <= 0.98


def test_rounds_end_where_every_ratio_is_known():
    rng = np.random.default_rng(0)
    dense = np.exp(0.02 * rng.normal(size=500))
    own = {"a": np.exp(0.02 * rng.normal(size=500)) / 2, "noisy": np.exp(0.04 * rng.normal(size=500))}
    alone, both = ({name: own[name] for name in names} for names in (("a",), ("a", "noisy")))

    def stop(others, seconds=1e9):
        rounds = Rounds(None, 0.02, seconds)
        for n in range(1, 501):
            end = rounds.stopped_by(n, float(n), dense[:n], {name: s[:n] for name, s in others.items()})
            if end:
                return n, end
        raise AssertionError("no end")

    n, end = stop(alone)
    ratio = ratio_spread(dense[:n], own["a"][:n])
    assert end == "precision" and n >= 25 and (ratio["high"] - ratio["low"]) / ratio["median"] < 0.02
    more, end = stop(both)
    assert end == "precision" and more > n
    assert stop(both, seconds=more // 2) == (more // 2, "time")
    assert stop({}) == (25, "precision")  # nothing is asked for, and nothing is decided on less


def test_stopping_early_leaves_intervals_that_hold_the_truth():
    rng, held = np.random.default_rng(0), 0
    for _ in range(150):
        dense, own = np.exp(0.015 * rng.normal(size=(2, 1000)))
        rounds, n = Rounds(None, 0.02, 1e9), 1
        while not rounds.stopped_by(n, 0.0, dense[:n], {"a": own[:n]}):
            n += 1
        found = ratio_spread(dense[:n], own[:n])
        held += found["low"] <= 1 <= found["high"]
    assert held / 150 >= 0.9


def test_a_number_of_rounds_is_kept_to():
    rounds = Rounds(3, 0.02, 0.5)
    assert [rounds.stopped_by(n, float(n), [], {}) for n in (1, 2, 3)] == [None, None, "rounds"]
    assert rounds.flags("rounds", 3, [1.0] * 3, {"a": [1.0, 2.0, 3.0]}) == {}


def test_what_time_was_too_short_for_is_flagged_alone():
    dense, rounds = [1.0] * 10, Rounds(None, 0.02, 5.0)
    wide, exact = [1.0, 1.5] * 5, [0.5] * 10
    flags = rounds.flags("time", 10, dense, {"wide": wide, "exact": exact})
    ratio = ratio_spread(dense, wide)
    share = 100 * (ratio["high"] - ratio["low"]) / ratio["median"]
    said = f"its ratio is known to {share:.2g} % in 10 rounds, as 5 s allow, not the 2 % asked for"
    assert flags == {"wide": said}
    few = rounds.flags("time", 2, dense[:2], {"exact": exact[:2]})
    assert few == {"exact": "its ratio has no interval in 2 rounds, as 5 s allow, not the 2 % asked for"}


def rows(**samples_s):
    return [
        {"variant": name, "samples_s": list(own), "images_per_s": {"median": None if len(own) == 0 else 1.0}}
        for name, own in samples_s.items()
    ]


def test_only_what_is_told_apart_has_another_rank():
    rng = np.random.default_rng(0)
    clock = np.exp(0.3 * rng.normal(size=20))  # one that drifts by far more than variants differ
    fast, alike, slow = (clock * s * np.exp(0.01 * rng.normal(size=20)) for s in (1.0, 1.001, 1.1))
    assert ranks(rows(slow=slow, fast=fast, alike=alike, failed=[])) == {"slow": 3, "fast": 1, "alike": 1}
    assert ranks(rows(slow=slow[:5], fast=fast[:5])) == {}


def test_unpaired_ratio_against_a_slow_bootstrap():
    rng = np.random.default_rng(3)
    a, b = rng.gamma(50, size=25) * 1.1, rng.gamma(50, size=40)
    found = median_ratio(a.tolist(), b.tolist())
    ratios = []
    for _ in range(4000):
        one, other = sorted(rng.choice(a, len(a))), sorted(rng.choice(b, len(b)))
        ratios.append(one[12] / ((other[19] + other[20]) / 2))
    assert found["median"] == pytest.approx(np.median(a) / np.median(b))
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), rel=0.02)
    assert median_ratio([1.0] * 5, [2.0] * 9) == {"median": 0.5, "low": None, "high": None}
    assert not math.isclose(found["high"] - found["low"], 0)
