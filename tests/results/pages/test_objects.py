"""The report of a task with several metrics: each has its tables, files and figures; AP by size; coverage."""

import json
from collections import defaultdict
from itertools import product

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.report import build
from results.records.store import read_predictions
from results.statistics.bootstrap import Population, cluster_weights, resample_seeds
from results.statistics.metrics.statistic import PLACES, STATISTICS

SIZES = ("small", "medium", "large")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "detection"
    synthetic_records.write_detection(directory, seeds=2)
    return directory


@pytest.fixture(scope="module")
def report(study):
    return build([study])


def record(study, run):
    return json.loads((study / "runs" / run / "result.json").read_text())


def table(study, heading):
    """Header and rows of the table below a heading of table.md."""
    text = (study / "report" / "table.md").read_text().split(f"## {heading}")[1]
    lines = text.split("\n\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def resampled(study, run, name):
    arrays = read_predictions(study / "runs" / run)
    population = Population.of(arrays["cluster"])
    statistic = STATISTICS[name]
    return statistic.resample(population, [statistic.values(arrays)], statistic.resamples)[1][0]


def test_every_metric_has_its_files(study, report):
    names = {path.name for path in report.paths}
    figures = {f"{name}.{kind}" for name in ("pareto_accuracy_gmacs", "pareto_mask_ap_gmacs", "coverage")
               for kind in ("png", "svg", "pdf")}  # fmt: skip
    files = {f"{name}{which}.csv" for name in ("summary", "pairwise") for which in ("", "_mask_ap")}
    files |= {"table.md", "table.tex", "health.json", "speed.csv", "details.csv", "coverage.csv", "README.md"}
    files |= {"curves.csv", "equal_cost.csv", "cost_at_loss.csv", "runs.csv"}
    assert names == figures | files
    text = (study / "report" / "table.md").read_text()
    assert "scored by pycocotools 2.0.11" in text and "small below 69.5 pixels" in text and "Accuracy:" not in text
    assert r"mask AP, \%" in (study / "report" / "table.tex").read_text()
    pictures = [(study / "report" / f"pareto_{name}_gmacs.svg").read_text() for name in ("accuracy", "mask_ap")]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(("metric", "file"), [("box_ap", "summary"), ("mask_ap", "summary_mask_ap")])
def test_figures_and_differences_are_of_the_metric(study, report, metric, file):
    rows = pd.read_csv(study / "report" / f"{file}.csv").set_index("variant")
    seeds = {run: np.mean([100 * record(study, f"{run}-s{seed}")["metrics"]["final"][metric] for seed in (0, 1)])
             for run in ("none", "random", "cropr")}  # fmt: skip
    for variant, run in (("none", "none"), ("random@0.65", "random"), ("cropr@0.65", "cropr")):
        assert rows.loc[variant, f"{metric}_percent"] == pytest.approx(seeds[run])
    cropr = rows.loc["cropr@0.65"]
    assert cropr["difference_points"] == pytest.approx(seeds["cropr"] - seeds["none"])
    assert cropr["over_random_points"] == pytest.approx(seeds["cropr"] - seeds["random"])
    assert cropr["difference_low_points"] < cropr["difference_points"] < cropr["difference_high_points"]
    # Holm by hand: two differences to dense, the smaller p twice
    p = rows["p"].dropna().sort_values()
    assert len(p) == 2 and rows["p_holm"].min() == pytest.approx(min(1, 2 * p.iloc[0]))


def test_mean_and_spread_over_seeds(study, report):
    (row,) = (row for row in table(study, "mask AP in detail, %") if row["method"] == "Cropr")
    final = [record(study, f"cropr-s{seed}")["metrics"]["final"] for seed in (0, 1)]
    keys = {"all": "ap", "AP50": "ap50", "AP75": "ap75", "AR": "ar_100"} | {
        f"AP {size}": f"ap_{size}" for size in SIZES
    }
    assert set(row) == {"method", "budget", *keys}
    for label, key in keys.items():
        first, second = (100 * own[f"mask_{key}"] for own in final)
        spread = abs(first - second) / 2**0.5
        assert row[label] == f"{(first + second) / 2:.1f} ± {spread:.1f}", label


def test_difference_to_random_by_size(study, report):
    details = pd.read_csv(study / "report" / "details.csv")
    found = details[details["over_random_points"].notna()].set_index(["metric", "variant"])
    found = found[~found.index.get_level_values("metric").str.startswith("box_recall")]
    assert len(found) == 6 and {variant for _, variant in found.index} == {"cropr@0.65"}
    for kind, size in product(("box", "mask"), SIZES):
        row = found.loc[(f"{kind}_ap_{size}", "cropr@0.65")]
        gaps = []
        for seed in (0, 1):
            own, other = (record(study, f"{run}-s{seed}")["metrics"]["final"] for run in ("cropr", "random"))
            gaps.append(100 * (own[f"{kind}_ap_{size}"] - other[f"{kind}_ap_{size}"]))
        assert row["over_random_points"] == pytest.approx(np.mean(gaps))
        assert row["over_random_low_points"] < row["over_random_points"] < row["over_random_high_points"]
    name = "mask_ap_small"
    by_seed = [resampled(study, f"cropr-s{n}", name) - resampled(study, f"random-s{n}", name) for n in (0, 1)]
    low, high = np.quantile(100 * resample_seeds(np.array(by_seed)), [0.025, 0.975])
    row = found.loc[(name, "cropr@0.65")]
    assert row[["over_random_low_points", "over_random_high_points"]].tolist() == pytest.approx([low, high])
    (shown,) = table(study, "mask AP: to random pruning at the same counts, points")
    assert set(shown) == {"method", "budget", *(f"AP {size}" for size in SIZES)}


@pytest.mark.parametrize("place", range(3))
def test_found_by_place_against_loops(study, report, place):
    name = f"box_recall_{PLACES[place]}"
    details = pd.read_csv(study / "report" / "details.csv").set_index(["metric", "variant"])
    counts = {run: read_predictions(study / "runs" / run)["found_by_place"][:, place].tolist()
              for run in ("cropr-s0", "cropr-s1", "random-s0", "random-s1")}  # fmt: skip

    def share(run, times=None):
        found = there = 0
        for image, (hits, objects) in enumerate(counts[run]):
            found += hits * (times[image // 2] if times is not None else 1)
            there += objects * (times[image // 2] if times is not None else 1)
        return 100 * found / there

    row = details.loc[(name, "cropr@0.65")]
    assert row["percent"] == pytest.approx((share("cropr-s0") + share("cropr-s1")) / 2)
    resamples = [own for _, own in cluster_weights(8, 2000)]
    by_seed = [[share(f"cropr-s{seed}", own) - share(f"random-s{seed}", own) for own in np.concatenate(resamples)]
               for seed in (0, 1)]  # fmt: skip
    low, high = np.quantile(resample_seeds(np.array(by_seed)), [0.025, 0.975])
    assert row[["over_random_low_points", "over_random_high_points"]].tolist() == pytest.approx([low, high])
    (shown,) = (row for row in table(study, "box AP in detail, %") if row["method"] == "Cropr")
    assert shown[f"found {PLACES[place].replace('_', ' ')}"].startswith(f"{row['percent']:.1f} ±")


def slow_ap(matches, counts, area):
    """From the definition, with each image as often as `counts` says; NaN without ground truth."""
    by_class = []
    for label in range(matches.truths.shape[2]):
        truths = sum(count * matches.truths[area, image, label] for image, count in enumerate(counts))
        if not truths:
            continue
        for threshold in range(10):
            hits = []
            for n in np.argsort(-matches.score, kind="stable"):
                if matches.category[n] == label and not matches.ignored[area, threshold, n]:
                    hits += [bool(matches.matched[area, threshold, n])] * counts[matches.image[n]]
            right = np.cumsum(hits)
            points = [(right[n] / truths, right[n] / (n + 1)) for n in range(len(hits))]
            recalls = np.linspace(0, 1, 101)
            by_class.append(np.mean([max([p for r, p in points if r >= wanted], default=0) for wanted in recalls]))
    return np.mean(by_class) if by_class else np.nan


@pytest.mark.parametrize("area", range(4))
@pytest.mark.parametrize("kind", ["box", "mask"])
def test_statistics_by_size_against_loops(study, kind, area):
    arrays = read_predictions(study / "runs" / "cropr-s0")
    statistic = STATISTICS[f"{kind}_ap" + (f"_{synthetic_records.AREAS[area]}" if area else "")]
    matches = statistic.values(arrays)
    population = Population.of(arrays["cluster"])
    observed, values = statistic.resample(population, [matches], 3)
    assert observed[0] == pytest.approx(slow_ap(matches, [1] * len(arrays["item"]), area), abs=1e-9)
    ((_, weights),) = cluster_weights(len(population.sizes), 3)
    for own, value in zip(weights, values[0], strict=True):
        assert value == pytest.approx(slow_ap(matches, own[population.cluster], area), abs=1e-9)


def test_coverage_sums_over_seeds(study, report):
    total = defaultdict(int)
    for seed in (0, 1):
        own = record(study, f"random-s{seed}")["coverage"]
        for place, size in enumerate(SIZES):
            total["objects", size] += own["objects"][place]
            total["covered", size] += own["covered"][-1][place]
            total["with", "all"] += own["missed_with_token"][place]
            total["without", "all"] += own["missed_without_token"][place]
    (row,) = (
        row for row in table(study, "Objects with a live token behind the last reduction") if "Random" in row.values()
    )
    for size in SIZES:
        assert row[f"{size}, %"] == f"{100 * total['covered', size] / total['objects', size]:.1f}"
    covered = sum(total["covered", size] for size in SIZES)
    rest = sum(total["objects", size] for size in SIZES) - covered
    assert row["last reduction: block"] == "3"
    assert row["missed of those with one"].startswith(f"{total['with', 'all']} of {covered} (")
    assert row["missed of those without a token"].startswith(f"{total['without', 'all']} of {rest} (")
    frame = pd.read_csv(study / "report" / "coverage.csv")
    assert set(frame["block"]) == {1, 3} and set(frame["variant"]) == {"random@0.65", "cropr@0.65"}
