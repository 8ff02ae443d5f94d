"""Curves at the same cost and at the same worth, against interpolation of one resample at a time."""

import numpy as np
import pandas as pd
import pytest
import synthetic_records
from scipy.interpolate import pchip_interpolate

from results.records.frames import run_frame, speed_frame
from results.records.store import load_records
from results.statistics.analysis import analyse
from results.statistics.joint.equal_cost import NOT_BRACKETED, at_cost, cost_at, cost_frame, equal_frame, measured


def test_values_at_a_cost_are_those_of_the_curve_and_none_beyond_it():
    costs, values = np.array([3.0, 1.0, 2.0]), np.array([9.0, 5.0, 8.0])
    found = at_cost(costs, values, np.array([0.9, 1.0, 1.5, 2.0, 3.0, 3.1]))
    assert np.isnan(found[[0, 5]]).all() and list(found[[1, 3, 4]]) == [5, 8, 9]
    assert found[2] == pytest.approx(pchip_interpolate([1, 2, 3], [5, 8, 9], 1.5)) and found[2] != 6.5
    assert np.isnan(at_cost(costs[:1], values[:1], np.array([3.0]))).all()
    assert list(at_cost(costs, values, np.array([1 - 1e-13, 3 + 1e-13]))) == [5, 9]  # no further than rounding
    twice = at_cost(np.array([1.0, 1.0, 2.0]), np.array([4.0, 6.0, 9.0]), np.array([1.0, 1.5]))
    assert list(twice) == [5, 7]


@pytest.mark.parametrize("seed", range(20))
def test_interpolation_keeps_order_and_adds_no_extremes(seed):
    rng = np.random.default_rng(seed)
    costs, values = np.sort(rng.random(5)), np.sort(rng.random((5, 3)), axis=0)
    found = at_cost(costs, values, np.linspace(costs[0], costs[-1], 200))
    assert (np.diff(found, axis=0) > -1e-12).all() and found.max() < values.max() + 1e-12


def by_walking(costs, values, wanted):
    """Down the curve in small steps, until it first falls short."""
    fine = np.linspace(costs.max(), costs.min(), 200_001)
    order = np.argsort(costs)
    kept = np.interp(fine, costs[order], values[order])
    short = np.flatnonzero(kept < wanted)
    return fine[short[0]] if len(short) else -np.inf


@pytest.mark.parametrize("seed", range(20))
def test_cost_at_a_worth_is_where_a_walk_down_the_curve_first_falls_short(seed):
    rng = np.random.default_rng(seed)
    costs, values = rng.random(5), rng.random(5)  # neither rises nor falls
    values[np.argmax(costs)] = 1.0
    for wanted in (0.2, 0.5, 0.9):
        found, right = cost_at(costs, values, wanted), by_walking(costs, values, wanted)
        # behind a dip the curve counts as low as the dip, so that the crossing may lie a little higher
        assert found == right if np.isinf(right) else found >= right - 1e-5
    rising = np.sort(values)[np.argsort(np.argsort(costs))]
    for wanted in (0.3, 0.6, 0.99):
        found, right = cost_at(costs, rising, wanted), by_walking(costs, rising, wanted)
        assert found == right if np.isinf(right) else found == pytest.approx(right, abs=1e-5)
    assert cost_at(costs, values, 1.1) == np.inf


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equal") / "a"
    synthetic_records.write_study(folder, methods=("none", "random", "cropr", "evit"), seeds=2, num_items=500)
    synthetic_records.write_run(folder, "tome", 0.3, 0, np.arange(500) < 300)  # one seed, one point
    records = load_records(folder)
    found = analyse(run_frame([records]))
    return found, measured(found.variants, speed_frame([records]))


def points(found, costs, curve):
    dense = found.variants.index[found.variants["is_dense"]][0]
    rows = [*found.variants.index[found.variants["curve"] == curve], dense]
    order = np.argsort(costs[rows])
    return costs[rows][order], found.means[rows][order], found.variants["metric"].to_numpy()[rows][order]


def test_differences_at_equal_cost_are_taken_inside_each_resample(study):
    found, costs = study
    frame = equal_frame(found, costs)
    bracketed = frame[(frame["method"] == "Cropr") & (frame["other_method"] == "Random") & (frame["note"] == "")]
    assert set(bracketed["axis"]) == {"macs_g", "latency_ms"}
    for row in bracketed.itertuples():
        cost = costs[row.axis]
        (x, y, seen), (u, v, theirs) = (points(found, cost, name) for name in ("Cropr", "Random"))
        gaps = [pchip_interpolate(x, y[:, b], row.cost) - pchip_interpolate(u, v[:, b], row.cost) for b in range(300)]
        low, high = np.quantile(gaps, [0.025, 0.975])
        observed = pchip_interpolate(x, seen, row.cost) - pchip_interpolate(u, theirs, row.cost)
        assert row.difference_points == pytest.approx(100 * observed)
        assert row.difference_low_points == pytest.approx(100 * low, abs=0.8)  # 300 resamples of 2,000
        assert row.difference_high_points == pytest.approx(100 * high, abs=0.8)
        assert row.difference_low_points < row.difference_points < row.difference_high_points
    at = bracketed[bracketed["axis"] == "macs_g"]["cost"]
    assert list(at) == pytest.approx([0.8 * 0.0503, 0.65 * 0.0503, 0.5 * 0.0503])  # each reaches a little less


