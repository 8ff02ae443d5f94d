"""What goes wrong in the middle of a study, through the command line: real training that diverges, a disk that is full.

The disk is a small file system of its own, which needs root.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from results.records.store import run_status

ROOT = Path(__file__).parents[3]
ROOM_MIB = 64


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def study(out, reducers):
    """A study in which what reducers learn has a learning rate far too large: that of the dense model is sound."""
    settings = ("epochs=1", "batch_size=449", "reducer_lr=1e25")
    command = [sys.executable, "-m", "cli", "run", "--quick", "--reducers", reducers, "--out", str(out)]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


def only(out, reducer):
    (folder,) = out.glob(f"runs/{reducer}-*")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def diverged(disk):
    """The study after its first command, which ran the dense model and one that diverges."""
    return disk / "out", study(disk / "out", "none,cropr")


def test_a_run_that_diverges_leaves_its_config_and_the_others_go_on(diverged):
    out, done = diverged
    assert done.returncode == 1, done.stderr
    assert "1 of 2 runs failed" in done.stderr
    failure = json.loads((only(out, "cropr") / "failure.json").read_text())
    assert failure["type"] == "Diverged" and "the loss became nan in epoch 1" in failure["message"]
    assert failure["config"]["reducer"] == "cropr" and failure["config"]["recipe"]["reducer_lr"] == 1e25
    assert not (only(out, "cropr") / "last.safetensors").exists()  # there was no good state yet
    assert run_status(only(out, "none")).state == "done"
    assert "Diverged" in (out / "report" / "table.md").read_text()


def test_a_full_disk_is_named_and_nothing_finished_is_lost(diverged):
    out, _ = diverged
    before = content(only(out, "none"))
    filler = out.parent / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(out.parent).free - 2**17))  # 128 KiB stay: no room for weights
    full = study(out, "none,random")
    assert full.returncode == 1 and "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert run_status(only(out, "random")).state == "failed"
    assert content(only(out, "none")) == before
    assert not list(out.rglob(".*.tmp"))
    filler.unlink()
    again = study(out, "none,random")
    assert again.returncode == 0, again.stderr
    assert run_status(only(out, "random")).state == "done"
    assert content(only(out, "none")) == before
