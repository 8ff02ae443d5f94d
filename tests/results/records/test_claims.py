"""One writer per run: real processes racing for real files."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from results.records.claims import Claim, ClaimedElsewhere, holder

RACES = 150


def _race(run_dirs: list[Path], barrier: Barrier, wins: "multiprocessing.SimpleQueue[tuple[int, int]]") -> None:
    """For each run at the same moment: claim, tell, and hold until the other has tried."""
    for number, run_dir in enumerate(run_dirs):
        barrier.wait()
        try:
            with Claim(run_dir):
                wins.put((number, os.getpid()))
                barrier.wait()
        except ClaimedElsewhere:
            barrier.wait()


def _winners(run_dirs: list[Path], num_processes: int = 3) -> list[int]:
    """How many processes won each run."""
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(num_processes), context.SimpleQueue()
    processes = [context.Process(target=_race, args=(run_dirs, barrier, wins)) for _ in range(num_processes)]
    for process in processes:
        process.start()
    counts = [0] * len(run_dirs)
    while any(process.is_alive() for process in processes) or not wins.empty():
        while not wins.empty():
            counts[wins.get()[0]] += 1
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0] * num_processes
    return counts


def _dead_claim(run_dir: Path) -> None:
    """The claim of a process that was killed: a real one, made by a real process that exits without letting go."""
    code = (
        "import os, sys, pathlib; from results.records.claims import Claim; "
        "Claim(pathlib.Path(sys.argv[1])).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run_dir)]).returncode == 9
    assert (run_dir / "claim.json").exists()


def _elsewhere(run_dir: Path, job_id: str | None = None, age_s: float = 0.0) -> None:
    """The claim of a process on another machine."""
    claim = run_dir / "claim.json"
    claim.write_text(json.dumps({"host": "node7", "pid": 1, "start": 5, "place": "node7 x y", "job_id": job_id}))
    os.utime(claim, (time.time() - age_s,) * 2)


def test_exactly_one_of_several_processes_wins_a_free_run(tmp_path: Path) -> None:
    run_dirs = [tmp_path / f"run{i}" for i in range(RACES)]
    for run_dir in run_dirs:
        run_dir.mkdir()
    assert _winners(run_dirs) == [1] * RACES
    assert [os.listdir(run_dir) for run_dir in run_dirs] == [[]] * RACES  # all let go


def test_exactly_one_of_several_processes_takes_a_stale_claim_over(tmp_path: Path) -> None:
    run_dirs = [tmp_path / f"run{i}" for i in range(RACES)]
    run_dirs[0].mkdir()
    _dead_claim(run_dirs[0])
    for run_dir in run_dirs[1:]:
        run_dir.mkdir()
        (run_dir / "claim.json").write_bytes((run_dirs[0] / "claim.json").read_bytes())
    assert _winners(run_dirs) == [1] * RACES


def test_a_slow_taker_cannot_take_the_fast_takers_claim(tmp_path: Path) -> None:
    # While the slow taker judges the claim stale, the fast one takes over: the slow one must fail, not replace it.
    _elsewhere(tmp_path, job_id="77")
    fast = Claim(tmp_path, is_gone=lambda _: True)

    def gone_and_taken(_: str) -> bool:
        fast.__enter__()
        return True

    with pytest.raises(ClaimedElsewhere, match=f"claimed just now by .*process {os.getpid()}"):
        Claim(tmp_path, is_gone=gone_and_taken).__enter__()
    assert fast.held()
    fast.__exit__()


def test_a_second_claim_names_the_holder(tmp_path: Path) -> None:
    with Claim(tmp_path, job_id="123_4") as claim:
        assert claim.held()
        with pytest.raises(ClaimedElsewhere, match=f"process {os.getpid()}, job 123_4"):
            Claim(tmp_path, job_id="5").__enter__()
        assert holder(tmp_path) is not None
    assert holder(tmp_path) is None and os.listdir(tmp_path) == []


def test_claim_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="NaN"), Claim(tmp_path):
        raise RuntimeError("NaN loss")
    assert os.listdir(tmp_path) == []


def test_another_machine_counts_by_its_heartbeat(tmp_path: Path) -> None:
    _elsewhere(tmp_path, age_s=110)
    with pytest.raises(ClaimedElsewhere, match="node7"):
        Claim(tmp_path).__enter__()
    _elsewhere(tmp_path, age_s=130)
    with Claim(tmp_path) as claim:
        assert claim.held() and sorted(os.listdir(tmp_path)) == ["claim-1.json", "claim.json"]
    assert os.listdir(tmp_path) == ["claim.json"]  # another's file is never removed


def test_the_queue_knows_better_than_the_heartbeat(tmp_path: Path) -> None:
    _elsewhere(tmp_path, job_id="77", age_s=1000)
    assert holder(tmp_path, is_gone=lambda job_id: job_id != "77") is not None
    _elsewhere(tmp_path, job_id="77", age_s=0)
    assert holder(tmp_path, is_gone=lambda job_id: job_id == "77") is None
    assert holder(tmp_path, is_gone=lambda job_id: None) is not None  # unknown: the heartbeat is fresh


def test_a_requeued_job_takes_over_from_its_own_earlier_life(tmp_path: Path) -> None:
    _elsewhere(tmp_path, job_id="77")
    with pytest.raises(ClaimedElsewhere):
        Claim(tmp_path, job_id="78").__enter__()
    with Claim(tmp_path, job_id="77") as claim:
        assert claim.held()


def test_a_process_id_that_was_given_to_another_process_is_gone(tmp_path: Path) -> None:
    with Claim(tmp_path):
        content = json.loads((tmp_path / "claim.json").read_text())
    (tmp_path / "claim.json").write_text(json.dumps(content | {"start": content["start"] - 1}))
    assert holder(tmp_path) is None
    (tmp_path / "claim.json").write_text(json.dumps(content))
    assert holder(tmp_path) is not None


def test_a_claim_killed_while_being_created_becomes_stale(tmp_path: Path) -> None:
    (tmp_path / "claim.json").touch()
    assert holder(tmp_path) is not None
    os.utime(tmp_path / "claim.json", (0, 0))
    assert holder(tmp_path) is None


def test_the_heart_beats(tmp_path: Path) -> None:
    with Claim(tmp_path, stale_after_s=0.3):
        os.utime(tmp_path / "claim.json", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "claim.json").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "claim.json").stat().st_mtime > 0


def test_who_was_thought_dead_notices_and_leaves_the_new_claim_alone(tmp_path: Path) -> None:
    with Claim(tmp_path) as first:
        content = json.loads((tmp_path / "claim.json").read_text())
        (tmp_path / "claim.json").write_text(json.dumps(content | {"place": "node7"}))  # as another machine sees it
        os.utime(tmp_path / "claim.json", (0, 0))
        with Claim(tmp_path) as second:
            assert second.held() and not first.held()
            first.__exit__()
            assert second.held()
            with pytest.raises(ClaimedElsewhere):
                Claim(tmp_path).__enter__()


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    left, kept = tmp_path / ".model.safetensors.0a1b.tmp", tmp_path / "model.safetensors"
    left.write_bytes(b"half")
    kept.write_bytes(b"whole")
    with Claim(tmp_path):
        assert not left.exists() and kept.read_bytes() == b"whole"
