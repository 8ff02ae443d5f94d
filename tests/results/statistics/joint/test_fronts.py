"""Probability of the front, hypervolume and improvement, each against an obvious loop."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import synthetic_records
from scipy.stats import mannwhitneyu

from results.records.frames import run_frame
from results.records.store import load_records
from results.statistics.analysis import analyse
from results.statistics.compare import comparable
from results.statistics.curves import pareto_front
from results.statistics.joint.fronts import curve_frame, front_probability, hypervolume, improvement


@pytest.mark.parametrize("seed", range(10))
def test_the_front_of_every_resample(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 6, size=12).astype(float)  # ties in costs
    values = rng.integers(0, 5, size=(12, 200)).astype(float)  # and in values
    costs[3], values[5, 7] = np.nan, np.nan
    known = [i for i in range(12) if i not in (3, 5)]
    right = np.mean([pareto_front(costs[known], values[known, b], False) for b in range(200)], axis=0)
    found = front_probability(costs, values)
    np.testing.assert_allclose(found[known], right)
    assert np.isnan(found[[3, 5]]).all() and 0 < right.mean() < 1


def test_the_front_of_nothing():
    assert np.isnan(front_probability(np.array([np.nan]), np.ones((1, 3)))).all()


@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_is_the_area_that_is_dominated(seed):
    """By asking of a million places of the plane whether a point dominates them."""
    rng = np.random.default_rng(seed)
    costs, values = rng.random(6) * 1.2, rng.random(6)
    x, y = rng.random((2, 400_000))
    dominated = ((costs[:, None] <= x) & (values[:, None] >= y)).any(axis=0).mean()
    assert hypervolume(costs, values) == pytest.approx(dominated, abs=0.004)  # 5 standard errors
    both = hypervolume(costs, np.stack([values, values / 2], axis=1))
    assert both == pytest.approx(np.array([1, 0.5]) * hypervolume(costs, values))


def test_hypervolume_by_hand():
    assert hypervolume(np.array([0.5, 0.8]), np.array([0.6, 0.7])) == pytest.approx(0.3 * 0.6 + 0.2 * 0.7)
    assert hypervolume(np.array([0.5, 0.8]), np.array([0.7, 0.6])) == pytest.approx(0.5 * 0.7)
    assert hypervolume(np.array([1.0, 1.5]), np.array([0.7, 0.6])) == 0
    assert hypervolume(np.array([0.9, 1.5]), np.array([0.5, 0.9])) == pytest.approx(0.1 * 0.5)
    assert hypervolume(np.array([0.5]), np.array([0.7]), (0.75, 0.2)) == pytest.approx(0.25 * 0.5)


def test_improvement_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 6, (4, 30)), rng.integers(0, 5, (3, 30))
    right = np.mean([mannwhitneyu(ours[:, b], theirs[:, b]).statistic / 12 for b in range(30)])
    assert improvement(ours, theirs) == pytest.approx(right) and right != 0.5
    assert improvement(theirs, ours) == pytest.approx(1 - right)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fronts") / "a"
    synthetic_records.write_study(folder, methods=("none", "random", "cropr", "evit"), seeds=2, num_items=500)
    path = folder / "runs" / "evit-0.8-s1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 7}))
    oracle = {"role": "control", "method": {"label": "O", "summary": "reads", "no_method": True}}
    for seed in range(2):
        synthetic_records.write_run(folder, "oracle", 0.5, seed, np.ones(500, bool), **oracle)
        synthetic_records.write_run(
            folder, "random", 0.1, seed, np.zeros(500, bool), options={"a": 1}, tokens_per_block=[1]
        )
    return analyse(run_frame([load_records(folder)]))


def test_of_records(found):
    rows = found.variants.set_index("variant")
    assert np.isnan(rows.loc["oracle@0.5", "p_front"])
    known = found.variants[found.variants["variant"] != "oracle@0.5"]
    costs = known["macs_g"].to_numpy()
    right = np.mean([pareto_front(costs, values, False) for values in found.means[known.index].T], axis=0)
    np.testing.assert_allclose(known["p_front"], right)
    assert rows.loc["none", "p_front"] > rows.loc["random@0.8", "p_front"] and known["p_front"].between(0.1, 0.9).any()
    # all of these records have the same counts: the first random pruning is that of all
    runs = found.runs.reset_index().set_index("id")["index"]
    a, d, r = ([runs[f"{name}-s{seed}"] for seed in range(2)] for name in ("cropr-0.5", "none-None", "random-0.8"))
    for other, column in ((d, "p_beats_dense"), (r, "p_beats_random")):
        won = [
            np.sign(found.replicates.accuracy[i] - found.replicates.accuracy[j]) / 2 + 0.5
            for i, j in itertools.product(a, other)
        ]
        assert rows.loc["cropr@0.5", column] == pytest.approx(np.mean(won))
    assert rows.loc["cropr@0.5", "p_beats_random"] > 0.5 > rows.loc["cropr@0.5", "p_beats_dense"]
    width = rows.loc["cropr@0.5", "difference_high_points"] - rows.loc["cropr@0.5", "difference_low_points"]
    assert rows.loc["cropr@0.5", "detectable_points"] == pytest.approx((1.959964 + 0.841621) / 1.959964 * width / 2)
    assert (rows["min_p_seeds"] == 0.5).all()


def test_curves_of_records(found):
    tested = comparable(found.variants, found.runs, found.replicates)
    curves = curve_frame(found.variants, found.means, tested).set_index("curve")
    assert list(curves.index) == ["Cropr", "EViT", "Random, a=1", "Random, defaults", "oracle"]
    area, seen = {}, {}
    for name in ("Cropr", "Random, defaults"):
        own = found.variants[found.variants["curve"] == name].sort_values("macs_g")
        share = [*(own["macs_g"] / own["macs_dense_g"]), 1.0]
        best, area[name], seen[name] = np.zeros(found.means.shape[1]), 0, 0
        for place, (row, (low, high)) in enumerate(zip(own.index, itertools.pairwise(share), strict=True), 1):
            best = np.maximum(best, found.means[row])
            area[name] = area[name] + 100 * best * (high - low)
            seen[name] += 100 * own["metric"].iloc[:place].max() * (high - low)
    columns = ["hypervolume_low_points", "hypervolume_high_points"]
    assert list(curves.loc["Cropr", columns]) == pytest.approx(list(np.quantile(area["Cropr"], [0.025, 0.975])))
    gap = area["Cropr"] - area["Random, defaults"]
    columns = [f"over_random_hypervolume_{end}_points" for end in ("low", "high")]
    assert list(curves.loc["Cropr", columns]) == pytest.approx(list(np.quantile(gap, [0.025, 0.975])))
    assert curves.loc["Cropr", "over_random_hypervolume_points"] == pytest.approx(
        seen["Cropr"] - seen["Random, defaults"]
    )
    share = found.variants.set_index("variant").loc["random@0.5", ["macs_g", "macs_dense_g", "metric"]]
    right = 100 * (1 - share["macs_g"] / share["macs_dense_g"]) * (1 - share["metric"])  # at the one budget of both
    assert curves.loc["oracle", "over_random_hypervolume_points"] == pytest.approx(right)
    assert curves.loc["Cropr", "over_random_budgets"] == 3 and curves.loc["oracle", "over_random_budgets"] == 1
    assert pd.isna(curves.loc["EViT", "over_random_hypervolume_points"])  # one of its seeds is another
    assert pd.isna(curves.loc["Random, defaults", "over_random_hypervolume_points"])
