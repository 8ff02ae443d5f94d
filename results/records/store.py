"""The record directory of a study: the state of a run from its files alone, and all records at once.

    DIR/study.json              what the study is
    DIR/items.npz               thumbnails of some test items, see items.py
    DIR/runs/<id>/              config.json, result.json or failure.json, log.jsonl, claim.json, and of test items
                                predictions.npz, kept.npz and corrupted.npz
    DIR/speed/<id>/result.json  one timing of all variants, with failure.json and claim.json as above
    DIR/report/                 made from the others, by results.pages.report

`result.json` exists only when complete. What is read passes schema.py.
"""

import os
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from results.records.claims import STALE_AFTER_S, Claim, ClaimedElsewhere, IsGone, holder
from results.records.files import (
    CorruptRecord,
    Unreadable,
    append_line,
    printable,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from results.records.schema import SCHEMA, Failure, Finished, Result, Study, Timing, check, read

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "SCHEMA", "STALE_AFTER_S", "Claim", "ClaimedElsewhere", "CorruptRecord", "Records", "RunStatus", "State",
    "Unreadable", "append_line", "check_study", "holder", "last_error", "load_records", "read_predictions",
    "read_result", "run_status", "write_bytes", "write_failure", "write_json", "write_text",
]  # fmt: skip

State = Literal["done", "unreachable", "failed", "running", "pending"]


@dataclass(frozen=True)
class RunStatus:
    """State of one run; `detail` is the last line of its error (failed) or its holder (running)."""

    state: State
    detail: str = ""


@dataclass
class Records:
    """All records of one directory. Runs and speeds are result.json by folder name, in the order of these names."""

    directory: Path
    study: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # last line of the error, by folder name
    unfinished: dict[str, RunStatus] = field(default_factory=dict)  # running or pending
    broken: list[CorruptRecord] = field(default_factory=list)


def read_result(path: Path | str) -> dict[str, Any]:
    """A result.json of a run or of a timing.

    Raises:
        FileNotFoundError: not finished.
        CorruptRecord: cut off, written by another schema, or not what every result is.
    """
    result = read_json(path)
    said = result if isinstance(result, dict) else {}
    kind: Any = Timing if "variants" in said else Finished if said.get("status") == "done" else Result
    return check(path, result, kind)


def read_predictions(run_dir: Path | str, name: str = "predictions.npz") -> "dict[str, np.ndarray]":
    """The arrays of predictions.npz, or of another such file of a run. Raises FileNotFoundError; CorruptRecord where it
    is cut off or holds objects."""
    import zipfile
    import zlib

    from results.records.arrays import arrays_of

    path = f"{run_dir}/{name}"
    try:
        return arrays_of(read_bytes(path))
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise CorruptRecord(path, f"not a complete npz file ({error})") from error


def write_failure(run_dir: Path, error: BaseException, config: dict[str, Any], where: str | None = None) -> None:
    """Leaves failure.json in place of a result. `where`: file and line of a user's own method, if it was there.
    Raises OSError where even that cannot be written."""
    write_json(
        run_dir / "failure.json",
        {
            "schema": SCHEMA,
            "id": run_dir.name,
            "type": type(error).__name__,
            "message": printable(str(error)),
            "where": where,
            "traceback": printable("".join(traceback.format_exception(error))),
            "config": config,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


def last_error(run_dir: Path) -> str:
    """The last line of the error in failure.json. Raises FileNotFoundError where there is none."""
    try:
        return _last_line(read(run_dir / "failure.json", Failure))
    except CorruptRecord as error:
        return str(error)


def run_status(run_dir: Path, is_gone: IsGone | None = None, stale_after_s: float = STALE_AFTER_S) -> RunStatus:
    """State of a run. A finished result outlives everything; a failed run that is being tried again is running.
    `is_gone` and `stale_after_s` as in `Claim`."""
    try:
        return RunStatus("unreachable" if read_result(run_dir / "result.json")["status"] == "unreachable" else "done")
    except FileNotFoundError:
        return _unfinished_status(run_dir, is_gone, stale_after_s)
    except CorruptRecord as error:
        return RunStatus("failed", str(error))


def check_study(directory: Path) -> None:
    """Raise ValueError where `directory` holds no study."""
    if not (directory / "study.json").exists() and not (directory / "runs").is_dir():
        raise ValueError(f"{directory} holds no study: neither study.json nor runs/ is there")


def load_records(directory: Path) -> Records:
    """Every record of a study, also while runs are still going. What cannot be read is named in `broken`.

    Raises:
        ValueError: `directory` holds no study.
    """
    check_study(directory)
    records = Records(directory)
    try:
        records.study = dict(read(directory / "study.json", Study))
    except CorruptRecord as error:
        records.broken.append(error)
    except FileNotFoundError:
        pass
    for name, result in _results(records, directory / "runs", report_unfinished=True):
        records.runs[name] = result
    for name, result in _results(records, directory / "speed", report_unfinished=False):
        records.speeds[name] = result
    return records


def _results(records: Records, folder: Path, report_unfinished: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in _folders(folder):
        try:
            yield name, read_result(f"{folder}/{name}/result.json")  # no Path: it would cost as much as the reading
        except CorruptRecord as error:
            records.broken.append(error)
        except FileNotFoundError:
            status = _unfinished_status(folder / name)
            if status.state == "failed":
                records.failures[name] = status.detail
            elif report_unfinished:
                records.unfinished[name] = status


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


def _unfinished_status(run_dir: Path, is_gone: IsGone | None = None, stale_after_s: float = STALE_AFTER_S) -> RunStatus:
    try:
        owner = holder(run_dir, is_gone, stale_after_s)
    except FileNotFoundError:
        return RunStatus("pending")
    if owner is not None:
        return RunStatus("running", str(owner))
    try:
        return RunStatus("failed", last_error(run_dir))
    except FileNotFoundError:
        return RunStatus("pending")


def _last_line(failure: Failure) -> str:
    """`ValueError: the last line of its message`, as the end of a traceback shows it."""
    message = str(failure.get("message", "")).strip().splitlines()
    said = f"{failure.get('type', 'error')}: {message[-1]}" if message else str(failure.get("type", "error"))
    return f"{failure['where']}: {said}" if failure.get("where") else said
