"""Processes that decode: how many, what they are told, and what they heed.

Slurm sends its signals to every process of a job, and a terminal to all in front of it. What is to be done is for the
process to say that trains: its workers heed the SIGTERM that comes from it, and no other signal that can be blocked.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import active_children, resource_tracker
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

__all__ = ["Workers", "num_workers"]

MOST = 16  # of a run: at 130 images/s each they feed a GPU, and more of them only take memory
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}


def num_workers(cpus: int, computing: int = 1) -> int:
    """Workers of a process that computes on `computing` of the `cpus` that are its own: one for each of the others."""
    return max(0, min(cpus - computing, MOST))


class Workers:
    """`num` processes that decode `items`; they live on from epoch to epoch. `collate` makes a batch of a list of
    items."""

    def __init__(self, items: Dataset, collate: Callable[[list[Any]], Any], num: int):
        self._order, self._started = _Order(), False
        self._loader = DataLoader(
            items,
            batch_sampler=self._order,
            num_workers=num,
            collate_fn=collate,
            multiprocessing_context="spawn",  # safe beside threads and CUDA
            persistent_workers=True,
            worker_init_fn=_heed_parent_only,
            generator=torch.Generator(),  # else it would draw from the one that training draws from
        )

    def batches(self, keys: list[list[Any]]) -> Iterator[Any]:
        """What `collate` makes of the items of each list of `keys`, in their order."""
        self._order.keys = keys
        if self._started:
            return iter(self._loader)
        self._started = True
        # What is blocked here is blocked in them from their first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            resource_tracker.ensure_running()  # a process of multiprocessing's; its start unblocks SIGINT and SIGTERM
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            found = iter(self._loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        atexit.register(_end_all)  # behind torch's own, and so before it: that waits for seconds first
        return found


class _Order:
    """The batches of the epoch at hand; which epoch it is comes with every key."""

    keys: list[list[Any]] = []

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _heed_parent_only(number: int) -> None:
    """In a worker, where SIGNALS are blocked: ends it at SIGTERM from the process that started it."""
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    Thread(target=wait, daemon=True).start()


def _end_all() -> None:
    for process in active_children():
        process.terminate()
