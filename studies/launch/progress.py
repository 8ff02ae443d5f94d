"""The state of every run of a study: by its records, then by squeue, then by its log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.records.schema import Epoch, read_log
from results.records.store import run_status
from studies.launch import squeue, submissions
from studies.launch.submissions import Submission

__all__ = ["Row", "going_on", "next_step", "survey"]

FOLDERS = ("backbones", "runs", "speed")


@dataclass(frozen=True)
class Row:
    """One run, backbone (`backbones/<name>`) or timing (`speed/<id>`).

    States: done, unreachable, running, queued, failed, pending (not submitted), unknown (Slurm does not answer).
    """

    id: str
    state: str
    detail: str = ""
    epoch: int | None = None
    epochs: int | None = None
    eta_s: float | None = None  # training that is left
    images_per_s: float | None = None
    job: str | None = None
    log: str | None = None


def survey(out: Path, items: Iterable[str] | None = None) -> list[Row]:
    """The rows of `items` (`runs/<id>`, …), or of all that the directory knows. Raises ValueError where it is none."""
    if not (out / "runs").is_dir():
        raise ValueError(f"{out} is no record directory: it has no runs/")
    newest = submissions.newest(submissions.read(out))
    names = list(items) if items is not None else [*_folders(out), *(item for item in newest if item[:5] == "speed")]
    rows = {item: _finished(out, item) for item in dict.fromkeys(names)}
    asked = {newest[item][0] for item, row in rows.items() if row is None and item in newest}
    states = squeue.job_states(asked)

    def is_gone(job_id: str) -> bool | None:
        if states is None or job_id not in asked:
            return None if states is None else squeue.is_gone(job_id)
        return states.get(job_id, "COMPLETED").split()[0] in squeue.ENDED

    found = []
    for item, row in rows.items():
        job, entry = newest.get(item, (None, None))
        if row is None:
            row = _unfinished(out, item, job, entry, states, is_gone)
        found.append(row)
    return found


def next_step(rows: list[Row], out: Path) -> str:
    """What to do now, in one line."""
    counts = Counter(row.state for row in rows)
    if counts["running"] or counts["queued"]:
        return f"cropr-study status {out} --watch follows; cropr-study cancel {out} stops the jobs"
    if counts["failed"]:
        submitted = (out / submissions.LOG).exists()
        again = f"cropr-study retry {out}" if submitted else "the command that began the study"
        return f"cropr-study logs {out} RUN shows why; {again} tries the failed ones again"
    if counts["unknown"]:
        return "Slurm does not answer; ask again"
    if counts["pending"]:
        return "the command that began the study continues it"
    return f"cropr-study report {out}"


def going_on(rows: list[Row]) -> bool:
    """Whether a row may still change by itself."""
    return any(row.state in ("running", "queued", "unknown") for row in rows)


def _folders(out: Path) -> list[str]:
    return [
        f"{kind}/{folder.name}"
        for kind in FOLDERS
        if (out / kind).is_dir()
        for folder in sorted((out / kind).iterdir())
        if folder.is_dir()
    ]


def _name(item: str) -> str:
    return item.removeprefix("runs/")


def _finished(out: Path, item: str) -> Row | None:
    folder = out / item
    if not (folder / "result.json").exists():
        return None
    if item.startswith("backbones/"):
        return Row(item, "done")
    status = run_status(folder)
    return Row(_name(item), status.state, status.detail)


def _unfinished(
    out: Path,
    item: str,
    job: str | None,
    entry: Submission | None,
    states: dict[str, str] | None,
    is_gone: squeue.IsGone,
) -> Row:
    folder, log = out / item, ""
    if job is not None and entry is not None:
        log = next((str(path) for path in submissions.log_files(out, job, entry)), "")
    status = run_status(folder, is_gone) if folder.is_dir() else None
    state, detail = ("pending", "") if status is None else (status.state, status.detail)
    if state == "pending" and job is not None:
        if states is None:
            state, detail = "unknown", f"job {job}; Slurm does not answer"
        elif not is_gone(job):
            state, detail = "queued", f"job {job}: {states[job]}"
        else:
            state, detail = "failed", f"job {job} ended without a record ({states.get(job, 'Slurm forgot it')})"
            detail += f"; {_last_line(log)}" if log else "; it left no log: can its node write there?"
    if state == "failed" and not log and (folder / "failure.json").exists():
        log = str(folder / "failure.json")
    return Row(_name(item), state, detail, **_epochs(folder), job=job, log=log or None)


def _epochs(folder: Path) -> dict[str, Any]:
    lines = read_log(folder / "log.jsonl", Epoch)
    if not lines:
        return {}
    last = lines[-1]
    left = last["train_seconds"] / last["epoch"] * (last["epochs"] - last["epoch"])
    return {"epoch": last["epoch"], "epochs": last["epochs"], "eta_s": left, "images_per_s": last.get("images_per_s")}


def _last_line(path: str) -> str:
    """The last line of a log that says something; srun's own only repeat that the job is over."""
    lines = Path(path).read_text(errors="replace").splitlines()[-50:]
    lines = [line for line in lines if line.strip() and not line.startswith("srun: ")]
    return lines[-1] if lines else "its log is empty"
