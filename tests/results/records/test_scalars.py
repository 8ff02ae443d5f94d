"""runs.csv: one line of pandas, one row a run, and every scalar of the records in it."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import synthetic_records

from results.pages.report import build
from results.records.scalars import scalar_frame
from results.records.store import load_records, write_failure

RECORDS = Path(__file__).parents[3] / "docs" / "records"


def leaves(value: object) -> list[object]:
    """Numbers, texts and booleans that are in no list."""
    if isinstance(value, dict):
        return [leaf for own in value.values() for leaf in leaves(own)]
    return [] if isinstance(value, list) or value is None else [value]


@pytest.mark.parametrize("study", ["pareto", "segmentation", "detection"])
def test_every_scalar_of_the_record_and_the_recipe_is_there(study: str) -> None:
    frame = scalar_frame([load_records(RECORDS / study)]).set_index("id")
    folders = sorted((RECORDS / study / "runs").iterdir())
    assert list(frame.index) == [folder.name for folder in folders] and frame.columns.is_unique
    for folder in folders:
        record = json.loads((folder / "result.json").read_text())
        shares = {metric["name"] for metric in record["metrics_declared"] if metric.get("unit") == "%"}
        for own in record["metrics"].values():  # final, masked
            own |= {key: 100 * value for key, value in own.items() if key in shares}
        recipe = json.loads((folder / "config.json").read_text())["recipe"]
        del record["study"], record["id"]  # the folder, and the index
        wanted = leaves({**record, "recipe": recipe})
        row = frame.loc[folder.name].drop("study").dropna().tolist()
        for leaf in wanted:
            if isinstance(leaf, float) and math.isnan(leaf):
                continue
            assert leaf in row, leaf
            row.remove(leaf)
        assert row == []
        for name in ("macs_total_g", "train_seconds", "peak_memory_mib", "params_m", "recipe_lr", "provenance_commit"):
            assert name in frame


def test_pandas_reads_it_in_a_line(tmp_path: Path) -> None:
    study = tmp_path / "a"
    synthetic_records.write_study(study, ("none", "cropr"), (0.5,), seeds=2, num_items=50, speed=False)
    (study / "runs" / "cropr-0.5-s1" / "result.json").unlink()
    write_failure(study / "runs" / "cropr-0.5-s1", RuntimeError('a "quoted", first\nlast line'), {})
    (study / "runs" / "cropr-0.5-s2").mkdir()
    build([study])
    frame = pd.read_csv(study / "report" / "runs.csv")
    assert list(frame["id"]) == ["cropr-0.5-s0", "cropr-0.5-s1", "cropr-0.5-s2", "none-None-s0", "none-None-s1"]
    assert list(frame["status"]) == ["done", "failed", "pending", "done", "done"]
    assert frame["error"][1] == "RuntimeError: last line"
    record = json.loads((study / "runs" / "cropr-0.5-s0" / "result.json").read_text())
    first = frame.iloc[0]
    assert first["final_top1_percent"] == pytest.approx(100 * record["metrics"]["final"]["top1"])
    assert first["macs_total_g"] == pytest.approx(record["macs_g"]["total"]) and first["budget_asked"] == 0.5
    assert frame.groupby("reducer")["final_top1_percent"].mean().notna().all()
    assert "`runs.csv`: One row per run" in (study / "report" / "README.md").read_text()
