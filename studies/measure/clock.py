"""Clock, memory and name of one device."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["device_name", "peak_memory_mib", "seconds"]


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


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(model: nn.Module, images: Tensor) -> float | None:
    """What `model` would take alone: its weights, the images, and the most that a pass adds. None on a CPU, where
    PyTorch keeps no account and the peak of the process belongs to all variants together."""
    if images.device.type != "cuda":
        return None
    synchronize(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    before = torch.cuda.memory_allocated(images.device)
    model(images)
    synchronize(images.device)
    held = {x.data_ptr(): x.nbytes for x in (*model.parameters(), *model.buffers())}
    added = torch.cuda.max_memory_allocated(images.device) - before
    return (added + sum(held.values()) + images.nbytes) / 2**20


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's model name where Linux tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
