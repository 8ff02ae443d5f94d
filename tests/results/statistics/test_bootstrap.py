"""The statistics against an obvious loop, scipy and normal theory; a wrong answer misses each tolerance."""

import numpy as np
import pytest
import scipy.stats

from results.statistics.bootstrap import (
    Population,
    holm,
    interval,
    num_resamples,
    p_value,
    resample_accuracy,
    resample_seeds,
)


def _clustered_hits(num_clusters: int, size: int, num_runs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters [I] and hits [I, R] whose items of a cluster mostly share their fate."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(num_clusters), size)
    easy = rng.normal(size=num_clusters)[cluster]
    return cluster, easy[:, None] + 0.5 * rng.normal(size=(len(cluster), num_runs)) > -1.0


def _sums(cluster: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, Population]:
    population = Population.of(cluster)
    return np.column_stack([population.sums(column) for column in hits.T]), population


def test_resamples_equal_an_obvious_loop() -> None:
    rng = np.random.default_rng(1)
    cluster = rng.integers(100, 110, size=40)  # any labels, unequal sizes
    hits = rng.random((40, 3)) < 0.7
    sums, population = _sums(cluster, hits)
    accuracy = resample_accuracy(sums, population.sizes, resamples=50, seed=7)
    labels = np.unique(cluster)
    drawn = np.random.default_rng(7).integers(len(labels), size=(50, len(labels)))
    for resample in range(50):
        items = np.concatenate([np.flatnonzero(cluster == labels[which]) for which in drawn[resample]])
        np.testing.assert_array_almost_equal_nulp(accuracy[:, resample], hits[items].mean(axis=0), nulp=4)


def test_blocks_do_not_change_the_answer() -> None:
    cluster, hits = _clustered_hits(30, 4, 2)
    sums, population = _sums(cluster, hits)
    whole = resample_accuracy(sums, population.sizes, resamples=100)
    blocks = resample_accuracy(sums, population.sizes, resamples=100, block_entries=30 * 7)
    np.testing.assert_array_equal(blocks, whole)


def test_interval_equals_scipy_where_every_item_is_its_own_cluster() -> None:
    hit = np.random.default_rng(0).random(400) < 0.85
    sums, population = _sums(np.arange(400), hit[:, None])
    low, high = interval(resample_accuracy(sums, population.sizes, 20_000)[0])
    theirs = scipy.stats.bootstrap((hit,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    tolerance = 0.003  # 1.2 items of 400; Monte Carlo noise of both is about 0.001
    assert low == pytest.approx(theirs.low, abs=tolerance) and high == pytest.approx(theirs.high, abs=tolerance)
    wrong = interval(resample_accuracy(sums, population.sizes, 20_000)[0], confidence=0.90)
    assert wrong[0] > theirs.low + tolerance and wrong[1] < theirs.high - tolerance


def test_cluster_interval_has_the_width_of_normal_theory_and_not_that_of_independent_items() -> None:
    cluster, hits = _clustered_hits(450, 5, 1)
    sums, population = _sums(cluster, hits)
    low, high = interval(resample_accuracy(sums, population.sizes, 20_000)[0])
    residual = sums[:, 0] - hits.mean() * population.sizes
    expected = 2 * 1.96 * np.sqrt((residual**2).sum()) / len(cluster)  # equal clusters: standard error of their mean
    independent = 2 * 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / len(cluster))
    assert high - low == pytest.approx(expected, rel=0.04)
    assert abs(independent - expected) > 10 * 0.04 * expected  # taking items as independent misses it tenfold


def test_where_items_explain_nothing_it_is_the_t_interval_of_the_seeds() -> None:
    for values in ([0.80, 0.90], [0.80, 0.85, 0.90], [0.8, 0.84, 0.86, 0.87, 0.91]):
        means = resample_seeds(np.repeat(np.array(values)[:, None], 200_000, axis=1))
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        right = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        assert interval(means) == pytest.approx(right, abs=0.03 * (right[1] - right[0]))
        drawn = np.random.default_rng(0).choice(values, size=(20_000, len(values))).mean(axis=1)
        low, high = interval(drawn)
        assert high - low < 0.8 * (right[1] - right[0])  # a bootstrap of so few is too narrow


def test_the_spread_of_items_and_of_seeds_add() -> None:
    rng = np.random.default_rng(0)
    accuracy = np.array([[0.7], [0.8], [0.85], [0.9]] * 3) + 0.02 * rng.standard_normal(50_000)  # items shared by all
    means = resample_seeds(accuracy)
    seeds = accuracy.mean(axis=1).var(ddof=1) / 12 * 11 / 9  # variance of Student's t with 11 degrees
    assert means.var() == pytest.approx(0.02**2 + seeds, rel=0.04) and means.mean() == pytest.approx(0.8125, abs=1e-3)


def test_one_seed_is_left_alone() -> None:
    accuracy = np.random.default_rng(0).random((1, 100))
    np.testing.assert_array_equal(resample_seeds(accuracy), accuracy[0])


def test_differences_are_paired() -> None:
    # Two runs that miss nearly the same items: the paired interval is far narrower than one of independent resamples.
    cluster, hits = _clustered_hits(450, 5, 1)
    rng = np.random.default_rng(3)
    other = hits[:, 0] & (rng.random(len(hits)) > 0.02)
    sums, population = _sums(cluster, np.column_stack([hits, other]))
    accuracy = resample_accuracy(sums, population.sizes, 5_000)
    difference = accuracy[0] - accuracy[1]
    by_cluster = (sums[:, 0] - sums[:, 1]) / 5
    assert difference.std() == pytest.approx(by_cluster.std() / np.sqrt(450), rel=0.05)
    unpaired = accuracy[0] - resample_accuracy(sums, population.sizes, 5_000, seed=1)[1]
    assert unpaired.std() > 3 * difference.std()


def test_p_value_equals_normal_theory() -> None:
    replicates = np.random.default_rng(0).normal(loc=2.0, size=200_000)  # z = 2
    expected = 2 * scipy.stats.norm.sf(2.0)
    assert p_value(replicates) == pytest.approx(expected, rel=0.05)
    assert abs(expected / 2 - expected) > 5 * 0.05 * expected  # a one-sided p misses it
    assert p_value(-replicates) == p_value(replicates)


def test_p_value_at_its_ends() -> None:
    assert p_value(np.zeros(2000)) == 1.0
    assert p_value(np.ones(2000)) == pytest.approx(2 / 2001)
    np.testing.assert_array_equal(p_value(np.stack([np.zeros(9), np.ones(9)])), [1.0, 0.2])


def test_holm_against_hand_computation() -> None:
    # 4 tests: 0.005 × 4, 0.01 × 3, 0.03 × 2, 0.04 × 1 raised to the one before
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])  # NaN is no test
    assert holm([]).shape == (0,)
    assert not np.allclose(holm([0.01, 0.04, 0.03, 0.005]), np.minimum(1, 4 * np.array([0.01, 0.04, 0.03, 0.005])))


def test_resamples_grow_with_the_comparisons_until_memory_stops_them() -> None:
    assert num_resamples(15, 48) == 2_000
    assert num_resamples(100, 48) == 8_000
    assert num_resamples(1_000, 10_000) == 2_000
