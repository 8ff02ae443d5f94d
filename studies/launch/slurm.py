"""A study as job arrays of Slurm, through submitit: backbones, the runs behind them, one exclusive job for the timing.

Jobs are never asked for a value: what they did stands in the record directory, and squeue says which of them still live
(squeue.py). Two submitters take turns by the claim of DIR/slurm; which run is whose job stands in its log.
"""

from __future__ import annotations

import io
import shlex
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from results.records.store import Claim, ClaimedElsewhere, holder
from studies.config import RunConfig
from studies.launch import squeue, submissions
from studies.launch.here import Progress
from studies.launch.jobs import Job, Kind
from studies.launch.pending import Pending, failed, pending, write_configs
from studies.launch.profile import Resources
from studies.launch.progress import going_on, survey
from studies.launch.submissions import Submission
from studies.models.given import approved

__all__ = ["Submitted", "arrays", "live_items", "run_there", "script", "submit"]

BEHIND: dict[Kind, tuple[Kind, ...]] = {"backbone": (), "runs": ("backbone",), "speed": ("backbone", "runs")}
POLL_S = 1.0
WATCH_S = 5.0  # between two looks at records and squeue

# Leaves failure.json where Python, submitit or this package was not found on the node.
# $1: exit code of srun, $2: job, $3: task.
CANNOT_START = r"""
here=$(dirname "$0")
[ "$1" -eq 0 ] || [ -e "$here/$2.started" ] && exit 0
log="$here/$2_0_log.err"
message=$(grep -v '^srun: ' "$log" 2>/dev/null | tail -n 1 | tr -cd '[:print:]' | tr -d '"\\')
for item in $(sed -n "$(($3+1))p" "$here/items.txt"); do
  folder="$here/../../$item"
  [ -e "$folder/result.json" ] || [ -e "$folder/failure.json" ] && continue
  mkdir -p "$folder"
  aside="$folder/.failure.$2.tmp"
  printf '{"schema": 1, "type": "CannotStart", "message": "job %s did not start on %s, exit code %s: %s"}\n' \
    "$2" "${SLURMD_NODENAME:-$(hostname)}" "$1" "$message" >"$aside" && mv "$aside" "$folder/failure.json"
done
"""


@dataclass(frozen=True)
class Array:
    """Jobs of one kind: each does some configs. `items` are the folders below DIR that they fill."""

    kind: Kind
    jobs: list[list[RunConfig]]
    items: list[list[str]]


@dataclass
class Submitted:
    """Number of jobs and of what they do, by kind; what was left alone because a job has it already."""

    jobs: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    live: int = 0


def arrays(left: Pending, out: Path, wanted: Resources) -> list[Array]:
    """How the work that is left is dealt out to jobs, in the order of submission."""
    from studies.runs.pretraining import backbone_dir
    from studies.study import timing_dir

    size = wanted.runs_per_job
    packs = [left.runs[begin : begin + size] for begin in range(0, len(left.runs), size)]
    found = []
    if left.backbones:
        items = [[f"backbones/{backbone_dir(config, out).name}"] for config in left.backbones]
        found.append(Array("backbone", [[config] for config in left.backbones], items))
    if packs:
        found.append(Array("runs", packs, [[f"runs/{config.id}" for config in pack] for pack in packs]))
    if left.timing:
        found.append(Array("speed", [left.timing], [[f"speed/{timing_dir(left.timing, out).name}"]]))
    return found


