"""The largest memory of one run, in a process that works off many.

On the CPU it is that of the process (interpreter and libraries included) since a run began: Linux's own high-water
mark, which can be set back. Where it cannot, there is no figure: that of an earlier, larger run would be a wrong one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch

__all__ = ["PeakMemory"]


class PeakMemory:
    """Of what goes on from here, after giving back what is not used any more. `process`: its folder in /proc."""

    def __init__(self, device: str, process: Path = Path("/proc/self")):
        self.device, self.process, self.is_known = device, process, True
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(AttributeError, OSError):  # another C library: what it holds back counts for this run
            ctypes.CDLL(None).malloc_trim(0)
        try:
            (process / "clear_refs").write_text("5")
        except OSError:
            self.is_known = False

    def mib(self) -> float | None:
        """Largest memory since then: of the GPU's allocator, or resident of this process; None: unknown."""
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated() / 2**20
        found = re.search(r"VmHWM:\s+(\d+) kB", (self.process / "status").read_text()) if self.is_known else None
        return int(found[1]) / 1024 if found else None
