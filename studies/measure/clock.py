"""Clock, memory, energy and name of one device, and what else goes on beside it."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from contextlib import suppress
from itertools import accumulate
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

__all__ = [
    "EnergyCounter",
    "NoCounter",
    "OtherLoad",
    "device_name",
    "mark",
    "peak_memory_mib",
    "seconds",
    "seconds_between",
]

STAT = Path("/proc/stat")
NVML = "libnvidia-ml.so.1"  # comes with the driver


def seconds(model: nn.Module, images: Tensor, repeats: int, wait: bool = False) -> float:
    """Mean seconds per pass. `wait` for each to end (latency), or let the device queue them (throughput)."""
    synchronize(images.device)
    start = time.perf_counter()
    for _ in range(repeats):
        model(images)
        if wait:
            synchronize(images.device)
    synchronize(images.device)
    return (time.perf_counter() - start) / repeats


def mark(device: torch.device) -> Any:
    """This moment, as the device sees it: what is queued before it on a GPU is over by then."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begun: Any, ended: Any) -> float:
    """Of two marks, behind a synchronization."""
    return ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1e3


class OtherLoad:
    """What other processes take of the CPUs that this one may use, from here to `cores`."""

    def __init__(self) -> None:
        self.began, self.busy_s, self.own_s = time.perf_counter(), busy_seconds(), own_seconds()

    def cores(self) -> float | None:
        """Cores that others kept busy on average; None where Linux does not tell."""
        busy_s, own = busy_seconds(), own_seconds() - self.own_s
        if busy_s is None or self.busy_s is None:
            return None
        busy = busy_s - self.busy_s
        if busy < own / 2:  # a sandbox whose counters stand still
            return None
        return max(0.0, busy - own) / (time.perf_counter() - self.began)


def busy_seconds() -> float | None:
    """CPU time, of all processes, that went by on the CPUs that this one may use."""
    if not STAT.exists():
        return None
    mine = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    rows = [line.split() for line in STAT.read_text().splitlines()]
    ticks = [list(map(int, row[1:9])) for row in rows if row[0] in mine]  # user, nice, system, idle, iowait, ...
    if not ticks:
        return None
    return sum(sum(row) - sum(row[3:5]) for row in ticks) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU time of this process, of those that it started and that are over, and of those that still work for it."""
    times, working = os.times(), [Path(f"/proc/{process.pid}/stat") for process in active_children()]
    ticks = 0
    for stat in working:
        with suppress(OSError):  # it has ended just now
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))  # user, system
    own = times.user + times.system + times.children_user + times.children_system
    return own + ticks / os.sysconf("SC_CLK_TCK")


class NoCounter(Exception):
    """Energy cannot be read, and why."""


class EnergyCounter:
    """What a GPU has taken in all since its driver was loaded, as NVML counts it (Volta and newer). Called by ctypes:
    three functions need no package. Raises NoCounter with the reason."""

    def __init__(self, device: torch.device):
        try:
            self._nvml = ctypes.CDLL(NVML)
        except OSError as error:
            raise NoCounter(f"NVML cannot be loaded: {error}") from None
        self._nvml.nvmlErrorString.restype = ctypes.c_char_p
        self._device = ctypes.c_void_p()
        # Not by number: CUDA_VISIBLE_DEVICES counts anew, and NVML does not heed it.
        uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", f"GPU-{uuid}".encode(), ctypes.byref(self._device))
        self._read()

    def millijoules(self) -> int | None:
        """None where it cannot be read now."""
        with suppress(NoCounter):
            return self._read()
        return None

    def _read(self) -> int:
        found = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(found))
        return found.value

    def _call(self, name: str, *args: Any) -> None:
        if code := getattr(self._nvml, name)(*args):
            raise NoCounter(f"{name}: {self._nvml.nvmlErrorString(code).decode()}")


def energy_of(device: torch.device) -> tuple[EnergyCounter | None, dict[str, Any]]:
    """The counter of a GPU, and what a record says of it: nothing of a CPU."""
    if device.type != "cuda":
        return None, {}
    try:
        return EnergyCounter(device), {"energy": {"measured": True}}
    except NoCounter as error:
        return None, {"energy": {"measured": False, "why": str(error)}}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(model: nn.Module, images: Tensor) -> float:
    """What `model` would take alone: its weights, the images, and the most that a pass adds, as PyTorch's allocators of
    the device count it (what libraries take for themselves is not in it)."""
    held = {x.data_ptr(): x.nbytes for x in (*model.parameters(), *model.buffers())}
    added = added_on_gpu(model, images) if images.device.type == "cuda" else added_on_cpu(model, images)
    return (added + sum(held.values()) + images.nbytes) / 2**20


def added_on_gpu(model: nn.Module, images: Tensor) -> int:
    """The most bytes that a pass holds at once."""
    synchronize(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    before = torch.cuda.memory_allocated(images.device)
    model(images)
    synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device) - before


def added_on_cpu(model: nn.Module, images: Tensor) -> int:
    """The same, from the profiler's record of every allocation: the CPU's allocator keeps no account of its own."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at its first use; it writes notices to stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(images)
    recorded = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes), default=0)


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's model name where Linux tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
