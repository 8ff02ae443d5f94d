"""The checks of the health box: each fires on the one fault that is put into a study without any, and nothing else."""

import io
import json
import re
import shutil

import numpy as np
import pytest
import synthetic_records
from matplotlib.colors import same_color
from rich.console import Console

from results.figures import panels, plots
from results.pages.report import build
from results.statistics.bootstrap import smallest_p_over_seeds
from results.statistics.health import CHECKS

ITEMS = 1000
HALF = "Cropr at 0.5"


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def results(study, pattern="*"):
    return sorted(study.glob(f"runs/{pattern}/result.json"))


def set_fields(study, pattern="cropr-0.5-*", **fields):
    for path in results(study, pattern):
        edit(path, lambda record: record.update(fields))


def set_metric(study, which, points, pattern="cropr-0.5-*"):
    """`metrics.<which>` becomes that of the final epoch plus `points`."""
    for path in results(study, pattern):
        edit(path, lambda record: record["metrics"].update({which: {"top1": final(record) + points / 100}}))


def set_epochs(study, points, pattern="*"):
    """The metric on validation items before fine-tuning and behind each epoch, in points from the final one."""
    for path in results(study, pattern):
        edit(path, lambda record: record.update(validation=[
            {"epoch": epoch, "top1": final(record) + more / 100} for epoch, more in enumerate(points)
        ]))  # fmt: skip


def final(record):
    return record["metrics"]["final"]["top1"]


