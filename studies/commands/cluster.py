"""`submit`, `retry`, `status`, `cancel`, `logs` and the dry run: a study on Slurm, as its user sees it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cropr.nearest import nearest
from results.records.schema import Failure, read
from results.records.store import CorruptRecord, check_study, last_error, read_result
from studies.config import RunConfig, read_config
from studies.launch import squeue, submissions
from studies.launch.pending import pending
from studies.launch.profile import Resources, resources
from studies.launch.progress import Row, next_step, survey

__all__ = ["cancel", "dry_run", "log_text", "retry", "slurm_options", "status_lines", "submitted_lines"]


def slurm_options(
    *, partition: str | None, account: str | None, qos: str | None, constraint: str | None, gpus: int | None,
    cpus: int | None, mem: str | None, time: int | None, nodes: int | None, throttle: int | None,
    runs_per_job: int | None, setup: list[str] | None, sbatch: list[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """The options of the command line by submitit's names. Raises ValueError."""
    extra = {}
    for setting in sbatch or []:
        key, found, value = setting.partition("=")
        extra[key.removeprefix("--")] = value if found else True
    given = {
        "partition": partition, "account": account, "qos": qos, "constraint": constraint, "gpus_per_node": gpus,
        "cpus_per_task": cpus, "mem": mem, "time": time, "nodes": nodes, "array_parallelism": throttle,
        "runs_per_job": runs_per_job, "setup": setup, "additional_parameters": extra,
    }  # fmt: skip
    return {key: value for key, value in given.items() if value is not None and value != [] and value != {}}


def dry_run(configs: list[RunConfig], out: Path, wanted: Resources, timed: bool = True) -> str:
    """The sbatch scripts, the number of jobs and what they cost at most."""
    from studies.launch.slurm import arrays, script

    work = arrays(pending(configs, out, timed), out, wanted)
    texts = [f"{script(array, out, wanted)}\n# {len(array.jobs)} jobs, {array.kind}\n" for array in work]
    jobs = sum(len(array.jobs) for array in work)
    return "\n".join([*texts, f"{jobs} jobs; {estimate(configs, out, jobs, wanted)}"])


def estimate(configs: list[RunConfig], out: Path, jobs: int, wanted: Resources) -> str:
    """GPU hours (CPU hours without a GPU) out of the training seconds of finished runs, or else of the time limits."""
    per_job, what = (wanted.gpus, "GPU") if wanted.gpus else (wanted.parameters.get("cpus_per_task") or 1, "CPU")
    left = pending(configs, out).runs
    measured = {config.variant: seconds for config in configs if (seconds := _train_seconds(out, config)) is not None}
    if not left:
        return "every run is finished"
    known = [measured[config.variant] for config in left if config.variant in measured]
    most = jobs * wanted.parameters["time"] / 60 * per_job
    text = f"at most {most:.1f} {what} hours: {jobs} jobs x {wanted.parameters['time']} minutes x {per_job} {what}s"
    if not known:
        return text + " (the time limits; no run of these variants is finished, so none is measured)"
    hours = sum(known) / len(known) * len(left) / 3600 * per_job
    return (
        f"about {hours:.2f} {what} hours of training for {len(left)} runs, by seconds measured of the same variants "
        f"({len(known)} of {len(left)} runs; the others taken as their mean); {text}"
    )


def _train_seconds(out: Path, config: RunConfig) -> float | None:
    try:
        return read_result(out / "runs" / config.id / "result.json").get("train_seconds")
    except (FileNotFoundError, CorruptRecord):
        return None


def submitted_lines(done: Any, out: Path) -> list[str]:
    """What `submit` did, and what to do next."""
    lines = [f"{kind}: {done.items[kind]} in {number} jobs" for kind, number in done.jobs.items()]
    if done.live:
        lines.append(f"{done.live} runs are queued or running already")
    if not lines:
        return [f"nothing to submit: everything is finished; cropr-study report {out}"]
    return [*lines, f"cropr-study status {out} --watch follows; the jobs do not need this shell"]


def retry(out: Path, options: dict[str, Any], profile: str | None) -> Any:
    """Submit the failed runs of `out` again, with the resources of the last submission and `options` over them; the
    timing too, where it has been submitted before. Raises ValueError."""
    from studies.launch.slurm import submit

    log = submissions.read(out)
    if not log:
        raise ValueError(f"{out} was never submitted to Slurm; the command that began the study repeats what failed")
    rows = survey(out)
    failed = [row.id for row in rows if row.state == "failed" and not row.id.startswith(("backbones/", "speed/"))]
    again = resources(profile, {**(log[-1].resources if profile is None else {}), **options})
    configs = [read_config(out / "runs" / name / "config.json") for name in failed]
    return submit(configs, out, again, timed=any(entry.kind == "speed" for entry in log))


def cancel(out: Path) -> str:
    """End the jobs of `out` that are queued or running. Raises ValueError."""
    from studies.launch.slurm import live_items

    check_study(out)
    live = live_items(submissions.read(out))
    if live is None:
        raise ValueError("Slurm does not answer (squeue); nothing was cancelled")
    jobs = sorted({job for job, _ in live.values()})
    if jobs:
        squeue.cancel(jobs)
    return f"{len(jobs)} jobs cancelled; finished runs are kept, and the others continue when they are submitted again"


def log_text(out: Path, run: str) -> str:
    """The error and the logs of a run (a name that begins like it will do). Raises ValueError."""
    newest = submissions.newest(submissions.read(out))
    names = {row.id: row for row in survey(out)}
    found = [name for name in names if name == run] or [name for name in names if name.startswith(run)]
    if len(found) != 1:
        raise ValueError(nearest("run", run, names) if not found else f"{run!r} is {' or '.join(found)}")
    item = found[0] if "/" in found[0] else f"runs/{found[0]}"
    texts = []
    if (out / item / "failure.json").exists():
        failure = read(out / item / "failure.json", Failure)
        texts.append(f"==> {out / item / 'failure.json'}\n{failure.get('traceback') or last_error(out / item)}")
    if item in newest:
        for path in submissions.log_files(out, *newest[item]):
            texts.append(f"==> {path}\n{path.read_text(errors='replace')}")
    return "\n".join(texts) or f"{names[found[0]].state}, and it left no log"


def status_lines(rows: list[Row], out: Path) -> list[str]:
    """A line for each run, then totals and what to do next."""
    lines = [f"{row.state:<12} {row.id}  {_details(row)}".rstrip() for row in rows]
    counts = Counter(row.state for row in rows)
    totals = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    return [*lines, f"{len(rows)} in all: {totals or 'none'}", f"next: {next_step(rows, out)}"]


def _details(row: Row) -> str:
    parts = []
    if row.state in ("running", "queued") and row.epoch is not None:
        parts.append(f"epoch {row.epoch}/{row.epochs}")
        if row.eta_s is not None:
            parts.append(f"{row.eta_s / 60:.1f} min left")
        if row.images_per_s is not None:
            parts.append(f"{row.images_per_s:.0f} images/s")
    if row.detail:
        parts.append(row.detail)
    if row.state == "failed" and row.log:
        parts.append(f"[{row.log}]")
    return ", ".join(parts)
