"""Accuracy by the place of the object against loops over items and resamples."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.report import build
from results.records.store import read_predictions
from results.statistics.bootstrap import cluster_weights, interval, resample_seeds
from studies.tasks import TASKS

ITEMS, SEEDS, PLACES = 100, 2, ("near_centre", "between", "near_border")
LABELS = ["near centre", "between", "near border"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Objects near the border are missed more often by random pruning; ToMe's records are older."""
    directory = tmp_path_factory.mktemp("places") / "pareto"
    methods = ("none", "random", "cropr", "tome")
    synthetic_records.write_study(directory, methods, (0.5,), seeds=SEEDS, num_items=ITEMS, speed=False)
    rng = np.random.default_rng(3)
    place = rng.integers(3, size=ITEMS)
    place[:10] = 0  # two clusters without a border
    for folder in sorted((directory / "runs").iterdir()):
        if folder.name.startswith("tome"):
            continue
        arrays = read_predictions(folder)
        lost = (rng.random(ITEMS) < 0.4) & (place == 2) & folder.name.startswith("random")
        arrays["prediction"] = np.where(lost, -1, arrays["prediction"])
        np.savez(folder / "predictions.npz", **arrays, place=place)
        hit = arrays["prediction"] == arrays["target"]
        record = json.loads((folder / "result.json").read_text())
        final = record["metrics"]["final"] | {"top1": float(hit.mean())}
        final |= {f"top1_{name}": float(hit[place == number].mean()) for number, name in enumerate(PLACES)}
        record["metrics"]["final"] = final
        declared = [metric._asdict() for metric in TASKS["classification"].metrics if metric.name in final]
        (folder / "result.json").write_text(json.dumps(record | {"metrics_declared": declared}))
    build([directory])
    return directory


def resampled(study, name, place):
    """[S, B] share of the items of a place that were hit, item by item in every resample of the clusters."""
    weights = np.concatenate([own for _, own in cluster_weights(ITEMS // 5, 2000)])
    found = []
    for seed in range(SEEDS):
        arrays = read_predictions(study / "runs" / f"{name}-0.5-s{seed}")
        there = [i for i, where in enumerate(arrays["place"].tolist()) if where == place]
        hit = [arrays["prediction"][i] == arrays["target"][i] for i in there]
        found.append([np.average(hit, weights=[own[i // 5] for i in there]) for own in weights])
    return np.array(found)


@pytest.mark.parametrize("place", range(3))
def test_difference_to_random_is_that_of_loops(study, place):
    details = pd.read_csv(study / "report" / "details.csv")
    rows = details[details["metric"] == f"top1_{PLACES[place]}"].set_index("variant")
    row = rows.loc["cropr@0.5"]
    own = {}
    for name in ("random", "cropr"):
        finals = [json.loads((study / "runs" / f"{name}-0.5-s{seed}" / "result.json").read_text()) for seed in (0, 1)]
        own[name] = [100 * final["metrics"]["final"][f"top1_{PLACES[place]}"] for final in finals]
    assert row["percent"] == pytest.approx(np.mean(own["cropr"]))
    assert row["over_random_points"] == pytest.approx(np.mean(own["cropr"]) - np.mean(own["random"]))
    both = resampled(study, "cropr", place) - resampled(study, "random", place)
    assert (row["over_random_low_points"], row["over_random_high_points"]) == pytest.approx(
        interval(100 * resample_seeds(both)), abs=1e-6
    )
    assert np.isnan(rows.loc["tome@0.5", "percent"])


def test_the_report_has_tables_by_place(study):
    text = (study / "report" / "table.md").read_text()
    lines = text.split("## top-1 in detail, %")[1].split("##")[0].strip().splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|")
    cells = {row[0]: row for row in rows}
    assert header == ["method", "budget", "all", *LABELS] and {*cells} == {"Dense", "Random", "Cropr", "ToMe"}
    assert cells["ToMe"][3:] == ["–"] * 3 and all("±" in cell for cell in cells["Cropr"][2:])
    assert "## top-1: to random pruning at the same counts, points [95 % interval]" in text
