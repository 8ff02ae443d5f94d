"""Accuracy under corruptions against loops over items and resamples; the report with and without them."""

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.report import Page, build
from results.records.frames import run_frame
from results.records.store import load_records, read_predictions
from results.statistics.analysis import analyse
from results.statistics.bootstrap import cluster_weights, holm, interval, resample_seeds
from results.statistics.insight.robustness import add_robustness, robustness_frame

ITEMS, SEEDS, KINDS = 100, 2, ("noise", "blur", "occlusion")
LOSS = {"none": 0.1, "random": 0.4, "cropr": 0.2, "tome": 0.3}


def write_corrupted(study, methods, kinds=KINDS):
    rng = np.random.default_rng(0)
    for name in methods:
        for seed in range(SEEDS):
            folder = study / "runs" / f"{name}-{'None' if name == 'none' else 0.5}-s{seed}"
            arrays = read_predictions(folder)
            under = {}
            for number, kind in enumerate(kinds):
                lost = rng.random(ITEMS) < LOSS[name] + 0.1 * number
                under[f"under_{kind}"] = np.where(lost, -1, arrays["prediction"]).astype(np.int8)
                under[f"said_{kind}"] = np.array(f"some {kind}")
            target = arrays["target"].astype(np.int8)
            np.savez(folder / "corrupted.npz", item=arrays["item"], cluster=arrays["cluster"], target=target, **under)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("robust") / "pareto"
    synthetic_records.write_study(directory, tuple(LOSS), (0.5,), seeds=SEEDS, num_items=ITEMS, speed=False)
    write_corrupted(directory, ("none", "random", "cropr"))  # ToMe's were not scored
    return directory


@pytest.fixture(scope="module")
def frame(study):
    return robustness_frame(analyse(run_frame([load_records(study)])))


def hits(study, name, kinds):
    """[S, I] of a variant, the mean over corruptions of each item."""
    found = []
    for seed in range(SEEDS):
        folder = study / "runs" / f"{name}-{'None' if name == 'none' else 0.5}-s{seed}"
        with np.load(folder / "corrupted.npz") as arrays:
            target = arrays["target"].tolist()
            under = [arrays[f"under_{kind}"].tolist() for kind in kinds]
        found.append([np.mean([own[i] == target[i] for own in under]) for i in range(ITEMS)])
    return np.array(found)


