"""What `doctor` finds here, and that it finds what is wrong."""

import json
import sys
import time
from pathlib import Path

import pytest
from command_line import study

from studies.data.sets.scenes import TESTED_FINGERPRINT, Scenes
from studies.doctor import Finding, _packages, examine, healthy


def test_a_study_can_run_here(tmp_path):
    start = time.monotonic()
    done = study("doctor", "--out", tmp_path / "new", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"] and time.monotonic() - start < 60
    states = {finding["name"]: finding["state"] for finding in found["findings"]}
    assert {"torch", "timm", "cpu", "attention on cpu", "scenes", "records", "disk", "git", "slurm"} <= set(states)
    assert set(states.values()) <= {"ok", "note"}
    assert not list(tmp_path.iterdir())  # looking leaves nothing behind


def test_what_is_only_missed_is_a_note(tmp_path):
    done = study("doctor", "--out", tmp_path, PATH=str(tmp_path))  # neither git nor sinfo
    assert done.returncode == 0
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert lines["git"].startswith("note") and lines["slurm"].startswith("note")


def test_a_place_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("")
    done = study("doctor", "--out", tmp_path / "file" / "out")
    assert done.returncode == 1 and "cannot write" in done.stdout


@pytest.fixture
def strange_project(tmp_path):
    """An installed project that needs what is too old, what is not there, and what is there."""
    info = tmp_path / "strange-1.dist-info"
    info.mkdir()
    needs = ["numpy>=99", "surely-not-there>=1", "torch>=2.7", "nothing-either; extra == 'test'"]
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: strange\nVersion: 1\n{requires}")
    sys.path.insert(0, str(tmp_path))
    yield "strange"
    sys.path.remove(str(tmp_path))


def test_packages_are_compared_with_their_bounds(strange_project):
    states = {finding.name: finding.state for finding in _packages(strange_project)}
    assert states == {"numpy": "failed", "surely-not-there": "failed", "torch": "ok"}
    assert [finding.state for finding in _packages("surely-not-there")] == ["failed"]


def test_healthy():
    assert healthy([Finding("a", "ok", ""), Finding("b", "note", "")])
    assert not healthy([Finding("a", "ok", ""), Finding("b", "failed", "")])
    assert all(finding.detail for finding in examine(Path("out")))


def test_the_scenes_are_the_tested_ones():
    assert Scenes().fingerprint == TESTED_FINGERPRINT