def set_hits(study, share, pattern="cropr-0.5-*"):
    """New predictions, of which `share` are right."""
    hit = np.random.default_rng(1).permutation(ITEMS) < share * ITEMS
    for path in results(study, pattern):
        edit(path, lambda record: record["metrics"]["final"].update(top1=float(hit.mean())))
        target = np.arange(ITEMS) % 10
        arrays = {"item": np.arange(ITEMS), "cluster": np.arange(ITEMS) // 5, "target": target}
        np.savez(path.parent / "predictions.npz", prediction=np.where(hit, target, -1), **arrays)
        set_epochs(study, [-0.5, 0.5, 0.0], path.parent.name)
        set_metric(study, "masked", 0.5, path.parent.name)


def set_speed(study, change):
    edit(study / "speed" / "cpu-b64" / "result.json", lambda record: [change(row) for row in record["variants"]])


def remove(study, pattern):
    for path in results(study, pattern):
        path.unlink()


def widen(row, key="ratio", factor=2.0):
    row[key] |= {"p5": row[key]["median"] / factor, "p95": row[key]["median"] * factor}


@pytest.fixture
def study(tmp_path):
    """Two seeds of three methods; every field is there and just below what its check would report."""
    folder = tmp_path / "pareto"
    methods = ("none", "random", "cropr")
    synthetic_records.write_study(folder, methods=methods, budgets=(0.8, 0.5), seeds=2, num_items=ITEMS)
    set_fields(folder, "*", tied_at_cut=[0.0, 0.01], train_loss=[0.5, 0.7, 0.5])
    set_fields(folder, "cropr-*", masked={"asked": [0.7, 0.49], "kept": [0.66, 0.537]})
    set_epochs(folder, [0.0, -0.9, 0.9, 0.0])
    set_metric(folder, "masked", -0.9, "cropr-*")
    set_speed(folder, lambda row: row.update(latency_ms={key: 5 * value for key, value in row["latency_ms"].items()}))
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """They take longer than all the rest of a report."""
    monkeypatch.setattr("results.pages.report._figures", lambda *_: {})


FAULTS = {
    "curve rises": (
        lambda study: set_hits(study, 0.97), [HALF, "Cropr at 0.8"],
        r"with fewer MACs it is better: \+\d\.\d points \[",
    ),
    "below random": (lambda study: set_hits(study, 0.7), [HALF], r"pruning at the same counts: −\d+\.\d points \[−"),
    "ties at the cut": (
        lambda study: set_fields(study, "cropr-0.5-s1", tied_at_cut=[0.0, 0.031]), [HALF],
        r"3\.1% of images .* reducer 2",
    ),
    "mask keeps another share": (
        lambda study: set_fields(study, "cropr-0.5-s1", masked={"asked": [0.7, 0.49], "kept": [0.7, 0.6]}), [HALF],
        r"mask 2 was asked to keep 49\.0% of patches and keeps 60\.0%",
    ),
    "mask scores differently": (
        lambda study: set_metric(study, "masked", -1.5), [HALF], r"\d+\.\d % under the mask .*, \d+\.\d % in the end",
    ),
    "loss above its start": (
        lambda study: set_fields(study, "cropr-0.5-s0", train_loss=[0.5, 0.4, 0.6]), [HALF],
        r"0\.5 → 0\.6 \(1 of 2 runs\)",
    ),
    "best epoch above final": (
        lambda study: set_epochs(study, [0, 1.5, 0], "cropr-0.5-*"), [HALF], r"% in the best epoch, \d+",
    ),
    "backbone pulled away": (
        lambda study: set_epochs(study, [0, -1.1, 0], "none-*"), ["Dense"], r"% before fine-tuning, \d+\.\d% in",
    ),
    "seeds differ": (
        lambda study: set_hits(study, 0.8, "cropr-0.5-s1"), [HALF], r"\d\d\.\d, 80\.0 % by seed, .* \(p < 0\.001\)",
    ),
    "too few seeds": (lambda study: remove(study, "cropr-0.5-s1"), [HALF], "with 1 seed no p over seeds is below 1; "),
    "speeds not ranked": (
        lambda study: set_speed(study, widen), ["Dense", "Cropr at 0.8", "Random at 0.8", HALF, "Random at 0.5"],
        r"[0-4] of 10 pairs have intervals of × dense",
    ),
    "latency is overhead": (
        lambda study: set_speed(study, lambda row: row["latency_ms"].update(median=9.9)),
        ["Dense", "Cropr at 0.8", HALF, "Random at 0.8", "Random at 0.5"], "takes 9.9 ms for one image on a CPU",
    ),
}  # fmt: skip


def test_losses_of_a_milder_model_are_not_compared(study):
    """A keep rate that shrinks over the first third begins with the loss of a model that drops nothing."""
    rising = [0.4, 0.7, 0.6, 0.5, 0.5, 0.45]
    set_fields(study, "cropr-0.5-*", train_loss=rising, settles=0.0)
    assert "loss above its start" in names(build([study]))
    set_fields(study, "cropr-0.5-*", settles=0.33)
    assert "loss above its start" not in names(build([study]))
    set_fields(study, "cropr-0.5-*", train_loss=[0.4, 0.7, 0.5, 0.6, 0.6, 0.65])
    assert "loss above its start" in names(build([study]))


def test_a_model_that_two_variants_have_is_ranked_once(study):
    alias = {"variant": "cropr:trained_at=1@0.5", "options": {"trained_at": "1"}, "label": "Cropr (trained_at=1)"}
    for path in results(study, "cropr-0.5-*"):
        copy = path.parent.with_name(path.parent.name.replace("cropr", "shelf"))
        shutil.copytree(path.parent, copy)
        edit(copy / "result.json", lambda record, name=copy.name: record.update(alias | {"id": name}))
    timed = study / "speed" / "cpu-b64" / "result.json"
    edit(timed, lambda record: record["variants"].append(
        next(row for row in record["variants"] if row["variant"] == "cropr@0.5") | alias | {"timed_as": "cropr@0.5"}
    ))  # fmt: skip
    set_speed(study, widen)
    (finding,) = (one for one in build([study]).health.findings if one.check == "speeds not ranked")
    assert "of 10 pairs" in finding.seen and HALF in finding.variants and len(finding.variants) == 5


def names(report):
    return {finding.check for finding in report.health.findings}


def test_a_study_without_faults_has_an_empty_box(study):
    report = build([study])
    assert not report.health.findings and not report.health.unchecked
    assert (report.summary[["findings", "speed_findings"]] == "").all(axis=None)
    text = (study / "report" / "table.md").read_text()
    assert "> **Health. Nothing found in 12 of 12 checks.**" in text and "Hollow" not in text
    assert not hollow(report, "pareto_accuracy_throughput")


def test_every_check_has_a_fault():
    assert list(FAULTS) == [check.name for check in CHECKS]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_is_found_by_its_check_alone(study, check):
    fault, variants, seen = FAULTS[check]
    fault(study)
    (finding,) = build([study]).health.findings
    assert finding.check == check and sorted(finding.variants) == sorted(variants)
    assert re.search(seen, finding.seen) and finding.advice.endswith(".")
    assert finding.marks == (check != "latency is overhead")


@pytest.mark.usefixtures("no_figures")
def test_random_at_the_same_budget_where_none_has_the_counts(study):
    set_fields(study, "random-*", tokens_per_block=[65, 5])
    assert not build([study]).health.findings
    set_hits(study, 0.7)
    (finding,) = build([study]).health.findings
    assert finding.check == "below random" and "random pruning at the same budget: −" in finding.seen


@pytest.mark.usefixtures("no_figures")
def test_a_loss_that_is_no_number(study):
    set_fields(study, "cropr-0.5-s0", train_loss=[0.5, float("nan")])
    assert "0.5 → nan" in build([study]).health.findings[0].seen


@pytest.mark.usefixtures("no_figures")
def test_losses_of_older_records_are_those_of_their_log(study):
    set_fields(study, "*", train_loss=None)
    assert build([study]).health.unchecked == ("loss above its start (no loss of two epochs)",)
    for path in results(study):
        last = 0.9 if path.parent.name == "cropr-0.8-s0" else 0.1
        common = {"epochs": 2, "train_seconds": 1.0}
        lines = [json.dumps({"epoch": e, "train_loss": loss, **common}) for e, loss in ((1, 0.8), (2, last))]
        (path.parent / "log.jsonl").write_text("\n".join(lines) + "\n")
    (finding,) = (health := build([study]).health).findings
    assert finding.variants == ("Cropr at 0.8",) and "0.8 → 0.9" in finding.seen and not health.unchecked


@pytest.mark.usefixtures("no_figures")
def test_one_seed_of_all_is_said_and_marks_no_point(study):
    remove(study, "*-s1")
    report = build([study])
    (finding,) = report.health.findings
    assert (
        finding.check == "too few seeds" and len(finding.variants) == 5 and not hollow(report, "pareto_accuracy_gmacs")
    )
    assert " 5 variants of pareto: with 1 seed" in (study / "report" / "table.md").read_text()
    assert [smallest_p_over_seeds(seeds, 1999) for seeds in (1, 2, 6)] == [1, 0.001, 0.001]


@pytest.mark.usefixtures("no_figures")
def test_throughputs_rank_where_there_is_no_ratio(study):
    set_speed(study, lambda row: row.update(ratio=None))
    assert not build([study]).health.findings
    set_speed(study, lambda row: widen(row, "images_per_s"))
    assert "intervals of images/s" in build([study]).health.findings[0].seen


@pytest.mark.usefixtures("no_figures")
def test_latency_of_a_gpu_is_not_judged(study):
    FAULTS["latency is overhead"][0](study)
    edit(study / "speed" / "cpu-b64" / "result.json", lambda record: record.update(device="cuda"))
    health = build([study]).health
    assert not health.findings and health.unchecked[0].startswith("latency is overhead")


@pytest.mark.usefixtures("no_figures")
def test_what_records_lack_is_said(study):
    for name in ("tied_at_cut", "masked"):
        set_fields(study, "*", **{name: None})
    set_fields(study, "none-*", masked={"asked": [], "kept": []})
    set_fields(study, "cropr-0.5-*", tied_at_cut=[0.0])
    health = build([study]).health
    assert not health.findings and health.num_looked == 11
    assert health.unchecked == (
        "ties at the cut (in 3 of 4 places no tied_at_cut)", "mask keeps another share (no masked)",
    )  # fmt: skip


def hollow(report, name):
    """x and y of the hollow markers of a figure."""
    panel = next(panel for panel in panels.PANELS if panel.name == name)
    (axes,) = plots.draw(panel, report.summary, "title").axes
    lines = [line for line in axes.lines if same_color(line.get_markerfacecolor(), "white") and len(line.get_xdata())]
    assert all(not same_color(line.get_markeredgecolor(), "white") for line in lines)
    return [point for line in lines for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_findings_stand_above_the_table_in_the_terminal_in_json_and_in_the_figures(study):
    set_epochs(study, [0, 1.5, 0], "cropr-0.5-*")
    report = build([study])
    row = report.summary.set_index("variant").loc["cropr@0.5"]
    assert row["findings"] == "best epoch above final" and row["speed_findings"] == ""
    ((_, y),) = hollow(report, "pareto_accuracy_gmacs")
    assert y == row["top1_percent"]
    assert hollow(report, "pareto_accuracy_throughput") == [(row["images_per_s_median"], y)]
    assert not hollow(report, "throughput_gmacs")  # the training has nothing to do with it
    text = (study / "report" / "table.md").read_text()
    box = text[: text.index("| method |")]
    assert "1 finding from 1 of 12 checks. Points that one sets apart are hollow." in box
    assert f">   - {HALF}: " in box and "> - **best epoch above final** Train with" in box
    assert text.count("Hollow, on a curve of this study") == 2
    (console := Console(width=120, file=io.StringIO())).print(report.terminal)
    shown = console.file.getvalue()
    assert f"{HALF}: " in shown and shown.index("best epoch above final") < shown.index("bold: on the Pareto front")
    (found,) = json.loads((study / "report" / "health.json").read_text())["findings"]
    assert found["variants"] == [HALF] and found["check"] == "best epoch above final" and found["seen"] in box


@pytest.mark.usefixtures("no_figures")
def test_a_doubted_speed_is_hollow_where_speed_is_shown(study):
    set_speed(study, widen)
    report = build([study])
    assert len(hollow(report, "throughput_gmacs")) == len(hollow(report, "pareto_accuracy_throughput")) == 5
    assert not hollow(report, "pareto_accuracy_gmacs")
