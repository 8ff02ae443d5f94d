"""What runs inside a job, of Slurm or of this machine: a callable that submitit pickles. It carries a path and run ids;
everything else is read from the record directory when it runs, and what it finds out is written there.

Nothing heavy is imported before it runs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from results.records.store import Claim, ClaimedElsewhere, write_failure
from studies.config import RunConfig, read_config
from studies.runs.signals import Signals

if TYPE_CHECKING:
    from studies.runs.holding import Host

__all__ = ["Job", "Kind", "RunsFailed"]

Kind = Literal["backbone", "runs", "speed"]


class RunsFailed(RuntimeError):
    """Some items of a job failed, as their records say; the scheduler shall see it too."""


@dataclass(frozen=True)
class Job:
    """Trains the backbones of the runs `ids`, does the runs, or times their variants, one after the other.

    An item that is finished, or that another process is at, is passed over; one that fails does not stop the others.
    """

    out: str
    kind: Kind
    ids: tuple[str, ...]
    num_threads: int | None = None  # CPUs that are its own, and threads of a backbone; None: the CPUs of this job
    gpu: str | None = None  # CUDA_VISIBLE_DEVICES, where nobody else sets it
    methods: tuple[tuple[str, str], ...] = ()  # (source, digest) of the user's own methods, named in the command
    workers: int | None = None  # processes that decode images for a run; None: by its CPUs

    def __call__(self) -> None:
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu  # torch is not imported yet
        self._load_methods()
        slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        signals = Signals(slurm)
        claim = _slurm_claim() if slurm else Claim
        failed = [name for name, work in self._work(claim, signals, slurm) if not _done(name, work, signals)]
        if failed:
            raise RunsFailed(", ".join(failed))

    def _load_methods(self) -> None:
        """A file is loaded from its copy beside the records; one that cannot be stops its own runs only."""
        if self.methods:
            from studies.models.given import give
        for source, digest in self.methods:
            try:
                give(str(Path(self.out) / source) if source.endswith(".py") else source, digest)
            except (ValueError, OSError) as error:
                print(error, file=sys.stderr)

    def checkpoint(self) -> Any:
        """What submitit queues when Slurm stops this job: the same again. Each run continues from its last state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self, claim: Callable[[Path], Claim], signals: Signals, slurm: bool) -> list[tuple[str, Callable]]:
        """Name and function of each item."""
        from studies.data.workers import num_workers
        from studies.runs.holding import Host
        from studies.runs.pretraining import train_backbone
        from studies.runs.run import execute

        if self.kind == "speed":
            return [("the timing", partial(self._time, claim))]
        # A failure that is there when a job of Slurm starts is of an earlier life of this job: `submit` removes others.
        cpus = self.num_threads or _num_cpus()
        workers = num_workers(cpus) if self.workers is None else self.workers
        host = Host(claim, cpus, signals.watch, repeat_failed=not slurm, workers=workers)
        task = train_backbone if self.kind == "backbone" else execute
        return [(name, partial(self._do, name, task, host)) for name in self.ids]

    def _do(self, name: str, task: Callable[[RunConfig, Path, Host], None], host: Host) -> None:
        out = Path(self.out)
        try:
            config = self._config(name)
        except (ValueError, TypeError, KeyError, OSError) as error:  # no config of this version
            write_failure(out / "runs" / name, error, {})
            raise
        task(config, out, host)

    def _time(self, claim: Callable[[Path], Claim]) -> None:
        from studies.study import time_variants, timed_together, timing_dir

        configs = [self._config(name) for name in self.ids]
        for left_out in timed_together(configs, Path(self.out))[1]:
            print(f"not timed: {left_out}", file=sys.stderr)
        try:
            time_variants(configs, Path(self.out), claim=claim)
        except ClaimedElsewhere:
            raise
        except Exception as error:
            write_failure(timing_dir(configs, Path(self.out)), error, {})
            raise

    def _config(self, name: str) -> RunConfig:
        return read_config(Path(self.out) / "runs" / name / "config.json")


def _done(name: str, work: Callable[[], None], signals: Signals) -> bool:
    """Whether an item is done, here or elsewhere. Its failure stands in failure.json, unless even that cannot be
    written, and in the log."""
    from studies.training.trainer import Stopped

    while True:
        signals.obey()
        try:
            work()
            return True
        except Stopped as stopped:
            print(f"{name}: {stopped}", file=sys.stderr)
        except ClaimedElsewhere as elsewhere:
            print(elsewhere, file=sys.stderr)
            return True
        except Exception:
            traceback.print_exc()
            return False
        finally:
            signals.watch(None)


def _slurm_claim() -> Callable[[Path], Claim]:
    """Claims in the name of this job. Says for the batch script that Python, submitit and this package were found."""
    import submitit

    from studies.launch.squeue import is_gone

    environment = submitit.JobEnvironment()
    if environment.global_rank == 0:
        (environment.paths.folder / f"{environment.job_id}.started").touch()
    return partial(Claim, job_id=environment.job_id, is_gone=is_gone)


def _num_cpus() -> int:
    """CPUs of one process of this job."""
    from joblib import cpu_count  # those that affinity and cgroup allow

    return int(os.environ.get("SLURM_CPUS_PER_TASK") or cpu_count())
