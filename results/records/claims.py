"""One writer per run, among many processes on many nodes that share a directory: no lock service, no database.

A claim is a file created exclusively (O_CREAT | O_EXCL). The first is `claim.json`; whoever finds the newest claim
stale takes the run over by creating the *next* one, `claim-1.json`, `claim-2.json`, … Nobody ever removes or renames
another's file, so two takers meet in one exclusive creation, which one of them wins; and a taker that dies leaves a
claim like any other. (Renaming the stale claim away would not do: a slow taker would rename a fast one's fresh claim.)
The owner removes its own file when it lets go. The modification time, touched by a thread, is the heartbeat.
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results.records.files import CorruptRecord
from results.records.schema import ClaimFile, read

__all__ = ["STALE_AFTER_S", "Claim", "ClaimedElsewhere", "Holder", "IsGone", "holder"]

STALE_AFTER_S = 120.0
IsGone = Callable[[str], bool | None]  # job id -> True: gone, False: queued or running, None: unknown

_NAME = re.compile(r"claim(?:-(\d+))?\.json")


class ClaimedElsewhere(RuntimeError):
    """Another process holds this run."""


class Holder(dict[str, Any]):
    """What a claim file says of its owner; `str` of it is fit for an error message."""

    def __str__(self) -> str:
        job = f", job {self['job_id']}" if self.get("job_id") else ""
        return f"{self.get('host', 'unknown host')}, process {self.get('pid', '?')}{job}"


def holder(run_dir: Path, is_gone: IsGone | None = None, stale_after_s: float = STALE_AFTER_S) -> Holder | None:
    """Who holds the run now; None where nobody does or its owner is known to be gone."""
    return _newest_and_holder(run_dir, is_gone, stale_after_s, job_id=None)[1]


class Claim:
    """Holds a run while the `with` block lasts.

    A claim is stale when its process is gone (same machine: process id and start time), or else when `is_gone(job_id)`
    says so, or else when its heartbeat is older than `stale_after_s` (clocks are assumed to agree to a few seconds).
    An earlier life of the same job (requeued by the scheduler) is stale at once.

    After entering, look again whether the run is finished: its last owner may just have let go.

    Raises:
        ClaimedElsewhere: names the holder.
        OSError: the run directory is not writable or the disk is full; no claim is left behind.
    """

    def __init__(
        self,
        run_dir: Path,
        job_id: str | None = None,
        is_gone: IsGone | None = None,
        stale_after_s: float = STALE_AFTER_S,
    ):
        self.run_dir, self.job_id, self.is_gone, self.stale_after_s = run_dir, job_id, is_gone, stale_after_s
        self._generation = -1
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="claim-heartbeat", daemon=True)

    def __enter__(self) -> "Claim":
        newest, other = _newest_and_holder(self.run_dir, self.is_gone, self.stale_after_s, self.job_id)
        if other is not None:
            raise ClaimedElsewhere(f"run {self.run_dir.name} is held by {other}")
        try:
            _create(_path(self.run_dir, newest + 1), {**_myself(), "job_id": self.job_id})
        except FileExistsError:
            winner = holder(self.run_dir) or "another process"
            raise ClaimedElsewhere(f"run {self.run_dir.name} was claimed just now by {winner}") from None
        self._generation = newest + 1
        for left in self.run_dir.glob(".*.tmp"):  # of writers that were killed: nobody else writes here now
            left.unlink(missing_ok=True)
        self._heart.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._heart.join()
        if self.held():  # once taken over, the file below the new claim stays: see the module's docstring
            _path(self.run_dir, self._generation).unlink(missing_ok=True)

    def held(self) -> bool:
        """False once another process took the run over (this one was thought dead): stop, and write nothing more."""
        return _newest(self.run_dir) == self._generation

    def _beat(self) -> None:
        path = _path(self.run_dir, self._generation)
        while not self._stop.wait(self.stale_after_s / 6):
            try:
                os.utime(path)
            except OSError:  # a network file system away for a moment; the next beat tries again
                continue


def _path(run_dir: Path, generation: int) -> Path:
    return run_dir / (f"claim-{generation}.json" if generation else "claim.json")


def _newest(run_dir: Path) -> int:
    """Number of the newest claim, -1 where there is none."""
    matches = (_NAME.fullmatch(name) for name in os.listdir(run_dir))
    return max((int(match[1] or 0) for match in matches if match), default=-1)


def _newest_and_holder(
    run_dir: Path, is_gone: IsGone | None, stale_after_s: float, job_id: str | None
) -> tuple[int, Holder | None]:
    """Number of the newest claim (-1: none) and its owner (None: stale). `job_id` is the asker's own."""
    while (newest := _newest(run_dir)) >= 0:
        try:
            return newest, _live(_path(run_dir, newest), is_gone, stale_after_s, job_id)
        except FileNotFoundError:  # let go since the directory was listed; list it again
            continue
    return -1, None


def _create(path: Path, content: dict[str, Any]) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(content).encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> Holder:
    """The owner in a claim file; empty where its creator is between creating and writing it, or was killed there, or
    where another hand wrote it: then its heartbeat alone counts."""
    try:
        return Holder(read(path, ClaimFile))
    except CorruptRecord:
        return Holder()


def _live(path: Path, is_gone: IsGone | None, stale_after_s: float, job_id: str | None) -> Holder | None:
    """The owner of this claim, None where it is stale. Raises FileNotFoundError where it was removed meanwhile."""
    heartbeat = path.stat().st_mtime
    owner = _read(path)
    if owner.get("start") is not None and owner.get("place") == _place():
        return owner if _process_start(owner["pid"]) == owner["start"] else None
    if owner.get("job_id") is not None:
        gone = True if owner["job_id"] == job_id else is_gone(owner["job_id"]) if is_gone else None
        if gone is not None:
            return None if gone else owner
    return owner if time.time() - heartbeat <= stale_after_s else None


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "start": _process_start(pid), "place": _place()}


def _place() -> str:
    """Where process ids mean the same: machine, boot and pid namespace (containers)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None where it is gone, a zombie, or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before ")" may hold spaces and brackets
    return None if state in "ZX" else int(fields[18])