def test_what_is_not_bracketed_or_not_paired_is_said(study):
    found, costs = study
    frame = equal_frame(found, costs)
    macs = frame[frame["axis"] == "macs_g"]
    lowest = macs[macs["cost"] < 0.4 * 0.0503]
    beyond = lowest[~lowest["other_method"].eq("ToMe")]
    assert len(lowest) == 6 and set(lowest["note"]) == {NOT_BRACKETED} and beyond["difference_points"].isna().all()
    other_seeds = macs[(macs["other_method"] == "ToMe") & (macs["cost"] > 0.4 * 0.0503)]
    assert len(other_seeds) == 9 and other_seeds["note"].str.contains("other seeds").all()
    assert other_seeds["p"].isna().all()
    family = macs[macs["cost"] == macs["cost"].max()].dropna(subset="p").sort_values("p")
    assert len(family) == 3 and family["p_holm"].iat[0] == pytest.approx(min(1, 3 * family["p"].iat[0]))


def test_cost_at_a_loss_against_each_resample(study):
    found, costs = study
    frame = cost_frame(found, costs, 1.0).set_index(["axis", "curve"])
    dense = found.variants.index[found.variants["is_dense"]][0]
    for name in ("Cropr", "Random", "EViT"):
        row = frame.loc["macs_g", name]
        x, y, seen = points(found, costs["macs_g"], name)
        kept = np.minimum.accumulate(y[::-1], axis=0)[::-1]
        resampled = [by_walking(x, kept[:, b], found.means[dense, b] - 0.01) for b in range(200)]
        right = by_walking(x, np.minimum.accumulate(seen[::-1])[::-1], found.variants["metric"][dense] - 0.01)
        assert row["cost"] == pytest.approx(right, abs=1e-6)
        low, high = np.quantile(resampled, [0.025, 0.975], method="inverted_cdf")
        assert row["cost_high"] == pytest.approx(high, abs=0.004)
        assert row["cost_low"] == pytest.approx(low, abs=0.004) or np.isinf([row["cost_low"], low]).all()
    assert np.isnan(frame.loc[("macs_g", "ToMe"), "cost_low"]) and frame.loc[("macs_g", "ToMe"), "cost"] > 0.3 * 0.0503
    assert (frame.loc["macs_g", "dense_cost"] == 0.0503).all()
    assert (cost_frame(found, costs, 60.0)["cost"] == -np.inf).all()


def test_what_costs_more_than_dense_is_no_point_of_a_curve(study):
    found, costs = study
    slow = costs["macs_g"].copy()
    row = found.variants.index[found.variants["variant"] == "cropr@0.8"][0]
    slow[row] = 1.1 * slow[found.variants["is_dense"]][0]
    points = found.variants.index[found.variants["variant"].isin(["none", "cropr@0.65", "cropr@0.5"])]
    metric, dense = found.variants["metric"].to_numpy(), found.variants.index[found.variants["is_dense"]][0]
    right = cost_at(slow[points], metric[points], metric[dense] - 0.0005)
    found_cost = cost_frame(found, {"macs_g": slow}, 0.05).set_index("curve").loc["Cropr", "cost"]
    assert found_cost == right and slow[points].min() < right < slow[dense]


def test_latency_is_that_of_the_timing_that_is_shown():
    variants = pd.DataFrame({"study": "a", "variant": ["none", "cropr@0.5", "tome@0.5"], "macs_g": [1.0, 0.5, 0.5]})
    columns = ["study", "variant", "shown", "ratio_only", "latency_ms_median"]
    rows = [("a", "none", False, False, 9), ("a", "none", True, False, 2), ("a", "tome@0.5", True, True, 3)]
    found = measured(variants, pd.DataFrame(rows, columns=columns))["latency_ms"]
    np.testing.assert_array_equal(found, [2, np.nan, np.nan])


def test_without_a_timing_there_is_no_latency(study):
    found, _ = study
    none = measured(found.variants, run_frame([]))
    assert np.isnan(none["latency_ms"]).all() and set(equal_frame(found, none)["axis"]) == {"macs_g"}