def submit(configs: list[RunConfig], out: Path, wanted: Resources, timed: bool = True) -> Submitted:
    """Submit what is neither finished, nor queued, nor running; the timing only if it is wanted (`timed`).

    Raises ValueError where Slurm is not there, does not answer or refuses; then nothing stays submitted.
    """
    (out / "slurm").mkdir(exist_ok=True)
    with _my_turn(out / "slurm"):
        log = submissions.read(out)
        live = live_items(log)
        if live is None:
            raise ValueError("Slurm does not answer (squeue); nothing was submitted")
        left = pending(configs, out, timed)
        free = _without(left, out, live)
        write_configs([*free.runs, *free.timing], out)
        done = Submitted(live=len(left.runs) - len(free.runs))
        going = {kind: {job for job, entry in live.values() if entry.kind == kind} for kind in get_args(Kind)}
        sent: list[Submission] = []
        try:
            for array in arrays(free, out, wanted):
                for item in chain.from_iterable(array.items):  # a failure seen afterwards is of the new attempt
                    (out / item / "failure.json").unlink(missing_ok=True)
                behind = {job.partition("_")[0] for kind in BEHIND[array.kind] for job in going[kind]}
                for submission in _submit_array(array, out, wanted, sorted(behind)):
                    sent.append(submission)
                    going[array.kind] |= set(submission.items)
                done.jobs[array.kind] = len(array.jobs)
                done.items[array.kind] = sum(len(items) for items in array.items)
            _refuse_stuck(sent)
        except ValueError:
            if sent:  # all or nothing
                squeue.cancel(job for submission in sent for job in submission.items)
            raise
        for submission in sent:
            submissions.append(out, submission)
        return done


def _refuse_stuck(sent: list[Submission]) -> None:
    """Raise ValueError where Slurm has taken a job that it will never start; sbatch does not find all of these."""
    jobs = [job for submission in sent for job in submission.items]
    for job, state in (squeue.job_states(jobs) or {}).items():
        if state.split()[-1] in squeue.NEVER:
            raise ValueError(f"sbatch: job {job} could never start: {state.split()[-1]}; no node has what it asks for")


def run_there(
    configs: list[RunConfig], out: Path, wanted: Resources, *, progress: Progress, timed: bool = True
) -> list[str]:
    """Submit what is left and wait until no job of it lives. Returns the ids of the runs that failed ("speed": the
    timing). Raises KeyboardInterrupt on Ctrl-C, and leaves the jobs alone; ValueError as `submit`."""
    submit(configs, out, wanted, timed)
    left = pending(configs, out, timed)
    items = [item for array in arrays(left, out, wanted) for items in array.items for item in items]
    quiet = 0
    while quiet < 2:  # a job that is requeued may look ended for a moment, and a record may come late
        rows = survey(out, items) if items else []
        for kind in ("backbones", "runs", "speed"):
            own = [row for row, item in zip(rows, items, strict=True) if item.startswith(f"{kind}/")]
            if own:
                counts = Counter(row.state for row in own)
                doing = ", ".join(f"{count} {state}" for state, count in counts.items())
                progress(kind, counts["done"] + counts["unreachable"], len(own), doing)
        quiet = 0 if going_on(rows) else quiet + 1
        time.sleep(WATCH_S if quiet == 0 else POLL_S)
    return failed(left, out)


def live_items(log: Sequence[Submission]) -> dict[str, tuple[str, Submission]] | None:
    """Item -> its job and submission, for jobs that are queued or running. None: Slurm does not answer."""
    newest = submissions.newest(log)
    states = squeue.job_states(job for job, _ in newest.values())
    if states is None:
        return None
    alive = {job for job, state in states.items() if state.split()[0] not in squeue.ENDED}
    return {item: (job, entry) for item, (job, entry) in newest.items() if job in alive}


def script(array: Array, out: Path, wanted: Resources) -> str:
    """The sbatch script of an array, as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = out.absolute() / "slurm" / f"TIME-{array.kind}"
    python = wanted.python or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    values = _parameters(array, folder, wanted)
    if len(array.jobs) > 1:
        values["map_count"] = len(array.jobs)
    if array.kind != "backbone":
        values["dependency"] = "afterany:JOBS-BEFORE"
    return _make_sbatch_string(command=command, folder=folder, **values)


def _parameters(array: Array, folder: Path, wanted: Resources) -> dict[str, Any]:
    """submitit's parameters of an array."""
    values = {"job_name": f"cropr-{array.kind}", **wanted.parameters}
    if values.get("cpus_per_task"):  # srun does not take it over from sbatch any more
        values["srun_args"] = [*values.get("srun_args", ()), f"--cpus-per-task={values['cpus_per_task']}"]
    if array.kind != "runs":  # one process
        values |= {"nodes": 1, "ntasks_per_node": 1}
        if values.get("gpus_per_node"):
            values["gpus_per_node"] = 1
    if array.kind == "speed":  # with the node to itself
        values["exclusive"] = True
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    notice = f'sh {shlex.quote(str(folder / "cannot_start.sh"))} "$code" "{job}" "${{SLURM_ARRAY_TASK_ID:-0}}"'
    values["teardown"] = ["code=$?", notice, *values.get("teardown", ()), 'exit "$code"']
    return values


