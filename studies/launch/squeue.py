"""What Slurm says of jobs: squeue as second witness beside our own records. Works with and without accounting.

Every call has a time limit: a controller that is away is no answer, never a wait. Standard library only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from results.records.claims import IsGone

__all__ = ["ENDED", "NEVER", "IsGone", "cancel", "is_gone", "job_states", "max_array_size"]

TIMEOUT_S = 30
# Everything else is alive: pending, running, configuring, completing, requeued, suspended, …
ENDED = frozenset((
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
))  # fmt: skip
# Reasons for which a job that asks for too much would wait for ever.
NEVER = frozenset(("BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"))


def job_states(job_ids: Iterable[str]) -> dict[str, str] | None:
    """State (RUNNING, or `FAILED NonZeroExitCode`) of those of the jobs (`12`, or `12_3` of an array) that Slurm still
    knows; ended ones are forgotten after minutes. None: Slurm does not answer."""
    wanted = set(job_ids)
    if not wanted:
        return {}
    arrays = sorted({job_id.partition("_")[0] for job_id in wanted})
    done = _call(
        "squeue", "--noheader", "--array", "--all", "--states=all", "--format=%i|%T|%r", "-j", ",".join(arrays)
    )
    if done is None or (done.returncode and "Invalid job id" not in done.stderr):
        return None
    states = {}
    for line in done.stdout.splitlines():
        job_id, state, reason = line.split("|", 2)
        states[job_id] = state if reason == "None" else f"{state} {reason}"
    return {job_id: state for job_id, state in states.items() if job_id in wanted}


def is_gone(job_id: str) -> bool | None:
    """Whether a job has ended; None where Slurm does not answer. For `results.records.claims.Claim`."""
    states = job_states([job_id])
    return None if states is None else states.get(job_id, "COMPLETED").split()[0] in ENDED


def cancel(job_ids: Iterable[str]) -> None:
    """End jobs; `12` are all of the array 12. Raises ValueError where Slurm refuses or does not answer."""
    done = _call("scancel", *job_ids)
    if done is None or done.returncode:
        raise ValueError(f"scancel: {done.stderr.strip() if done else 'no answer'}")


def max_array_size() -> int:
    """Tasks that one array may have."""
    done = _call("scontrol", "show", "config")
    for line in done.stdout.splitlines() if done else ():
        if line.startswith("MaxArraySize"):
            return int(line.rpartition("=")[2])
    return 1001  # Slurm's default


def _call(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
