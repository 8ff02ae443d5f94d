"""Calibration: ECE against loops over items and bins, its interval and difference to dense; older records."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.report import build
from results.records.frames import run_frame
from results.records.store import load_records, read_predictions
from results.statistics.analysis import analyse
from results.statistics.bootstrap import Population, cluster_weights, interval, resample_seeds
from results.statistics.insight.calibration import add_calibration, reliability_frame
from results.statistics.metrics.calibration import calibration_error
from results.statistics.metrics.statistic import STATISTICS, read_values

RUNS = ("none-None", "random-0.5", "cropr-0.5")


def confident(study, runs=RUNS, seeds=2):
    """Gives runs of a study confidences as new records have them; `cropr` is too sure of itself."""
    rng = np.random.default_rng(1)
    for run in (f"{name}-s{seed}" for name in runs for seed in range(seeds)):
        folder = study / "runs" / run
        arrays = read_predictions(folder)
        hit = arrays["prediction"] == arrays["target"]
        sure = 1 - 0.9 * rng.random(len(hit)) ** (8 if run.startswith("cropr") else 1.5)
        confidence = np.where(hit, sure, 1 - rng.random(len(hit)) / 2).astype(np.float16)
        np.savez(folder / "predictions.npz", **arrays, confidence=confidence)
        record = json.loads((folder / "result.json").read_text())
        record["metrics"]["final"]["ece"] = slowly(hit, confidence, [1] * len(hit))
        declared = {"name": "ece", "label": "ECE", "unit": "%", "higher_is_better": False, "statistic": "ece"}
        record["metrics_declared"].append(declared | {"of": "top1"})
        (folder / "result.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("calibration") / "pareto"
    methods = ("none", "random", "cropr", "tome")
    synthetic_records.write_study(directory, methods, (0.5,), seeds=2, num_items=200, speed=False)
    confident(directory)  # all but ToMe
    build([directory])
    return directory


def slowly(hit, confidence, counts, edges=None, each="items", below=None):
    """From the definition, item by item, each as often as `counts` says."""
    edges = edges or [m / 15 for m in range(16)]
    total, parts = sum(counts), []
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [i for i, c in enumerate(map(float, confidence)) if low < c <= high or (c == low == 0)]
        items = sum(counts[i] for i in inside)
        if items:
            accuracy = sum(counts[i] * bool(hit[i]) for i in inside) / items
            sure = sum(counts[i] * float(confidence[i]) for i in inside) / items
            gap = abs(accuracy - sure) if below is None else accuracy - sure
            parts.append((gap, items / total if each == "items" else 1 / 15))
    return sum(gap * weight for gap, weight in parts)


def test_ece_is_that_of_loops_and_plausible_mistakes_are_not():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([[0.0, 1.0, 1.0], rng.random(397)]).astype(np.float16)
    chance = np.where(confidence < 0.5, confidence.astype(float) + 0.4, confidence.astype(float) - 0.2)
    hit = rng.random(400) < chance  # too unsure below, too sure above
    right = calibration_error(hit, confidence)
    assert right == pytest.approx(slowly(hit, confidence, [1] * 400), abs=1e-12) and 0.05 < right < 0.5
    assert calibration_error(hit, confidence.astype(np.float32)) == pytest.approx(right, abs=1e-12)
    ranked = [0, *np.sort(confidence.astype(float))[26:390:26], 1]
    mistakes = {
        "bins of equal mass": slowly(hit, confidence, [1] * 400, edges=ranked),
        "ten bins": slowly(hit, confidence, [1] * 400, edges=[m / 10 for m in range(11)]),
        "bins of equal weight": slowly(hit, confidence, [1] * 400, each="bins"),
        "signed": slowly(hit, confidence, [1] * 400, below="signed"),
        "without bins": abs(hit.mean() - confidence.astype(float).mean()),
    }
    assert all(abs(wrong - right) > 1e-4 for wrong in mistakes.values()), mistakes
    assert calibration_error(np.array([True, True]), np.array([1, 1], np.float16)) == 0


def test_resamples_are_those_of_accuracy(study):
    statistic, hits = STATISTICS["ece"], STATISTICS["mean"]
    folder = study / "runs" / "cropr-0.5-s0"
    _, cluster, values = read_values(str(folder), statistic)
    arrays = read_predictions(folder)
    hit = arrays["prediction"] == arrays["target"]
    population = Population.of(cluster)
    observed, resampled = statistic.resample(population, [statistic.gather(population, values)], 4)
    assert observed[0] == pytest.approx(slowly(hit, arrays["confidence"], [1] * len(hit)), abs=1e-12)
    _, accuracy = hits.resample(population, [hits.gather(population, hit)], 4)
    ((_, weights),) = cluster_weights(len(population.sizes), 4)
    for own, ece, top1 in zip(weights, resampled[0], accuracy[0], strict=True):
        counts = own[population.cluster].tolist()
        assert ece == pytest.approx(slowly(hit, arrays["confidence"], counts), abs=1e-12)
        assert top1 == pytest.approx(sum(np.multiply(counts, hit)) / sum(counts))


def test_summary_has_interval_and_difference_to_dense(study):
    rows = pd.read_csv(study / "report" / "summary.csv").set_index("variant")
    own = {}
    for run in RUNS:
        records = [json.loads((study / "runs" / f"{run}-s{seed}" / "result.json").read_text()) for seed in (0, 1)]
        own[run] = 100 * np.mean([record["metrics"]["final"]["ece"] for record in records])
    for variant, run in (("none", "none-None"), ("random@0.5", "random-0.5"), ("cropr@0.5", "cropr-0.5")):
        assert rows.loc[variant, "ece_percent"] == pytest.approx(own[run])
    cropr, dense = rows.loc["cropr@0.5"], rows.loc["none"]
    assert cropr["ece_difference_points"] == pytest.approx(own["cropr-0.5"] - own["none-None"])
    assert cropr["ece_difference_low_points"] < cropr["ece_difference_points"] < cropr["ece_difference_high_points"]
    assert np.isnan(dense["ece_difference_points"]) and 0 <= cropr["ece_p_holm"] <= 1
    statistic, resampled = STATISTICS["ece"], []
    for seed in (0, 1):
        _, cluster, values = read_values(str(study / "runs" / f"cropr-0.5-s{seed}"), statistic)
        population = Population.of(cluster)
        resampled.append(statistic.resample(population, [statistic.gather(population, values)], 2000)[1][0])
    low, high = interval(100 * resample_seeds(np.stack(resampled)))
    assert (cropr["ece_low_percent"], cropr["ece_high_percent"]) == (pytest.approx(low), pytest.approx(high))


def test_older_records_say_that_it_was_not_recorded(study):
    text = (study / "report" / "table.md").read_text()
    table = [line for line in text.split("\n\n- ")[0].splitlines() if line.startswith("| ")]
    cells = {line.split("|")[1].strip(): line for line in table}
    assert "ECE, % (to dense, points)" in cells["method"] and "15 bins" in text
    assert "not recorded" in cells["ToMe"] and "not recorded" not in cells["Cropr"] + cells["Dense"]
    assert np.isnan(pd.read_csv(study / "report" / "summary.csv").set_index("variant").loc["tome@0.5", "ece_percent"])


def test_reliability_sums_to_the_items(study):
    rows = pd.read_csv(study / "report" / "reliability.csv")
    assert set(rows["variant"]) == {"none", "random@0.5", "cropr@0.5"}
    for _, own in rows.groupby("variant"):
        assert own["items"].sum() == 2 * 200 and own["bin"].is_unique
        inside = own["confidence_percent"] * 15 / 100
        assert ((inside > own["bin"]) & (inside <= own["bin"] + 1)).all()
    top1 = pd.read_csv(study / "report" / "summary.csv").set_index("variant").loc["cropr@0.5", "top1_percent"]
    own = rows[rows["variant"] == "cropr@0.5"]
    assert np.average(own["accuracy_percent"], weights=own["items"]) == pytest.approx(top1)
    assert (study / "report" / "reliability.png").stat().st_size > 10_000


def test_records_without_confidences_give_what_they_gave(study):
    records = load_records(study)
    runs = run_frame([records])
    old, found = analyse(runs).variants, analyse(runs, {"ece": run_frame([records], "ece")})
    add_calibration(found)
    new = found.variants
    assert {*new} - {*old} == {column for column in new if column.startswith("ece")}
    pd.testing.assert_frame_equal(new[[*old]].drop(columns="members"), old.drop(columns="members"))
    plain = analyse(runs)
    add_calibration(plain)
    assert [*plain.variants] == [*old] and not len(reliability_frame(plain))
    assert found.beside["ece"][1].notes == ()  # of records that have none nothing is said
