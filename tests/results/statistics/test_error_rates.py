"""How often the statistics err, over 2,000 simulated studies whose truth is known, and scipy's own as a second opinion.

A study: clusters of five items that share their difficulty, two methods. All studies share the drawn clusters, which
saves time and biases nothing: their data are independent.
"""

import numpy as np
import pytest
import scipy.stats

from results.statistics import bootstrap
from results.statistics.joint.fronts import front_probability

STUDIES, CLUSTERS, SIZE, RESAMPLES = 2_000, 150, 5, 800
FIVE_PERCENT = 4 * (0.05 * 0.95 / STUDIES) ** 0.5  # four standard errors of a rate of 5 %: 1.9 points


def resampled(own):
    return bootstrap.resample_accuracy(own, np.full(CLUSTERS, SIZE), RESAMPLES)  # [studies, B]


@pytest.fixture(scope="module")
def two():
    """Two methods of one seed that are equally good, on the same items."""
    rng = np.random.default_rng(0)
    easy = rng.standard_normal((CLUSTERS, 1, STUDIES), np.float32)
    own = [(easy + rng.standard_normal((CLUSTERS, SIZE, STUDIES), np.float32) < 1).sum(axis=1) for _ in range(2)]
    return [resampled(method) for method in own]


def test_five_percent_of_equal_methods_are_called_different(two):
    wrong = (bootstrap.p_value(two[0] - two[1]) < 0.05).mean()
    assert wrong == pytest.approx(0.05, abs=FIVE_PERCENT), wrong


def test_intervals_of_differences_hold_the_truth_in_ninety_five_percent(two):
    low, high = bootstrap.interval(two[0] - two[1])
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(0.95, abs=FIVE_PERCENT)
    narrow = bootstrap.interval(two[0] - two[1], confidence=0.85)
    assert ((narrow[0] <= 0) & (narrow[1] >= 0)).mean() < 0.95 - FIVE_PERCENT


def test_intervals_of_one_method_hold_the_truth_in_ninety_five_percent(two):
    low, high = bootstrap.interval(two[0])
    truth = scipy.stats.norm.cdf(1 / 2**0.5)
    assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(0.95, abs=FIVE_PERCENT)


def test_items_taken_as_independent_would_miss_it(two):
    """That clusters are drawn, and not items, is what gives the 95 %."""
    share = two[0].mean(axis=1)
    half = 1.96 * (share * (1 - share) / (CLUSTERS * SIZE)) ** 0.5
    assert (np.abs(share - scipy.stats.norm.cdf(1 / 2**0.5)) <= half).mean() < 0.9


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("own_of_seeds", [0.0, 0.1, 0.5])
def test_seeds_of_any_spread_are_called_different_in_no_more_than_five_percent(num_seeds, own_of_seeds):
    """Less often where items explain how seeds differ, which counts twice. Seeds drawn from themselves would be wrong
    in a third of studies of two and a fifth of three."""
    rng = np.random.default_rng(num_seeds)
    seeds = own_of_seeds * rng.normal(size=(STUDIES, num_seeds, 1))
    clusters = rng.normal(size=(CLUSTERS, STUDIES * num_seeds)).astype(np.float32)
    accuracy = bootstrap.resample_accuracy(clusters, np.ones(CLUSTERS), 400).reshape(STUDIES, num_seeds, 400) + seeds
    wrong = (bootstrap.p_value(np.stack([bootstrap.resample_seeds(one) for one in accuracy])) < 0.05).mean()
    assert wrong <= 0.05 + FIVE_PERCENT, wrong
    if own_of_seeds == 0.5:
        assert wrong >= 0.05 - FIVE_PERCENT, wrong
        drawn = rng.integers(num_seeds, size=(num_seeds, 400))
        narrow = np.stack([np.take_along_axis(one, drawn, axis=0).mean(axis=0) for one in accuracy])
        assert (bootstrap.p_value(narrow) < 0.05).mean() > 0.05 + FIVE_PERCENT


def test_the_probability_of_the_front_is_calibrated():
    """Of points that have a probability of about q a share of q is on the true front, where nothing was known."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(-4, 4, size=(STUDIES, 4)) / CLUSTERS**0.5  # in standard errors, on the whole
    values = truth[None] + rng.normal(size=(CLUSTERS, STUDIES, 4))
    accuracy = bootstrap.resample_accuracy(values.reshape(CLUSTERS, -1), np.ones(CLUSTERS), 400)
    accuracy = accuracy.reshape(STUDIES, 4, 400)
    costs = np.arange(4.0)
    found = np.array([front_probability(costs, one) for one in accuracy])[:, 1:].ravel()  # the cheapest is always on it
    on_front = (truth[:, 1:] > np.maximum.accumulate(truth, axis=1)[:, :-1]).ravel()
    for low in np.arange(0, 1, 0.2):
        own = (found >= low) & (found <= low + 0.2)
        error = (on_front[own].mean() * (1 - on_front[own].mean()) / own.sum()) ** 0.5
        assert on_front[own].mean() == pytest.approx(found[own].mean(), abs=4 * error + 0.02) and own.sum() > 200
    assert found.mean() == pytest.approx(on_front.mean(), abs=0.02)


def test_scipys_bca_and_permutation_test_agree():
    rng = np.random.default_rng(3)
    ours, theirs = (rng.binomial(SIZE, share, size=CLUSTERS) for share in (0.84, 0.825))
    accuracy = bootstrap.resample_accuracy(np.stack([ours, theirs], axis=1), np.full(CLUSTERS, SIZE), 10_000)
    gaps = (ours - theirs) / SIZE
    bca = scipy.stats.bootstrap((gaps,), np.mean, n_resamples=10_000, method="BCa", rng=1).confidence_interval
    low, high = bootstrap.interval(accuracy[0] - accuracy[1])
    width = high - low
    assert [low, high] == pytest.approx([bca.low, bca.high], abs=0.04 * width)
    test = scipy.stats.permutation_test(
        (ours, theirs), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=10_000, rng=1,
    )  # fmt: skip
    found = bootstrap.p_value(accuracy[0] - accuracy[1])
    assert 0.001 < test.pvalue < 0.2 and found == pytest.approx(test.pvalue, rel=0.25, abs=0.004)
