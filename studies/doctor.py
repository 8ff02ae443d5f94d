"""Can a study run here? Packages, devices, attention kernels, data, disk, git and Slurm, for `cropr-study doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "examine", "healthy"]

State = Literal["ok", "note", "failed"]  # a note does not keep a study from running
MIN_FREE_GB = 0.5  # the default study keeps 18 models of 3 MB for each seed
SLURM_TIMEOUT_S = 5


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    state: State
    detail: str


def healthy(findings: list[Finding]) -> bool:
    """Whether a study can run."""
    return all(finding.state != "failed" for finding in findings)


def examine(out: Path) -> list[Finding]:
    """All there is to say; `out` is where records shall go. Takes a few seconds, most of them for imports."""
    looks: list[Callable[[], list[Finding]]] = [
        lambda: [_python()], _packages, _devices, _kernels, lambda: [_data()], lambda: [_writable(out)],
        lambda: [_disk(out)], lambda: [_git()], lambda: [_slurm()],
    ]  # fmt: skip
    findings = []
    for look in looks:
        findings += look()
        if not healthy(findings) and look is _packages:
            break  # what follows needs them
    return findings


def _python() -> Finding:
    return Finding("python", "ok", sys.version.split()[0])


def _packages(project: str = "cropr-study") -> list[Finding]:
    """The project's own requirements, as they were installed with it, against what is there."""
    from packaging.requirements import Requirement

    try:
        required = metadata.requires(project) or []
    except metadata.PackageNotFoundError:
        return [Finding("packages", "failed", f"{project} is not installed; pip install -e .")]
    found = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(Finding(requirement.name, "failed", f"not installed; {requirement} is needed"))
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        found.append(Finding(requirement.name, "ok" if fits else "failed", f"{version} ({requirement.specifier})"))
    return found


def _devices() -> list[Finding]:
    import torch
    from joblib import cpu_count

    from studies.measure.clock import device_name

    cpu = (
        f"{device_name('cpu')}; {os.cpu_count()} cores, {cpu_count()} of them usable, {torch.get_num_threads()} threads"
    )
    found = [Finding("cpu", "ok", cpu)]
    if not torch.cuda.is_available():
        return [*found, Finding("gpu", "note", "torch finds none; studies run on the CPU")]
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        found.append(Finding(f"gpu {i}", "ok", f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB"))
    return found


def _kernels() -> list[Finding]:
    """Which kernel attention takes, also with the float mask of proportional attention."""
    import torch

    from studies.measure.sdpa import sdpa_backend

    found = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        dtypes = ("float32", "bfloat16", "float16") if device == "cuda" else ("float32", "bfloat16")
        kernels = [
            f"{dtype} {sdpa_backend(device, getattr(torch, dtype), False)}, "
            f"masked {sdpa_backend(device, getattr(torch, dtype), True)}"
            for dtype in dtypes
        ]
        found.append(Finding(f"attention on {device}", "ok", "; ".join(kernels)))
    return found


def _data() -> Finding:
    """The embedded data against the fingerprint that they have with the versions in constraints.txt."""
    from studies.data.sets.scenes import TESTED_FINGERPRINT, Scenes

    own = Scenes().fingerprint
    if own == TESTED_FINGERPRINT:
        return Finding("scenes", "ok", f"fingerprint {own[:12]}, the tested one")
    return Finding(
        "scenes", "note",
        f"fingerprint {own[:12]}, tested is {TESTED_FINGERPRINT[:12]}: these packages make other scenes, and figures "
        "are not to be compared with those of the README",
    )  # fmt: skip


def _writable(out: Path) -> Finding:
    """Nothing is left behind: the directory itself is made when a study starts."""
    folder = _existing(out)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("records", "failed", f"cannot write to {out}: {error.strerror or error}")
    return Finding("records", "ok", f"{out} can be written" + ("" if folder == out else " (it will be made)"))


def _disk(out: Path) -> Finding:
    try:
        free = shutil.disk_usage(_existing(out)).free / 1e9
    except OSError as error:
        return Finding("disk", "failed", f"{out}: {error.strerror or error}")
    return Finding("disk", "ok" if free >= MIN_FREE_GB else "failed", f"{free:.1f} GB free, {MIN_FREE_GB} GB needed")


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(
        folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder)
    )  # False where it is closed


def _git() -> Finding:
    from studies.runs.provenance import commit

    if shutil.which("git") is None:
        return Finding("git", "note", "not installed: records do not name the commit")
    if found := commit():
        return Finding("git", "ok", f"commit {found[:10]}")
    return Finding("git", "note", "the code is not in a git checkout: records do not name the commit")


def _slurm() -> Finding:
    if shutil.which("sinfo") is None:
        return Finding("slurm", "note", "not installed; studies run here")
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%P %a %D"],
            capture_output=True, text=True, timeout=SLURM_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding("slurm", "note", f"sinfo does not answer within {SLURM_TIMEOUT_S} s")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Finding("slurm", "note", f"does not answer: {said[-1]}")
    partitions = [line.split() for line in done.stdout.splitlines() if line.strip()]
    return Finding("slurm", "ok", ", ".join(f"{name} {state} ({nodes} nodes)" for name, state, nodes in partitions))
