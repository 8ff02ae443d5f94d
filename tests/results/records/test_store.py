"""The state of runs and all records of a directory, from files alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic_records

from results.records.store import (
    Claim,
    CorruptRecord,
    load_records,
    read_predictions,
    run_status,
    write_failure,
    write_json,
)


def test_states_of_a_run(tmp_path: Path) -> None:
    record = synthetic_records.run_record("a", "cropr", 0.5, 0, 0.9, 10)
    assert run_status(tmp_path).state == "pending"
    with Claim(tmp_path):
        assert run_status(tmp_path).state == "running"
    try:
        raise ValueError("first line\nlast line")
    except ValueError as error:
        write_failure(tmp_path, error, {"reducer": "cropr"})
    assert run_status(tmp_path).state == "failed" and run_status(tmp_path).detail == "ValueError: last line"
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["config"] == {"reducer": "cropr"} and "raise ValueError" in failure["traceback"]
    with Claim(tmp_path):  # tried again
        assert run_status(tmp_path).state == "running"
        write_json(tmp_path / "result.json", record)
        assert run_status(tmp_path).state == "done"
    write_json(tmp_path / "result.json", record | {"status": "unreachable", "floor": 0.3})
    assert run_status(tmp_path).state == "unreachable"
    (tmp_path / "result.json").write_text('{"schema": 1, "sta')
    assert run_status(tmp_path).state == "failed" and "result.json" in run_status(tmp_path).detail


def test_a_run_folder_that_is_not_there_is_pending(tmp_path: Path) -> None:
    assert run_status(tmp_path / "nowhere").state == "pending"


def test_load_records_sorts_everything_into_its_place(tmp_path: Path) -> None:
    synthetic_records.write_study(
        tmp_path / "study", methods=("none", "cropr"), budgets=(0.8, 0.65, 0.5, 0.4), num_items=50
    )
    runs = tmp_path / "study" / "runs"
    (runs / "cropr-0.8-s0" / "result.json").write_text('{"schema": 1')
    (runs / "cropr-0.65-s0" / "result.json").unlink()
    (runs / "cropr-0.5-s0" / "result.json").unlink()
    write_failure(runs / "cropr-0.5-s0", RuntimeError("NaN loss"), {})
    (runs / "foreign").mkdir()
    (runs / "foreign" / "result.json").write_text("[1, 2]")
    (runs / "later").mkdir()
    write_json(runs / "later" / "result.json", {"schema": 2})
    (runs / "empty").mkdir()
    write_json(runs / "empty" / "result.json", {"schema": 1, "status": "done"})
    records = load_records(tmp_path / "study")
    assert list(records.runs) == ["cropr-0.4-s0", "none-None-s0"]
    assert records.failures == {"cropr-0.5-s0": "RuntimeError: NaN loss"}
    assert {name: status.state for name, status in records.unfinished.items()} == {"cropr-0.65-s0": "pending"}
    assert [error.path.parent.name for error in records.broken] == ["cropr-0.8-s0", "empty", "foreign", "later"]
    assert len(records.speeds) == 1 and records.study["study"] == "pareto"


def test_a_directory_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no study"):
        load_records(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_half_written_predictions_are_named(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "predictions.npz", item=np.arange(100))
    path = tmp_path / "predictions.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptRecord, match="predictions.npz"):
        read_predictions(tmp_path)


def test_predictions_load_no_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "predictions.npz", item=np.array([{}], dtype=object))
    with pytest.raises(CorruptRecord):
        read_predictions(tmp_path)


def test_the_store_imports_the_standard_library_only() -> None:
    heavy = "{'numpy', 'pandas', 'torch', 'rich', 'matplotlib'}"
    code = f"import sys, results.records.store; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
