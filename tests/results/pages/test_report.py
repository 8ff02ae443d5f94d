"""The report of a directory: tables, figures, and what stands below them."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic_records
from matplotlib.image import imread
from rich.console import Console

from results.figures.labels import spread
from results.pages.report import Report, build
from results.pages.tables import number
from results.records.store import write_failure

FIGURES = ("pareto_accuracy_gmacs", "pareto_accuracy_throughput", "throughput_gmacs")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "pareto"
    synthetic_records.write_study(directory, num_items=500)
    return directory


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return build([study])


def _edit(study: Path, run: str, **changes: object) -> None:
    path = study / "runs" / run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _text(report: Report) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(report.terminal)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_files_of_a_report(study: Path, report: Report) -> None:
    names = {"summary.csv", "runs.csv", "speed.csv", "pairwise.csv", "health.json", "table.md", "table.tex"}
    names |= {"curves.csv", "equal_cost.csv", "cost_at_loss.csv", "README.md"}
    names |= {f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "svg", "pdf")}
    assert {path.name for path in (study / "report").iterdir()} == {path.name for path in report.paths} == names


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_fit_a_paper_column(study: Path, report: Report, figure: str) -> None:
    assert imread(study / "report" / f"{figure}.png").shape[:2] == (750, 975)  # 2.5 × 3.25 in at 300 dpi
    svg = (study / "report" / f"{figure}.svg").read_text()
    assert "<svg" in svg and "<dc:date>" not in svg


def test_figures_fit_two_columns_with_fonts_of_the_same_size(study: Path, tmp_path: Path) -> None:
    fonts = {}
    for size, width in (("one-column", 3.25), ("two-column", 6.75)):
        shutil.copytree(study, tmp_path / size, ignore=shutil.ignore_patterns("report"))
        build([tmp_path / size], figures=size)
        for figure in FIGURES:
            assert imread(tmp_path / size / "report" / f"{figure}.png").shape[1] == 300 * width
            svg = (tmp_path / size / "report" / f"{figure}.svg").read_text()
            assert (
                f'width="{72 * width:g}pt"' in svg
                and b"/MediaBox" in (tmp_path / size / "report" / f"{figure}.pdf").read_bytes()
            )
            fonts[figure, size] = set(re.findall(r"scale\((0\.0\d+) -", svg))  # of glyphs, by size of the font
    for figure in FIGURES:
        assert fonts[figure, "one-column"] == fonts[figure, "two-column"] != set()
        assert min(map(float, fonts[figure, "two-column"])) >= 0.055  # 5.5 pt


def test_the_same_records_give_the_same_bytes(study: Path, report: Report) -> None:
    before = {path: path.read_bytes() for path in report.paths}
    assert {path: path.read_bytes() for path in build([study]).paths} == before


def test_summary_csv(study: Path, report: Report) -> None:
    with open(study / "report" / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and rows[0]["variant"] == "none"
    row = next(row for row in rows if row["variant"] == "cropr@0.5")
    record = json.loads((study / "runs" / "cropr-0.5-s0" / "result.json").read_text())
    assert float(row["top1_percent"]) == pytest.approx(100 * record["metrics"]["final"]["top1"])
    assert float(row["top1_best_percent"]) == pytest.approx(100 * record["validation"][1]["top1"])
    assert float(row["top1_low_percent"]) < float(row["top1_percent"]) < float(row["top1_high_percent"])
    assert float(row["macs_g"]) == record["macs_g"]["total"] and float(row["train_s"]) == 48.1
    assert float(row["images_per_s_median"]) == pytest.approx(2500 * 0.955 / 0.5)
    assert float(row["ratio_to_dense_median"]) == pytest.approx(0.955 / 0.5)
    assert float(row["macs_percent_of_dense"]) == pytest.approx(49.7)
    assert {"latency_ms_median", "peak_memory_mib", "train_peak_memory_mib", "p_holm", "mixed"} <= set(row)


def test_markdown_table(study: Path, report: Report) -> None:
    text = (study / "report" / "table.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| Cropr | 0.50"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "0.50 → 0.497" and cells[2] == "25.0 (0.25)"
    assert "±" in cells[3] and cells[9].startswith("4,775 [4,680,") and cells[10].startswith("1.91 [")
    assert cells[12].endswith("/ 512") and cells[13:] == ["48.1", "CE", "0.0003", "–"]
    for said in (
        "on the items it is chosen by",
        "500 test items in 100 clusters",
        "2 threads",
        "SDPA backend math",
        "0a1b2c3",
        "Holm",
    ):
        assert said in text, said
    assert "FLOP" not in text and "## Between methods at the same budget" in text and "## Figures" in text


def test_latex_table_is_escaped(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr"), budgets=(0.5,), num_items=50)
    _edit(tmp_path / "a", "cropr-0.5-s0", label="Cropr_2 & 50%")
    build([tmp_path / "a"])
    text = (tmp_path / "a" / "report" / "table.tex").read_text()
    assert r"Cropr\_2 \& 50\%" in text and r"$\pm$" in text and r"\toprule" in text
    rows = text[text.index(r"\midrule") : text.index(r"\bottomrule")].strip().splitlines()[1:]
    assert {row.replace(r"\&", "").count("&") for row in rows} == {16} and text.isascii() is False
    assert not set("±→×−†–") & set(text)  # all written in LaTeX


def test_terminal_table(report: Report) -> None:
    text = _text(report)
    assert "0.50 → 0.497" in text and "DynamicViT" in text and "smoke" not in text.lower()


def test_smoke_runs_are_marked(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr"), budgets=(0.5,), num_items=50, quick=True)
    assert "SMOKE RUN, not a result" in _text(build([tmp_path / "a"]))
    assert "# SMOKE RUN" in (tmp_path / "a" / "report" / "table.md").read_text()


def _add_timing(
    study: Path, timing: str, hour: int, speed: float, variants: tuple[str, ...], **changes: object
) -> None:
    """Another timing of some variants, on a machine `speed` times as fast."""
    record = json.loads((study / "speed" / "cpu-b64" / "result.json").read_text())
    rows = [row for row in record["variants"] if row["variant"] in variants]
    for row in rows:
        row["images_per_s"] = {key: speed * value for key, value in row["images_per_s"].items()}
    record |= {"variants": rows, "provenance": {"finished": f"2026-11-23T{hour:02}:00:00Z"}} | changes
    (study / "speed" / timing).mkdir()
    (study / "speed" / timing / "result.json").write_text(json.dumps(record))


def test_speeds_of_two_timings_are_not_joined(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none", "cropr", "tome", "evit"), budgets=(0.5,), num_items=50)
    path = study / "speed" / "cpu-b64" / "result.json"
    _add_timing(study, "busy", 5, 0.1, ("none", "evit@0.5"))
    record = json.loads(path.read_text())
    record["variants"] = [row for row in record["variants"] if row["variant"] != "evit@0.5"]
    path.write_text(json.dumps(record))
    summary = build([study]).summary.set_index("variant")
    assert summary.loc["none", "images_per_s_median"] == 2500
    absolute = ["images_per_s_median", "images_per_s_p5", "images_per_s_p95", "latency_ms_median"]
    assert summary.loc["evit@0.5", absolute].isna().all() and summary.loc["tome@0.5", absolute].notna().all()
    assert summary.loc["evit@0.5", "ratio_to_dense_median"] == pytest.approx(0.945 / 0.5)
    table = (study / "report" / "table.md").read_text()
    assert "speed busy: shown only as ratio to its own dense model" in table and "lacks: evit@0.5;" in table


def test_a_variant_without_any_timing_is_named(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none", "cropr"), budgets=(0.5,), num_items=50)
    assert not [note for note in build([study]).notes if "no speed" in note]
    synthetic_records.write_run(study, "mine#abcd1234", 0.5, 0, np.ones(50, dtype=bool))
    (note,) = (note for note in build([study]).notes if "no speed" in note)
    assert "mine#abcd1234@0.5" in note and "given again" in note and "cropr" not in note


@pytest.mark.parametrize(("speed", "flagged"), [(0.6, True), (0.7, False), (1.3, False), (1.4, True)])
def test_another_dense_speed_in_the_same_setting_is_flagged(tmp_path: Path, speed: float, flagged: bool) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none", "cropr"), budgets=(0.5,), num_items=50)
    _add_timing(study, "again", 5, speed, ("none", "cropr@0.5"))
    _add_timing(study, "other", 6, 9.0, ("none", "cropr@0.5"), num_threads=64)  # another setting
    notes = [note for note in build([study]).notes if "in the same setting" in note]
    assert len(notes) == flagged
    assert not flagged or (f"again: {2500 * speed:,.0f} images/s" in notes[0] and "cpu-b64" in notes[0])
    assert not flagged or "2,500" in notes[0]


@pytest.mark.parametrize(("load", "noisy"), [(0.3, True), (0.2, False), (None, False)])
def test_a_timing_beside_other_work_is_flagged(tmp_path: Path, load: float | None, noisy: bool) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, methods=("none",), budgets=(0.5,), num_items=50)
    assert not any("noisy" in note for note in build([study]).notes)  # a record that does not say
    path = study / "speed" / "cpu-b64" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"load_of_others": load}))
    notes = [note for note in build([study]).notes if "noisy" in note]
    assert len(notes) == noisy and (not noisy or "0.3 cores" in notes[0])


def test_a_study_in_all_states(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, num_items=100)
    unreachable = {"status": "unreachable", "floor": 0.312, "metrics": None, "macs_g": None, "budget_reached": None}
    _edit(study, "dynamicvit-0.5-s0", **unreachable)
    (study / "runs" / "evit-0.5-s0" / "result.json").write_text('{"schema": 1, "stat')
    for run in ("tome-0.5-s0", "tome-0.65-s0"):
        (study / "runs" / run / "result.json").unlink()
    write_failure(study / "runs" / "tome-0.5-s0", RuntimeError("cuda\nout of memory"), {})
    report = build([study])
    assert "0.50: unreachable, floor 0.31" in (study / "report" / "table.md").read_text()
    notes = "\n".join(report.notes)
    assert "tome-0.5-s0 failed: RuntimeError: out of memory" in notes
    assert "0 running, 1 pending" in notes
    assert "broken record, left out: " in notes and "evit-0.5-s0/result.json" in notes
    assert len(report.summary) == 13  # 16 less one broken, one failed, one pending


def test_without_timing_there_are_no_throughput_figures(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "a", methods=("none", "cropr"), num_items=50, speed=False)
    names = {path.name for path in build([tmp_path / "a"]).paths}
    assert "pareto_accuracy_gmacs.png" in names and "throughput_gmacs.png" not in names


def test_a_timing_alone_is_a_report(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "study.json").write_text(
        json.dumps({"schema": 1, "task": "classification", "dataset": "x", "backbone": "y"})
    )
    synthetic_records.write_speed(tmp_path, [("none", None), ("cropr", 0.5)])
    report = build([tmp_path])
    assert list(report.summary["status"]) == ["timed", "timed"]
    assert {path.name for path in report.paths if path.suffix == ".png"} == {"throughput_gmacs.png"}


def test_nothing_finished_is_said_with_the_failures(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    write_failure(tmp_path / "runs" / "a", ValueError("no such file"), {})
    with pytest.raises(ValueError, match="(?s)no run is finished.*a failed: ValueError: no such file"):
        build([tmp_path])


def test_several_studies_in_one_report(tmp_path: Path) -> None:
    for name in ("first", "second"):
        synthetic_records.write_study(tmp_path / name, methods=("none", "cropr"), budgets=(0.5,), num_items=50)
    report = build([tmp_path / "first", tmp_path / "second"])
    assert list(report.summary["curve"]) == ["Dense, first", "Cropr, first", "Dense, second", "Cropr, second"]
    assert report.paths[0].parent == tmp_path / "first" / "report" and not (tmp_path / "second" / "report").exists()


def test_published_overlay(tmp_path: Path) -> None:
    synthetic_records.write_study(tmp_path / "scenes", methods=("none", "cropr"), num_items=50)
    figures = {path.stem for path in build([tmp_path / "scenes"], published=True).paths if path.suffix == ".svg"}
    assert figures == {*FIGURES, "published_accuracy_macs_share", "published_accuracy_speedup"}
    text = (tmp_path / "scenes" / "report" / "table.md").read_text()
    assert "each relative to the dense model of its own source" in text and "secondary" in text
    synthetic_records.write_study(
        tmp_path / "imagenet", num_items=50, dataset="imagenet", backbone="deit_small_patch16_224", dense_macs_g=4.6
    )
    assert "published_accuracy_gmacs.svg" in {
        path.name for path in build([tmp_path / "imagenet"], published=True).paths
    }


def test_more_curves_than_can_be_told_apart(tmp_path: Path) -> None:
    methods = ("none", *(f"method{i}" for i in range(20)))
    synthetic_records.write_study(tmp_path / "a", methods=methods, budgets=(0.5,), num_items=50)
    build([tmp_path / "a"])
    assert "without names: the curves that have no point on the front" in (tmp_path / "a/report/table.md").read_text()


@pytest.mark.parametrize("seed", range(20))
def test_labels_keep_their_distance_their_order_and_the_axes(seed: int) -> None:
    wanted = np.random.default_rng(seed).random(8) ** 3  # crowded at the bottom
    placed = spread(wanted, 0.05)
    assert (
        (np.diff(np.sort(placed)) > 0.05 - 1e-9).all() and placed.min() >= 0.025 - 1e-9 and placed.max() <= 0.975 + 1e-9
    )
    assert (np.argsort(placed) == np.argsort(wanted)).all()


def test_labels_that_have_room_stay_where_they_are() -> None:
    np.testing.assert_allclose(spread(np.array([0.5, 0.1, 0.8]), 0.05), [0.5, 0.1, 0.8])
    np.testing.assert_allclose(spread(np.array([0.5, 0.5]), 0.1), [0.45, 0.55])
    assert np.ptp(spread(np.zeros(100), 0.05)) <= 1  # more than fit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.02513, "0.0251"),
        (4.6, "4.60"),
        (61.58, "61.6"),
        (999.0, "999"),
        (12345.0, "12,345"),
        (0.0, "0"),
        (np.nan, "–"),
    ],
)
def test_numbers_without_exponents(value: float, text: str) -> None:
    assert number(value) == text