def slowly(values):
    """In every resample of the clusters, item by item, then over seeds."""
    weights = np.concatenate([own for _, own in cluster_weights(ITEMS // 5, 2000)])
    means = [[np.average(own, weights=one[np.arange(ITEMS) // 5]) for one in weights] for own in values]
    return resample_seeds(np.array(means))


@pytest.mark.parametrize("kind", [*KINDS, "mean"])
def test_shares_and_paired_differences_are_those_of_loops(study, frame, kind):
    kinds = KINDS if kind == "mean" else (kind,)
    rows = frame[frame["corruption"] == kind].set_index("variant")
    assert set(rows.index) == {"none", "random@0.5", "cropr@0.5"}
    cropr, random, dense = (hits(study, name, kinds) for name in ("cropr", "random", "none"))
    row = rows.loc["cropr@0.5"]
    assert row["percent"] == pytest.approx(100 * cropr.mean())
    assert (row["low_percent"], row["high_percent"]) == pytest.approx(interval(100 * slowly(cropr)), abs=1e-3)
    for name, other in (("difference", dense), ("over_random", random)):
        assert row[f"{name}_points"] == pytest.approx(100 * (cropr - other).mean())
        ends = interval(100 * slowly(cropr - other))
        assert (row[f"{name}_low_points"], row[f"{name}_high_points"]) == pytest.approx(ends, abs=1e-3)
    unpaired = interval(100 * (slowly(cropr) - np.random.default_rng(0).permutation(slowly(dense))))
    assert abs(unpaired[0] - row["difference_low_points"]) > 0.1
    assert np.isnan(rows.loc["none", "difference_points"]) and 0 < row["p_holm"] <= 1


def test_mean_is_over_what_all_runs_have(study, tmp_path_factory):
    directory = tmp_path_factory.mktemp("uneven") / "pareto"
    synthetic_records.write_study(directory, ("none", "random"), (0.5,), seeds=SEEDS, num_items=ITEMS, speed=False)
    write_corrupted(directory, ("none",), ("noise", "blur"))
    write_corrupted(directory, ("random",), ("blur", "contrast"))
    found = analyse(run_frame([load_records(directory)]))
    own = robustness_frame(found)
    assert own.groupby("corruption")["variant"].apply(list).to_dict() == {
        "noise": ["none"], "contrast": ["random@0.5"], "blur": ["none", "random@0.5"],
    }  # fmt: skip
    add_robustness(found.variants, own)
    assert "corrupted_percent" not in found.variants and "under_blur_percent" in found.variants
    assert np.isnan(found.variants.set_index("variant").loc["random@0.5", "under_noise_percent"])


def test_report_has_columns_a_section_and_a_file(study, frame):
    build([study], page=Page())
    summary = pd.read_csv(study / "report" / "summary.csv").set_index("variant")
    row = frame[frame["corruption"] == "mean"].set_index("variant").loc["cropr@0.5"]
    assert summary.loc["cropr@0.5", "corrupted_percent"] == pytest.approx(row["percent"])
    assert summary.loc["cropr@0.5", "corrupted_over_random_low_points"] == pytest.approx(row["over_random_low_points"])
    assert summary.loc["cropr@0.5", "under_blur_percent"] == pytest.approx(100 * hits(study, "cropr", ["blur"]).mean())
    assert np.isnan(summary.loc["tome@0.5", "corrupted_percent"])
    text = (study / "report" / "table.md").read_text()
    lines = text.split("## Under corruptions: top-1, %")[1].splitlines()
    cells = next(line for line in lines if line.startswith("| Cropr")).split("|")
    half = (row["high_percent"] - row["low_percent"]) / 2
    assert cells[6].strip() == f"{row['percent']:.1f} ± {half:.1f}" and "noise: some noise; blur: some blur" in text
    assert cells[8].strip().startswith(f"{row['over_random_points']:+.1f} [") and "the mean of noise, blur" in text
    main = {line.split("|")[1].strip(): line for line in text.split("\n\n- ")[0].splitlines() if line.startswith("| ")}
    assert "not scored" in main["ToMe"] and f"{row['percent']:.1f} ± {half:.1f} (" in main["Cropr"]
    page = (study / "report" / "index.html").read_text()
    assert "Under corruptions: top-1, %" in page and "under corruptions, % (to dense, points)" in page
    shown = pd.read_csv(study / "report" / "robustness.csv")
    assert shown["percent"].tolist() == pytest.approx(frame["percent"].tolist())


def test_records_without_give_what_they_gave(study, tmp_path):
    found = analyse(run_frame([load_records(study)]))
    before = list(found.variants)
    add_robustness(found.variants, pd.DataFrame())
    assert list(found.variants) == before
    directory = tmp_path / "pareto"
    synthetic_records.write_study(directory, ("none", "random"), (0.5,), num_items=ITEMS, speed=False)
    build([directory])
    assert not (directory / "report" / "robustness.csv").exists()
    assert (
        "corrupt"
        not in (directory / "report" / "table.md").read_text() + (directory / "report" / "summary.csv").read_text()
    )


def test_a_broken_file_leaves_the_others_and_holm_is_over_variants(study, frame):
    rows = frame[frame["corruption"] == "blur"]
    assert rows["over_random_p_holm"].notna().sum() == 1
    path = study / "runs" / "cropr-0.5-s1" / "corrupted.npz"
    whole = path.read_bytes()
    try:
        for broken in (whole[:80], b""):
            path.write_bytes(broken)
            found = robustness_frame(analyse(run_frame([load_records(study)])))
            assert set(found["variant"]) == {"none", "random@0.5"}
    finally:
        path.write_bytes(whole)
    assert holm([0.01, np.nan])[0] == 0.01
