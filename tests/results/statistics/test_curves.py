"""Curves, fronts, and what must not be mixed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.records.frames import run_frame, speed_frame
from results.records.store import load_records
from results.statistics.compare import add_differences_to_dense, add_intervals, largest_families, pairwise
from results.statistics.curves import mixed_notes, pareto_front, twin_notes, variant_frame
from results.statistics.metrics.replicates import replicate


def _hit(share: float, num_items: int = 500, seed: int = 0) -> np.ndarray:
    """Items hit, of exactly this share, the same easy ones for every share."""
    order = np.random.default_rng(seed).permutation(num_items)
    return np.isin(np.arange(num_items), order[: round(share * num_items)])


def _compared(*studies: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    runs = run_frame([load_records(study) for study in studies])
    variants = variant_frame(runs)
    (replicates,) = replicate([runs], max(largest_families(variants).values()))
    means = add_intervals(variants, replicates)
    add_differences_to_dense(variants, runs, replicates, means)
    return runs, variants, pairwise(variants, runs, replicates, means)


@pytest.mark.parametrize("maximise_x", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_pareto_front_against_brute_force(seed: int, maximise_x: bool) -> None:
    x, y = np.random.default_rng(seed).integers(0, 8, size=(2, 30)).astype(float)  # many ties
    x[3], y[4] = np.nan, np.nan
    cost = -x if maximise_x else x
    beaten = [
        any(cost[j] <= cost[i] and y[j] >= y[i] and (cost[j] < cost[i] or y[j] > y[i]) for j in range(30))
        for i in range(30)
    ]
    expected = ~np.array(beaten) & np.isfinite(x) & np.isfinite(y)
    np.testing.assert_array_equal(pareto_front(x, y, maximise_x), expected)
    assert not np.array_equal(pareto_front(x, y, not maximise_x), expected)


def test_pareto_front_of_nothing() -> None:
    assert pareto_front(np.array([]), np.array([]), False).shape == (0,)
    assert not pareto_front(np.array([np.nan]), np.array([1.0]), False).any()


def test_seeds_are_averaged_and_compared_on_the_seeds_in_common(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for seed, (dense, ours) in enumerate([(0.90, 0.88), (0.92, 0.89), (0.94, None)]):
        synthetic_records.write_run(tmp_path, "none", None, seed, _hit(dense))
        if ours is not None:
            synthetic_records.write_run(tmp_path, "cropr", 0.5, seed, _hit(ours))
    _, variants, _ = _compared(tmp_path)
    dense, ours = variants.iloc[0], variants.iloc[1]
    assert (dense["curve"], dense["seeds"], ours["seeds"]) == ("Dense", 3, 2)
    assert dense["metric"] == pytest.approx(0.92) and ours["metric"] == pytest.approx(0.885)
    assert ours["difference_points"] == pytest.approx(-2.5)  # not -3.5, the difference of the means
    assert ours["difference_low_points"] < -2.5 < ours["difference_high_points"]
    assert dense["metric_low"] < 0.92 < dense["metric_high"]


def test_items_in_another_order_are_still_paired(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "none", None, 0, _hit(0.9))
    run_dir = synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.9))
    with np.load(run_dir / "predictions.npz") as arrays:
        order = np.random.default_rng(0).permutation(500)
        np.savez(run_dir / "predictions.npz", **{name: arrays[name][order] for name in arrays.files})
    _, variants, _ = _compared(tmp_path)
    row = variants.iloc[1]
    assert row["difference_low_points"] == row["difference_high_points"] == 0 and row["p"] == 1  # identical predictions


def test_other_test_items_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "none", None, 0, _hit(0.9, 500))
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.8, 400))
    _, variants, _ = _compared(tmp_path)
    assert np.isfinite(variants["metric_low"]).all() and np.isnan(variants["difference_points"]).all()


def test_pairs_within_a_budget_only(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr", "tome", "evit"), budgets=(0.8, 0.5))
    _, variants, pairs = _compared(tmp_path / "a")
    assert largest_families(variants) == {"to dense": 6, "between methods": 3}
    assert list(pairs["budget_asked"]) == [0.5] * 3 + [0.8] * 3
    first = pairs.iloc[0]
    top1 = variants.set_index(["curve", "budget_asked"])["metric"]
    expected = 100 * (top1[first["method"], 0.5] - top1[first["other_method"], 0.5])
    assert first["difference_points"] == pytest.approx(expected)
    assert (pairs["p_holm"] >= pairs["p"]).all() and (pairs["p_holm"] > pairs["p"]).any()


def test_differences_to_dense_are_corrected_for_their_number(tmp_path: Path) -> None:
    """Step by step, by hand: the k-th smallest of m counts m - k + 1 times, and none less than one before it."""
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr", "tome", "evit"), budgets=(0.8, 0.5))
    _, variants, _ = _compared(tmp_path / "a")
    tested = variants.dropna(subset="p").sort_values("p")
    expected, largest = [], 0.0
    for rank, p in enumerate(tested["p"]):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        expected.append(largest)
    assert len(tested) == 6 and list(tested["p_holm"]) == pytest.approx(expected)
    assert (tested["p_holm"] > tested["p"]).any()


def test_methods_with_unlike_numbers_of_seeds_are_paired(tmp_path: Path) -> None:
    """The mean of three times 0.8 is not 0.8 in floating point."""
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr"), budgets=(0.8,), seeds=3)
    synthetic_records.write_run(tmp_path / "a", "tome", 0.8, 0, _hit(0.9, 2250))
    _, variants, pairs = _compared(tmp_path / "a")
    assert set(variants["budget_asked"].dropna()) == {0.8} and len(pairs) == 1


def test_records_made_differently_are_flagged_with_what_and_how_many(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "a", seeds=2, num_items=100)
    runs = tmp_path / "a" / "runs"
    assert mixed_notes(run_frame([load_records(tmp_path / "a")])) == []
    for run in ("evit-0.5-s0", "evit-0.5-s1"):
        text = (runs / run / "result.json").read_text()
        (runs / run / "result.json").write_text(text.replace('"torch": "2.14.1"', '"torch": "2.13.0"'))
    frame, variants, _ = _compared(tmp_path / "a")
    assert mixed_notes(frame) == ["a: 2 of 32 records were made with torch 2.13.0, the others with 2.14.1."]
    assert list(variants.loc[variants["mixed"] != "", "variant"]) == ["evit@0.5"]
    assert variants.loc[variants["variant"] == "evit@0.5", "mixed"].item() == "torch 2.13.0"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"quick": True}, ["Cropr", "Cropr, smoke run"]),
        ({"backbone": "scenes_eva"}, ["Cropr, scenes_eva", "Cropr, scenes_vit"]),
        ({"lr": 0.001}, ["Cropr, lr 0.0003", "Cropr, lr 0.001"]),
        ({"method_version": 2}, ["Cropr, method version 1", "Cropr, method version 2"]),
        ({"options": {"queries": 4}}, ["Cropr, defaults", "Cropr, queries=4"]),
    ],
)
def test_what_cannot_be_compared_is_never_in_one_curve(tmp_path: Path, change: dict, names: list[str]) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.9))
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 1, _hit(0.8), **change)
    _, variants, _ = _compared(tmp_path)
    assert sorted(variants["curve"]) == names
    assert sorted(variants["metric"].round(6)) == [0.8, 0.9] and set(variants["seeds"]) == {1}


def test_other_data_are_another_curve(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.9))
    run_dir = synthetic_records.write_run(tmp_path, "cropr", 0.5, 1, _hit(0.8))
    text = (run_dir / "result.json").read_text()
    (run_dir / "result.json").write_text(text.replace("f00dcafe0123", "0123456789ab"))
    _, variants, _ = _compared(tmp_path)
    assert sorted(variants["curve"]) == ["Cropr, data 01234567", "Cropr, data f00dcafe"]


def test_two_configurations_of_one_seed_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.9))
    (tmp_path / "runs" / "cropr-0.5-s0").rename(tmp_path / "runs" / "first")
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.8))
    runs = run_frame([load_records(tmp_path)])
    (note,) = twin_notes(runs)
    assert "cropr-0.5-s0, first" in note


def test_studies_are_kept_apart_and_dense_is_each_ones_own(tmp_path: Path) -> None:
    for study, dense in (("a", 0.9), ("b", 0.8)):
        (tmp_path / study / "runs").mkdir(parents=True)
        synthetic_records.write_run(tmp_path / study, "none", None, 0, _hit(dense))
        synthetic_records.write_run(tmp_path / study, "cropr", 0.5, 0, _hit(0.7))
    _, variants, _ = _compared(tmp_path / "a", tmp_path / "b")
    assert list(variants["curve"]) == ["Dense, a", "Cropr, a", "Dense, b", "Cropr, b"]
    np.testing.assert_allclose(variants["difference_points"], [np.nan, -20, np.nan, -10])


def test_different_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    nothing = {"metrics_declared": [], "metrics": {"final": {"delta": 0.9}}}
    synthetic_records.write_run(tmp_path / "a", "cropr", 0.5, 0, _hit(0.9), task="depth", **nothing)
    with pytest.raises(ValueError, match="no report for task 'depth': its records declare no metric"):
        run_frame([load_records(tmp_path / "a")])
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.9), task="depth")
    synthetic_records.write_run(tmp_path, "tome", 0.5, 0, _hit(0.9))
    with pytest.raises(ValueError, match="classification and depth"):
        run_frame([load_records(tmp_path)])


def test_the_newest_timing_is_joined_and_the_others_kept(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr"), budgets=(0.5,), num_items=50)
    speed = tmp_path / "a" / "speed"
    (speed / "older").mkdir()
    text = (speed / "cpu-b64" / "result.json").read_text()
    (speed / "older" / "result.json").write_text(text.replace("T04:00", "T03:00"))
    frame = speed_frame([load_records(tmp_path / "a")])
    assert list(frame["timing"]) == ["older", "older", "cpu-b64", "cpu-b64"]
    assert list(frame["shown"]) == [False, False, True, True]


def _timed_again(study: Path, timing: str, hour: int, variants: list[str], speed: float = 1, **changes) -> None:
    """Another timing of some of the variants, on a machine `speed` times as fast."""
    record = json.loads((study / "speed" / "cpu-b64" / "result.json").read_text())
    rows = [row for row in record["variants"] if row["variant"] in variants]
    for row in rows:
        row["images_per_s"] = {key: speed * value for key, value in row["images_per_s"].items()}
    content = record | {"variants": rows, "provenance": {"finished": f"2026-11-23T{hour:02}:00:00Z"}} | changes
    (study / "speed" / timing).mkdir()
    (study / "speed" / timing / "result.json").write_text(json.dumps(content))


def _shown(study: Path) -> dict[str, tuple[str, bool]]:
    frame = speed_frame([load_records(study)])
    return {row.variant: (row.timing, row.ratio_only) for row in frame[frame["shown"]].itertuples()}


def test_absolute_speeds_are_those_of_one_timing(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none", "cropr", "tome"), budgets=(0.5,), num_items=50)
    one = {"none": ("cpu-b64", False), "cropr@0.5": ("cpu-b64", False), "tome@0.5": ("cpu-b64", False)}
    _timed_again(study, "busy", 5, ["none", "tome@0.5"], 0.1)  # newer, and of fewer variants
    assert _shown(study) == one
    (study / "runs" / "cropr-0.5-s0").rename(tmp_path / "gone")  # both hold all that is there
    assert _shown(study) == {"none": ("busy", False), "tome@0.5": ("busy", False), "cropr@0.5": ("cpu-b64", True)}


def test_a_ratio_comes_from_the_same_setting_only(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none", "cropr"), budgets=(0.5,), num_items=50)
    _timed_again(study, "grown", 5, ["none"], dtype="bfloat16")
    for variant in ("tome", "evit"):
        synthetic_records.write_run(study, variant, 0.5, 0, _hit(0.9, 50))
        record = json.loads((study / "speed" / "grown" / "result.json").read_text())
        record["variants"] += [record["variants"][0] | {"variant": f"{variant}@0.5", "role": "method"}]
        (study / "speed" / "grown" / "result.json").write_text(json.dumps(record))
    assert _shown(study) == dict.fromkeys(("none", "tome@0.5", "evit@0.5"), ("grown", False))  # no cropr@0.5


@pytest.mark.parametrize("status", ["unreachable", "done"])
def test_a_row_that_was_not_trained_is_of_the_curve_of_its_method(tmp_path: Path, status: str) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "none", None, 0, _hit(0.95))
    synthetic_records.write_run(tmp_path, "evit", 0.5, 0, _hit(0.9), objective="CE, keep rate shrinking")
    synthetic_records.write_run(tmp_path, "evit", 0.1, 0, _hit(0.5), objective=None, status=status, floor=0.2)
    names = list(variant_frame(run_frame([load_records(tmp_path)]))["curve"])
    apart = ["EViT", "EViT, CE, keep rate shrinking"]
    assert names[0] == "Dense" and sorted(names[1:]) == (["EViT", "EViT"] if status == "unreachable" else apart)


def test_a_row_that_was_not_trained_renames_none_of_two_curves(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    synthetic_records.write_run(tmp_path, "evit", 0.5, 0, _hit(0.9))
    synthetic_records.write_run(tmp_path, "evit", 0.7, 0, _hit(0.9), objective="KL")
    synthetic_records.write_run(tmp_path, "evit", 0.1, 0, _hit(0.5), objective=None, status="unreachable", floor=0.2)
    names = variant_frame(run_frame([load_records(tmp_path)]))["curve"]
    assert sorted(names) == ["EViT", "EViT, CE", "EViT, KL"]


def test_a_metric_that_no_run_has_takes_no_more_memory_than_one_that_all_have(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "study", methods=("none", "random"), budgets=(0.5,), seeds=2)
    runs = run_frame([load_records(tmp_path / "study")])
    known, nothing = replicate([runs, runs.assign(metric=np.nan)], num_comparisons=1_000_000)
    assert nothing.accuracy.shape == known.accuracy.shape and np.isnan(nothing.accuracy).all()


def test_predictions_that_contradict_the_record_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    metrics = {"final": {"top1": 0.95}}
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 0, _hit(0.9), metrics=metrics)
    synthetic_records.write_run(tmp_path, "cropr", 0.5, 1, _hit(0.9))
    (tmp_path / "runs" / "cropr-0.5-s1" / "predictions.npz").unlink()
    (found,) = replicate([run_frame([load_records(tmp_path)])], 1)
    notes = found.notes
    assert "its record says 95.00%, its predictions 90.00%" in notes[1]
    assert "cropr-0.5-s1: no interval" in notes[0]
