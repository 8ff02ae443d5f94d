"""Two records of one study: what they agree on, against shares of hits that are known."""

import numpy as np
import pytest
import synthetic_records
from command_line import study
from scipy import stats

from results.pages.agreement import compare_studies
from results.records.store import load_records
from results.statistics.agreement import agreement, read

ITEMS = 3000
ROWS = (("none", None), ("random", 0.5), ("cropr", 0.5), ("evit", 0.5))


def write(folder, shares, seeds=3, machine="AMD EPYC", spread=0.004, stream=0):
    """Runs whose share of hits is that of their method, give or take `spread` from seed to seed."""
    (folder / "runs").mkdir(parents=True)
    rng = np.random.default_rng(stream)
    order = np.random.default_rng(7).permutation(ITEMS)  # the same items are the hard ones
    for (reducer, budget), share in zip(ROWS, shares, strict=True):
        for seed in range(seeds):
            hit = order < ITEMS * (share + spread * (seed - 1) + 0.0005 * rng.normal())
            record = synthetic_records.run_record("", reducer, budget, seed, 0.0, 1)
            provenance = record["provenance"] | {"device_name": machine}
            synthetic_records.write_run(folder, reducer, budget, seed, hit, provenance=provenance)
    return folder


def verdicts(a, b):
    found = agreement(*(read(load_records(folder)) for folder in (a, b)))
    differences = found.differences.set_index(["first", "second"])["verdict"]
    return found, found.accuracies.set_index("variant")["verdict"], differences


def test_two_machines_that_say_the_same(tmp_path):
    a = write(tmp_path / "a", (0.92, 0.80, 0.91, 0.90))
    b = write(tmp_path / "b", (0.921, 0.801, 0.911, 0.901), machine="Intel Xeon", stream=1)
    found, accuracies, differences = verdicts(a, b)
    assert set(accuracies) == {"within what seeds explain"} and found.same_items and found.only == ([], [])
    assert differences["random@0.5", "dense"] == "agree" and differences["cropr@0.5", "random, same counts"] == "agree"
    assert "contradict" not in set(differences)


def test_an_accuracy_that_seeds_do_not_explain_and_a_sign_that_turns(tmp_path):
    a = write(tmp_path / "a", (0.92, 0.80, 0.91, 0.85))
    b = write(tmp_path / "b", (0.92, 0.80, 0.85, 0.91), machine="Intel Xeon", stream=1)
    found, accuracies, differences = verdicts(a, b)
    assert accuracies["cropr@0.5"] == accuracies["evit@0.5"] == "apart by more than seeds explain"
    assert accuracies["none"] == "within what seeds explain"
    assert differences["Cropr", "EViT"] == "contradict" and differences["random@0.5", "dense"] == "agree"
    row = found.accuracies.set_index("variant").loc["cropr@0.5"]
    right = stats.ttest_ind(row["by_seed_a"], row["by_seed_b"], equal_var=False).pvalue
    assert row["p"] == pytest.approx(right) and row["p_holm"] >= row["p"]
    assert row["difference_points"] == pytest.approx(row["by_seed_b"].mean() - row["by_seed_a"].mean())


def test_significant_in_one_only_and_neither(tmp_path):
    a = write(tmp_path / "a", (0.92, 0.80, 0.9199, 0.90))
    b = write(tmp_path / "b", (0.92, 0.80, 0.9202, 0.9201), stream=1)
    _, _, differences = verdicts(a, b)
    assert differences["cropr@0.5", "dense"] == "neither decides"
    assert differences["evit@0.5", "dense"] == "only first decides"


def test_one_seed_says_nothing_about_seeds(tmp_path):
    a = write(tmp_path / "a", (0.92, 0.80, 0.91, 0.90), seeds=1)
    b = write(tmp_path / "b", (0.92, 0.80, 0.88, 0.90), seeds=1, stream=1)
    _, accuracies, _ = verdicts(a, b)
    assert accuracies["cropr@0.5"] == "unknown: one seed"


def test_page_and_command(tmp_path):
    a = write(tmp_path / "a", (0.92, 0.80, 0.91, 0.85))
    b = write(tmp_path / "b", (0.92, 0.80, 0.85, 0.91), machine="Intel Xeon", stream=1)
    synthetic_records.write_run(b, "tome", 0.5, 0, np.arange(ITEMS) < 2700)
    text = compare_studies(a, b).text
    assert "machine AMD EPYC" in text and "Intel Xeon" in text and "Only in the second: tome@0.5." in text
    assert "1 contradict each other" in text or "2 contradict each other" in text
    done = study("report", a, b, "--agree")
    assert done.returncode == 0 and "Cropr − EViT" in done.stdout and (a / "report" / "agreement.csv").exists()
    assert study("report", a, "--agree").returncode == 2
    (tmp_path / "c" / "runs").mkdir(parents=True)
    refused = study("report", a, tmp_path / "c", "--agree")
    assert refused.returncode == 2 and "no finished run" in refused.stderr


def test_studies_of_nothing_in_common_are_refused(tmp_path):
    a = write(tmp_path / "a", (0.92, 0.80, 0.91, 0.90))
    (tmp_path / "b" / "runs").mkdir(parents=True)
    synthetic_records.write_run(tmp_path / "b", "tome", 0.4, 0, np.arange(ITEMS) < 2700)
    with pytest.raises(ValueError, match="no variant"):
        verdicts(a, tmp_path / "b")
