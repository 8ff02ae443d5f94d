"""The largest memory of one run, in a process that works off many.

On the CPU it is that of the process (interpreter and libraries included) since `reset_peak`: Linux's own high-water
mark, which can be set back. Where it cannot, there is no figure: that of an earlier, larger run would be a wrong one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch

__all__ = ["peak_mib", "reset_peak"]

PROCESS = Path("/proc/self")
_is_reset = False


def reset_peak(device: str) -> None:
    """Begin anew, after giving back what is not used any more."""
    global _is_reset
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library: what it holds back counts for this run
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text("5")
        _is_reset = True
    except OSError:
        _is_reset = False


def peak_mib(device: str) -> float | None:
    """Largest memory since `reset_peak`, MiB: of the GPU's allocator, or resident of this process; None: unknown."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    found = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text()) if _is_reset else None
    return int(found[1]) / 1024 if found else None
