"""Signals to a job: the run at hand stops with its exact state saved; then the job is requeued, goes on, or ends.

Slurm sends USR2 before the time limit and at preemption: the job is requeued, by submitit. It sends TERM at scancel,
and at preemption, sometimes before a USR2 and sometimes alone (then Slurm requeues by itself): the state is saved, and
training goes on until somebody ends it. Here, TERM ends the job.
"""

from __future__ import annotations

import signal
import time
from typing import Any

__all__ = ["Signals"]

GRACE_S = 20  # for the step at hand; then the last periodic state must do. Less than sbatch's --signal gives
END_S = 60.0  # Slurm ends a job 30 s (KillWait) behind TERM


class Signals:
    """Takes over the handlers of this process."""

    def __init__(self, slurm: bool):
        self.asked: str = ""  # requeue, save, end
        self._slurm = slurm
        self._trainer: Any = None
        self._requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's: checkpoint(), scontrol requeue, exit
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGALRM, self._on_alarm)
        if slurm:
            signal.signal(signal.SIGUSR2, self._on_usr2)

    def watch(self, trainer: Any) -> None:
        """The trainer that a signal stops from now on; None: there is nothing to save."""
        self._trainer = trainer
        if self.asked and trainer is not None:
            trainer.stop()

    def obey(self) -> None:
        """To be called between runs and behind Stopped: leaves the process, or returns when the work may go on."""
        until = time.monotonic() + END_S
        while self.asked == "save" and time.monotonic() < until:
            time.sleep(0.2)
        if self.asked == "save":
            self.asked = ""
        elif self.asked:
            self._leave()

    def _leave(self) -> None:
        if self.asked == "end":
            raise KeyboardInterrupt
        signal.alarm(0)
        self._requeue(signal.SIGUSR2, None)  # does not return in the first process of the job
        time.sleep(END_S)  # the others wait for their end, which the first one has asked for

    def _on_usr2(self, *_: Any) -> None:
        self._stop("requeue")

    def _on_term(self, *_: Any) -> None:
        if self.asked != "requeue":
            self._stop("save" if self._slurm else "end")

    def _on_alarm(self, *_: Any) -> None:
        if self.asked in ("requeue", "end"):
            self._leave()

    def _stop(self, asked: str) -> None:
        if self.asked == asked:
            return
        self.asked = asked
        if self._trainer is None:
            self._on_alarm()
        else:
            self._trainer.stop()
            signal.alarm(GRACE_S)
