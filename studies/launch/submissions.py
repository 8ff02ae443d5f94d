"""What was submitted: DIR/slurm/submissions.jsonl, one line an array, so that any login node knows which job has which
run. The folder of a submission (submitit's files and the logs) is DIR/slurm/<time>-<kind>/."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results.records.schema import read_log
from results.records.store import append_line

__all__ = ["LOG", "Submission", "append", "log_files", "newest", "read"]

LOG = Path("slurm") / "submissions.jsonl"


@dataclass(frozen=True)
class Submission:
    """One array. Items are folders below DIR: `runs/<id>`, `backbones/<name>`, `speed/<id>`."""

    __pydantic_config__ = {"extra": "forbid"}  # what another version wrote is named

    time: str
    kind: str  # backbone, runs, speed
    folder: str  # below DIR
    items: dict[str, list[str]]  # job id (`12_3` in an array) -> what it does
    resources: dict[str, Any]
    host: str = ""
    user: int = -1


def append(out: Path, submission: Submission) -> None:
    """Add `submission`; the caller holds the claim of DIR/slurm."""
    append_line(out / LOG, asdict(submission) | {"host": socket.gethostname(), "user": os.getuid()})


def read(out: Path) -> list[Submission]:
    """All submissions, oldest first. Raises CorruptRecord."""
    return [Submission(**line) for line in read_log(out / LOG, Submission)]


def newest(submissions: Iterable[Submission]) -> dict[str, tuple[str, Submission]]:
    """Item -> its last job and the submission that holds it."""
    return {item: (job, entry) for entry in submissions for job, items in entry.items.items() for item in items}


def log_files(out: Path, job_id: str, submission: Submission) -> list[Path]:
    """The logs of a job that are there: stderr first, where the errors are, then stdout, of its process 0."""
    names = (f"{job_id}_0_log.{stream}" for stream in ("err", "out"))
    return [path for name in names if (path := out / submission.folder / name).exists()]
