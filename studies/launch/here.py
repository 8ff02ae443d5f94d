"""Runs on this machine: submitit's local executor starts worker processes that take one run after the other.

Workers share nothing but the record directory: each walks the list and takes what nobody holds. So does a second
command on the same directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from joblib import cpu_count  # those that affinity and cgroup allow

from studies.config import RunConfig
from studies.launch.jobs import Job
from studies.launch.pending import epochs_done, failed, is_finished, pending, write_configs
from studies.models.given import approved

__all__ = ["Progress", "follows", "in_torchrun", "run_here"]

Progress = Callable[[str, int, int, str], None]  # phase, done, total, what goes on
POLL_S = 0.5
FOREVER_MIN = 60 * 24 * 365
STOP_AGAIN_S = 1.0


def in_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def follows() -> bool:
    """Whether this is a process of torchrun behind the first: it trains with the others and does nothing else."""
    return in_torchrun() and os.environ["RANK"] != "0"


def run_here(
    configs: list[RunConfig],
    out: Path,
    *,
    jobs: int,
    progress: Progress,
    timed: bool = True,
    workers: int | None = None,
) -> list[str]:
    """Backbones, then runs in `jobs` processes, then, if `timed`, the timing by itself. Returns the ids of the runs
    that failed ("speed": the timing). `workers` processes decode images for each run; None: as many as its share of the
    CPUs has beside it.

    Under torchrun each of its processes comes here, and their workers train together: jobs is 1, and the timing and the
    failures are the first one's.

    Stops its workers and raises KeyboardInterrupt on Ctrl-C; what was going on continues with the next command.
    """
    left, threads = pending(configs, out, timed), cpu_count()
    write_configs([*left.runs, *left.timing], out)
    if left.backbones:
        _backbones(left.backbones, out, jobs, threads, progress)
    if left.runs:
        sharing = jobs * int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's processes here
        _runs(left.runs, out, min(jobs, len(left.runs)), max(1, threads // sharing), workers, progress)
    if follows():
        return []
    if left.timing:
        progress("speed", 0, 1, "all variants, interleaved")
        _work(out, [_job(out, "speed", left.timing, threads)], lambda: None)
        progress("speed", 1, 1, "done")
    return failed(left, out)


def _backbones(configs: list[RunConfig], out: Path, jobs: int, threads: int, progress: Progress) -> None:
    """Each worker trains one at a time with its share of the threads; what is left at the end shares all of them, as
    one backbone alone is quickest with all."""
    from studies.runs.pretraining import backbone_dir

    folders = [backbone_dir(config, out) for config in configs]
    steps = sum(config.backbone_recipe.epochs for config in configs if config.backbone_recipe)

    def tick() -> None:
        progress("backbone", sum(epochs_done(folder) for folder in folders), steps, "epochs")

    last = len(configs) % jobs
    for part, workers in ((configs[: len(configs) - last], jobs), (configs[len(configs) - last :], last)):
        if part:
            _work(out, [_job(out, "backbone", part, max(1, threads // workers))] * workers, tick)


def _runs(
    configs: list[RunConfig], out: Path, jobs: int, threads: int, workers: int | None, progress: Progress
) -> None:
    folders = [out / "runs" / config.id for config in configs]
    steps = sum(config.recipe.epochs if config.recipe else 1 for config in configs)

    def tick() -> None:
        done = sum(is_finished(folder) for folder in folders)
        progress("runs", sum(epochs_done(folder) for folder in folders), steps, f"{done}/{len(configs)} runs")

    _work(out, [replace(_job(out, "runs", configs, threads), workers=workers)] * jobs, tick)


def _job(out: Path, kind: Any, configs: list[RunConfig], threads: int) -> Job:
    methods = approved(config.reducer for config in configs)
    return Job(str(out.absolute()), kind, tuple(config.id for config in configs), threads, methods=methods)


def _work(out: Path, work: list[Job], tick: Callable[[], None]) -> None:
    """Do `work` in a process each; the GPUs that this process sees are dealt out in turn."""
    from submitit import LocalExecutor

    executor = LocalExecutor(out / "local" / time.strftime("%Y%m%dT%H%M%S"))
    executor.update_parameters(timeout_min=FOREVER_MIN)
    running: list[Any] = []
    try:
        with _shielded():
            for job, gpu in zip(work, cycle(_gpus()), strict=False):
                running.append(executor.submit(replace(job, gpu=gpu)))
        while not all(job.done() for job in running):
            tick()
            time.sleep(POLL_S)
        tick()
    except BaseException:
        while not all(job.done() for job in running):
            for job in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)  # the id of a local job is that of its process
            time.sleep(STOP_AGAIN_S)
        raise


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and does not reach the processes that are started in it: this process
    stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _gpus() -> list[str | None]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return list(names) or [None]
