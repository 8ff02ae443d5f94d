"""Progress without a terminal."""

import re

from command_line import TINY, study
from synthetic_records import run_record

from results.records.store import write_json
from studies.launch.lines import Lines

RECORD = run_record("a", "cropr", 0.5, 2, 0.9125, 10) | {"train_seconds": 41.6}


def test_a_line_for_each_run_that_ends_and_one_a_minute(tmp_path):
    said, now = [], 0.0
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    write_json(folders[0] / "result.json", RECORD)
    lines = Lines(folders, said.append, lambda: now)
    for second in range(200):
        now = float(second)
        lines("backbone", second // 10, 40, "epochs")
    assert said == [
        "backbone: 40 epochs to go", "backbone: epoch 6 of 40, about 6 min left",
        "backbone: epoch 12 of 40, about 5 min left", "backbone: epoch 18 of 40, about 4 min left",
    ]  # fmt: skip
    said.clear()
    lines("runs", 3, 9, "1/3 runs")
    write_json(folders[2] / "result.json", RECORD)
    lines("runs", 5, 9, "2/3 runs")
    write_json(folders[1] / "result.json", run_record("b", "evit", 0.1, 0, 0.0, 10) | {"status": "unreachable"})
    lines("runs", 9, 9, "3/3 runs")
    lines("runs", 9, 9, "3/3 runs")
    assert said == [
        "runs: 6 epochs to go", "runs: 1 of 2: cropr@0.5, seed 2: top-1 91.2 %, trained for 42 s",
        "runs: 2 of 2: evit@0.1, seed 0: unreachable",
    ]  # fmt: skip


def test_a_command_that_is_piped_says_what_it_does(tmp_path):
    done = study("run", "--reducers", "none,random", "--quick", *TINY, "--out", tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("runs: ") and "about" not in line]
    assert len(said) == 3  # and a line each minute, on a busy machine
    assert re.search(r"^runs: 2 of 2: \S+, seed 0: top-1 [\d.]+ %, trained for \d+ s$", done.stderr, re.M), done.stderr
    assert "backbone: 3 epochs to go" in done.stderr and "speed:" in done.stderr
