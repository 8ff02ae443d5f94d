"""Where the spread of a difference comes from, on data whose parts are known."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from results.statistics import bootstrap
from results.statistics.joint.power import DETECTABLE, MAX_SEEDS, Spread, smallest_p

SEED, ITEM, BOTH = 0.004, 0.05, 0.12  # standard deviations: of a seed, of a cluster, of a seed on a cluster


def drawn(rng, num_seeds, num_clusters, seed=SEED, item=ITEM, both=BOTH):
    """Differences [S, C] of each seed on each cluster."""
    return (
        seed * rng.normal(size=(num_seeds, 1))
        + item * rng.normal(size=num_clusters)
        + both * rng.normal(size=(num_seeds, num_clusters))
    )


def spread_of(values, resamples=2_000):
    resampled = bootstrap.resample_accuracy(values.T.copy(), np.ones(values.shape[1]), resamples)
    return Spread.of(values.mean(axis=1), resampled, values.shape[1])


def test_the_parts_are_told_apart():
    found = [spread_of(drawn(np.random.default_rng(run), 8, 300), 500) for run in range(60)]
    for part, right in (("seed", SEED**2), ("items", ITEM**2 / 300), ("both", BOTH**2 / 300)):
        values = [getattr(one, part) for one in found]
        # clipping at zero lifts the part of seeds a little
        assert np.mean(values) == pytest.approx(right, abs=4 * np.std(values) / 60**0.5 + 0.05 * right), part


@pytest.mark.parametrize(("num_seeds", "num_clusters"), [(2, 200), (3, 200), (12, 200), (3, 800)])
def test_the_width_at_another_size_is_that_of_intervals_of_studies_of_this_size(num_seeds, num_clusters):
    """In the root mean square: a single study of so few seeds has an interval of any width."""
    spread = Spread(3, 200, SEED**2, ITEM**2 / 200, BOTH**2 / 200)
    rng, squares = np.random.default_rng(0), []
    for _ in range(400):
        values = drawn(rng, num_seeds, num_clusters)
        resampled = bootstrap.resample_accuracy(values.T.copy(), np.ones(num_clusters), 2_000)
        low, high = bootstrap.interval(bootstrap.resample_seeds(resampled))
        squares.append((high - low) ** 2 / 4)
    assert spread.half_width(num_seeds, num_clusters) == pytest.approx(np.mean(squares) ** 0.5, rel=0.15)
    wrong = norm.ppf(0.975) * (SEED**2 / num_seeds + (ITEM**2 + BOTH**2 / num_seeds) / num_clusters) ** 0.5
    assert num_seeds > 3 or wrong < 0.75 * np.mean(squares) ** 0.5  # as if the spread of seeds were known


def test_the_number_of_seeds_and_clusters_is_the_smallest_that_does():
    spread = Spread(3, 200, SEED**2, ITEM**2 / 200, BOTH**2 / 200)
    for wanted in (0.0085, 0.009, 0.01):
        seeds = spread.seeds_for(wanted)
        assert 3 < seeds < MAX_SEEDS and spread.half_width(seeds, 200) <= wanted < spread.half_width(seeds - 1, 200)
    for wanted in (0.013, 0.02):
        clusters = spread.clusters_for(wanted)
        assert spread.half_width(3, clusters) <= wanted < spread.half_width(3, clusters - 1)
    assert spread.half_width(10**9, 200) > 0.0069 and spread.seeds_for(0.0069) is None
    assert spread.half_width(3, 10**9) > 0.0099 and spread.clusters_for(0.0099) is None


def test_of_one_seed_items_are_known_and_seeds_are_not():
    values = drawn(np.random.default_rng(0), 1, 400)
    spread = spread_of(values)
    assert spread.items == pytest.approx(values.var() / 400, rel=0.1) and spread.both == 0
    assert np.isnan(spread.half_width(2, 400)) and spread.seeds_for(1.0) is None
    assert spread.half_width(1, 400) == pytest.approx(1.96 * spread.items**0.5, rel=1e-3)
    assert spread.clusters_for(spread.half_width(1, 1600)) in (1600, 1601)


@pytest.mark.parametrize("num_seeds", range(1, 9))
def test_the_smallest_p_is_that_of_an_exact_test_of_signs(num_seeds):
    assert smallest_p(num_seeds) == pytest.approx(binomtest(num_seeds, num_seeds).pvalue)


def test_a_detectable_difference_is_detected_with_the_power_that_is_said():
    half_width = norm.ppf(0.975)
    seen = np.abs(DETECTABLE * half_width + np.random.default_rng(0).normal(size=200_000)) > half_width
    assert seen.mean() == pytest.approx(0.8, abs=0.004)
