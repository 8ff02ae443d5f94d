"""Where a record comes from: code, packages, machine, arithmetic."""

from __future__ import annotations

import hashlib
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["commit", "now", "provenance", "weight_digest"]

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors")


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(device: str, *, dtype: str, seeds: dict[str, int], fingerprint: str, started: str) -> dict[str, Any]:
    """The provenance part of a record."""
    import torch

    from studies.measure.clock import device_name

    return {
        "commit": commit() or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": device,
        "device_name": device_name(device),
        "dtype": dtype,
        "num_threads": torch.get_num_threads(),
        "sdpa_backend": sdpa_backend(device, dtype),
        "data_fingerprint": fingerprint,
        "seeds": seeds,
        "started": started,
        "finished": now(),
        "host": socket.gethostname(),
    }


def commit() -> str:
    """Of the project's own checkout; empty where it is none, or git is missing."""
    return _git("rev-parse", "HEAD")


def sdpa_backend(device: str, dtype: str) -> str:
    """The kernel that scaled_dot_product_attention takes for an unmasked call."""
    import torch

    from studies.measure.sdpa import sdpa_backend as backend

    return backend(device, getattr(torch, dtype), masked=False)


def _git(*args: str) -> str:
    """What git says of the project's own checkout, or nothing."""
    root = Path(__file__).parent
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def weight_digest(model: nn.Module) -> str:
    """sha256 over all weights, to compare two runs bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