def _submit_array(array: Array, out: Path, wanted: Resources, behind: list[str]) -> Iterator[Submission]:
    """Submits, in parts that Slurm takes as an array. Raises ValueError."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    size = squeue.max_array_size()
    for part in range(0, len(array.jobs), size):
        jobs, items = array.jobs[part : part + size], array.items[part : part + size]
        folder = _new_folder(out, array.kind)
        (folder / "items.txt").write_text("".join(" ".join(names) + "\n" for names in items))
        (folder / "cannot_start.sh").write_text(CANNOT_START)
        try:
            executor = _executor(array, folder, wanted, behind)
            work = [
                Job(
                    str(out.absolute()), array.kind, tuple(config.id for config in pack),
                    methods=approved(config.reducer for config in pack), workers=wanted.workers,
                )
                for pack in jobs
            ]  # fmt: skip
            with redirect_stderr(io.StringIO()):  # sbatch's words come with the error as well
                ids = [job.job_id for job in executor.submit_array(work)]
        except (FailedJobError, FailedSubmissionError) as error:
            reasons = [line for line in str(error).splitlines() if line.startswith("sbatch:")]
            raise ValueError("; ".join(reasons) or str(error).strip()) from None
        where, now = str(folder.relative_to(out.absolute())), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        yield Submission(now, array.kind, where, dict(zip(ids, items, strict=True)), wanted.to_dict())


def _executor(array: Array, folder: Path, wanted: Resources, behind: list[str]) -> Any:
    from submitit import SlurmExecutor

    try:
        executor = SlurmExecutor(folder, max_num_timeout=wanted.max_timeouts, python=wanted.python)
    except RuntimeError as error:  # no srun
        raise ValueError(str(error)) from None
    after = {"dependency": "afterany:" + ":".join(behind)} if behind else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what submitit finds odd in a profile is the user's to mend
        try:
            executor.update_parameters(**_parameters(array, folder, wanted), **after)
        except (Warning, TypeError) as error:
            raise ValueError(str(error)) from None
    return executor


def _new_folder(out: Path, kind: str) -> Path:
    stamp, number = time.strftime("%Y%m%dT%H%M%S"), 0
    while True:
        folder = out.absolute() / "slurm" / f"{stamp}-{kind}{f'-{number}' if number else ''}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _without(left: Pending, out: Path, live: dict[str, Any]) -> Pending:
    """What is left and no job has, nor any other process."""
    from studies.runs.pretraining import backbone_dir
    from studies.study import timing_dir

    def free(item: str) -> bool:
        folder = out / item
        return item not in live and (not folder.is_dir() or holder(folder, squeue.is_gone) is None)

    runs = [config for config in left.runs if free(f"runs/{config.id}")]
    backbones = [config for config in left.backbones if free(f"backbones/{backbone_dir(config, out).name}")]
    timing = left.timing if left.timing and free(f"speed/{timing_dir(left.timing, out).name}") else []
    return Pending(backbones, runs, timing)


@contextmanager
def _my_turn(folder: Path) -> Iterator[None]:
    """Waits for another submitter, then holds the claim of `folder`."""
    while True:
        claim = Claim(folder)
        try:
            claim.__enter__()
            break
        except ClaimedElsewhere:
            time.sleep(POLL_S)
    try:
        yield
    finally:
        claim.__exit__()
