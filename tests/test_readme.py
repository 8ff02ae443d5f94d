"""What the README says of the committed records is in them: its tables are computed here again."""

from pathlib import Path

import pandas as pd
import pytest

from results.pages import health_box, tables
from results.records.frames import declared_metrics, run_frame, speed_frame
from results.records.store import load_records
from results.statistics.analysis import analyse
from results.statistics.findings import Evidence, add_findings, assess
from results.statistics.health import CHECKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
METHODS = ("Cropr", "DynamicViT", "EViT", "ToMe", "Random")


def lines(study: str) -> list[str]:
    """The rows of its tables in the README, below their heads, and what casts doubt on them."""
    records = load_records(ROOT / "docs" / "records" / study)
    speeds, said, boxes = speed_frame([records]), [], []
    metrics = [metric for metric in declared_metrics([records]) if metric.get("statistic") and not metric.get("of")]
    for metric in metrics:
        runs = run_frame([records], metric["name"])
        found = analyse(runs)
        health = assess(Evidence(runs, found.variants, speeds, found.replicates, found.means), CHECKS)
        add_findings(found.variants, health)
        boxes.append(health_box.markdown(health).splitlines())
        said += rows_of(tables.summary_frame(found.variants, speeds), found.pairs, with_speed=metric is metrics[0])
    return [*said, *boxes[0]]


def rows_of(summary: pd.DataFrame, pairs: pd.DataFrame, with_speed: bool) -> list[str]:
    """Of one metric."""
    metric = summary["metric_name"].iat[0]
    said = []
    for budget in sorted(summary["budget_asked"].dropna().unique(), reverse=True):
        rows = {row.label.split(" (")[0]: row for row in summary[summary["budget_asked"] == budget].itertuples()}
        found = [rows[name] for name in METHODS if name in rows]
        said += [
            row(f"at {budget:g}: {summary['metric_label'].iat[0]}, %", [tables._accuracy(r, metric) for r in found]),
            row("minus dense, points (p, Holm)", [tables._difference(r) for r in found]),
            row("minus random, points [95 %]", [minus_random(pairs, r, rows["Random"]) for r in found]),
        ]
        if with_speed:
            said.append(row("throughput, × dense", [tables._spread(r, "ratio_to_dense") for r in found]))
    return said


def row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def minus_random(pairs: pd.DataFrame, one, chance) -> str:
    """Of a method and random pruning at the same budget."""
    for pair in pairs[pairs["budget_asked"] == one.budget_asked].itertuples():
        sign = {(one.curve, chance.curve): 1, (chance.curve, one.curve): -1}.get((pair.method, pair.other_method))
        if sign is not None:
            ends = sorted(sign * end for end in (pair.difference_low_points, pair.difference_high_points))
            middle, low, high = map(tables.signed, (sign * pair.difference_points, *ends))
            return f"{middle} [{low}, {high}]"
    return tables.NOTHING


STUDIES = [path.parent.name for path in sorted((ROOT / "docs" / "records").glob("*/study.json"))]


@pytest.mark.parametrize("study", [name for name in STUDIES if name != "field"])  # it is in docs/methods.md
def test_tables_and_health_are_those_of_the_records(study):
    missing = [line for line in lines(study) if line not in README]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("study", STUDIES)
def test_the_machine_and_the_commit_are_named(study):
    records = load_records(ROOT / "docs" / "records" / study)
    for record in [*records.runs.values(), *records.speeds.values()]:
        origin = record["provenance"]
        assert origin["commit"][:7] in README and not origin["dirty"], record["id"]
        assert origin["device_name"] in README, origin["device_name"]
    assert not records.failures and not records.unfinished and not records.broken


def test_records_are_small_and_hold_no_weights():
    files = [path for path in (ROOT / "docs" / "records").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix not in (".json", ".npz", ".md")]
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
