"""Each method minus random pruning at the same counts: what its choice is worth."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.report import build

ITEMS = 500
COUNTS = {"same": [65, 53, 41, 29, 17, 5], "other": [65, 52, 41, 29, 17, 5]}


def hits(share, seed=0):
    return np.random.default_rng(seed).random(ITEMS) < share


def study(folder, rows):
    """rows: reducer, budget, share of hits, counts, rest."""
    (folder / "runs").mkdir(parents=True)
    for number, (reducer, budget, share, counts, rest, extra) in enumerate(rows):
        synthetic_records.write_run(
            folder, reducer, budget, 0, hits(share, number), tokens_per_block=COUNTS[counts], rest=rest, **extra
        )
    return build([folder])


def test_the_difference_is_to_random_of_the_same_counts_and_rest(tmp_path):
    report = study(tmp_path / "a", [
        ("none", None, 0.9, "same", None, {}),
        ("random", 0.5, 0.6, "same", "drop", {}),
        ("random", 0.51, 0.7, "same", "llf", {}),
        ("cropr", 0.5, 0.85, "same", "drop", {}),
        ("evit", 0.5, 0.8, "same", "llf", {}),
        ("tome", 0.5, 0.8, "same", None, {}),
        ("dynamicvit", 0.5, 0.8, "other", "drop", {}),
    ])  # fmt: skip
    rows = report.summary.set_index("variant")
    found = rows["over_random_points"]
    right = 100 * (hits(0.85, 3).mean() - hits(0.6, 1).mean())
    assert found["cropr@0.5"] == pytest.approx(right, abs=1e-9)
    assert found["evit@0.5"] == pytest.approx(100 * (hits(0.8, 4).mean() - hits(0.7, 2).mean()), abs=1e-9)
    assert found["tome@0.5"] == found["tome@0.5"]  # all merge: the counts alone decide
    assert np.isnan(found[["dynamicvit@0.5", "none", "random@0.5"]]).all()
    low, high = rows.loc["cropr@0.5", ["over_random_low_points", "over_random_high_points"]]
    assert low < right < high and low > 0
    p, corrected = rows["over_random_p"], rows["over_random_p_holm"]
    assert corrected["cropr@0.5"] >= p["cropr@0.5"]
    assert max(corrected.dropna()) <= 1 and corrected.notna().sum() == 3
    smallest = p.dropna().sort_values().iloc[0]
    assert corrected.dropna().min() == pytest.approx(3 * smallest)  # Holm over a family of three of its own
    table = (tmp_path / "a" / "report" / "table.md").read_text()
    assert "to random at the same counts, points (p)" in table and f"{right:+.1f}" in table
    assert "--random-at-counts" in table  # DynamicViT has none
    assert "| cropr | what Cropr is (arXiv 1) |" in table


def test_off_the_shelf_is_compared_with_random_pruning_off_the_shelf(tmp_path):
    shelf = {"options": {"trained_at": "1"}, "lr": 0.005, "budget_asked": 0.5}
    report = study(tmp_path / "a", [
        ("none", None, 0.9, "same", None, {"lr": 0.005}),
        ("random", 0.51, 0.5, "same", "drop", shelf),  # first, and trained at the rate of Cropr and EViT
        ("random", 0.5, 0.7, "same", "drop", {"lr": 0.02}),
        ("cropr", 0.5, 0.8, "same", "drop", {"lr": 0.005}),
        ("cropr", 0.51, 0.6, "same", "drop", shelf),
        ("evit", 0.5, 0.6, "other", "drop", {"lr": 0.005}),
        ("evit", 0.51, 0.6, "other", "drop", shelf),
    ])  # fmt: skip
    found = report.summary.set_index(["reducer", "options"])["over_random_points"]
    shares = [hits(share, number).mean() for number, share in enumerate((0.9, 0.5, 0.7, 0.8, 0.6))]
    assert found["cropr", "{}"] == pytest.approx(100 * (shares[3] - shares[2]))
    assert found["cropr", '{"trained_at": "1"}'] == pytest.approx(100 * (shares[4] - shares[1]))
    health = json.loads((tmp_path / "a" / "report" / "health.json").read_text())
    below = [finding["variants"] for finding in health["findings"] if finding["check"] == "below random"]
    assert below == [["EViT, defaults at 0.5"]], "trained, it is held against what was trained"
    curves = pd.read_csv(tmp_path / "a" / "report" / "curves.csv").set_index("curve")
    gained = curves["over_random_hypervolume_points"]
    assert (gained.filter(like="Cropr") > 0).all() and sorted(gained.filter(like="EViT") > 0) == [False, True]


def test_what_reads_the_labels_is_on_no_front(tmp_path):
    about = {"label": "Oracle", "summary": "reads", "paper": "", "no_method": True}
    report = study(tmp_path / "a", [
        ("none", None, 0.9, "same", None, {}),
        ("oracle", 0.5, 0.99, "same", "drop", {"role": "control", "method": about}),
        ("cropr", 0.5, 0.8, "same", "drop", {}),
    ])  # fmt: skip
    rows = report.summary.set_index("variant")
    assert not rows.loc["oracle@0.5", "on_front"] and rows.loc["cropr@0.5", "on_front"]
    assert any("oracle reads the labels" in note for note in report.notes)


def test_records_from_before_there_were_roles_are_read(tmp_path):
    folder = tmp_path / "a"
    synthetic_records.write_study(folder, methods=("none", "cropr"), budgets=(0.5,), num_items=100)
    for path in [*folder.glob("runs/*/result.json"), *folder.glob("speed/*/result.json")]:
        record = json.loads(path.read_text())
        for entry in (record, *record.get("variants", ())):
            for key in ("role", "rest", "method", "metrics_declared"):
                entry.pop(key, None)
            if entry.get("reducer") == "none":
                entry |= {"schedule_kind": "dense", "mac_ratio": 1}
        path.write_text(json.dumps(record))
    rows = build([folder]).summary.set_index("variant")
    assert rows.loc["none", "role"] == "dense" and rows.loc["cropr@0.5", "role"] == "method"
    assert rows.loc["cropr@0.5", "difference_points"] < 0 and rows["top1_percent"].notna().all()
