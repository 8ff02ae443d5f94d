"""A real Slurm on this machine, for tests: tests/slurm/cluster.sh starts and stops it."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studies.models.backbones import create_backbone

SCRIPT = Path(__file__).parent / "slurm" / "cluster.sh"
TIMEOUT_S = 900


class Cluster:
    """One host, nodes n1 and n2, partitions debug, low and high (evicts low)."""

    def __init__(self, accounting: bool):
        self.accounting = accounting
        self.folder = Path(tempfile.mkdtemp(prefix="cluster", dir="/tmp"))
        self.folder.chmod(0o755)
        self.environment = {
            "CLUSTER_DIR": str(self.folder / "c"),
            "CLUSTER_PORT": str(_free_ports()),
            "CLUSTER_ACCOUNTING": "yes" if accounting else "no",
        }
        self.directories = 0

    @classmethod
    @contextlib.contextmanager
    def running(cls, accounting: bool) -> Iterator["Cluster"]:
        """One that is up, and that commands and jobs of this process find; down and gone behind it."""
        cluster = cls(accounting)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(cluster.folder / "c" / "slurm.conf"))
            patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # the jobs': sbatch takes it along
            try:
                cluster.script("up")
                yield cluster
            finally:
                cluster.script("down")
                shutil.rmtree(cluster.folder)

    def script(self, *args: str) -> None:
        log = self.folder / "cluster.log"  # no pipe: the daemons would hold it open
        with open(log, "w") as file:
            done = subprocess.run(
                [SCRIPT, *args],
                env=os.environ | self.environment,
                stdout=file,
                stderr=file,
                timeout=TIMEOUT_S,
                check=False,
            )
        if done.returncode:
            pytest.fail(f"cluster.sh {' '.join(args)}:\n{log.read_text()}", pytrace=False)

    def call(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def daemon(self, name: str) -> int:
        return int((self.folder / "c" / "run" / f"{name}.pid").read_text())

    def processes(self, job: str) -> list[int]:
        """The Python processes of a running job."""
        task = self.call("squeue", "-h", "-o", "%A", "-j", job)
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if b"submitit.core._submit" in _read(folder / "cmdline")
            and f"\0SLURM_JOB_ID={task}\0".encode() in b"\0" + _read(folder / "environ")
        ]

    def node_dies(self, node: str) -> None:
        """slurmd, its step daemons and their jobs end without a word. `script("start", node)` brings it back."""
        tasks = self.call("squeue", "-h", "-o", "%A", "-w", node).split()
        kill(self.daemon(node))
        for folder in Path("/proc").glob("[0-9]*"):
            title, environment = _read(folder / "cmdline"), b"\0" + _read(folder / "environ")
            for task in tasks:
                step = title.startswith(f"slurmstepd: [{task}.".encode())
                if step or f"\0SLURM_JOB_ID={task}\0".encode() in environment:
                    kill(int(folder.name))

    def directory(self) -> Path:
        self.directories += 1
        return self.folder / f"study{self.directories}"

    def random_backbone(self) -> str:
        """For `--backbone`: random weights, so that nothing has to be trained before the runs."""
        path = self.folder / "scenes_vit.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            save_file(create_backbone("scenes_vit", num_classes=10, pretrained=False).state_dict(), path)
        return f"scenes_vit={path}"


def _free_ports() -> int:
    """The first of 120 ports that are free, below those that Linux gives to connections (32768 and up)."""
    while True:
        base = random.randrange(20000, 32600, 120)
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for port in range(base, base + 120):
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile
        return b""


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.3)
