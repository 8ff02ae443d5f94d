"""Files that other hands wrote: every command gives one line that names the file, and never a traceback."""

import json
import os

import numpy as np
import pytest
import synthetic_records
from typer.testing import CliRunner

from cli import app
from results.records.frames import run_frame, speed_frame
from results.records.store import append_line, load_records
from results.statistics.analysis import analyse
from results.statistics.findings import Evidence, assess
from results.statistics.health import CHECKS
from studies.commands.run import Options, configs_of

DEEP = b"[" * 100_000 + b"]" * 100_000
CONTENTS = {
    "empty": b"",
    "list": b"[1, 2]",
    "null": b"null",
    "text": b'"text"',
    "number": b"7",
    "nothing": b"{}",
    "cut off": b'{"schema": 1, "sta',
    "deep": DEEP,
    "deep inside": b'{"schema": 1, "metrics": ' + DEEP + b"}",
    "UTF-16": '{"schema": "ü"}'.encode("utf-16"),
    "Latin-1": '{"schema": "ü"}'.encode("latin-1"),
    "newer": b'{"schema": 2}',
    "schema of text": b'{"schema": "1"}',
    "lists for objects": json.dumps(
        {key: [1] for key in ("schema", "metrics", "provenance", "variants", "config", "epoch", "items", "recipe")}
    ).encode(),
    "null for objects": json.dumps(dict.fromkeys(("metrics", "provenance", "variants", "items", "recipe"))).encode(),
    "endless numbers": b'{"schema": 1, "seed": 1' + b"0" * 5000 + b"}",
    "surrogate": b'{"schema": 1, "message": "\\udcff", "variant": "\\ud800", "host": "\\udcff", "pid": 1}',
}
ODD = ("directory", "link to itself", "pipe", "no permission")


@pytest.fixture
def out(tmp_path):
    """A study with a finished run of two variants, a timing, one failed run, a claimed one and a submission."""
    out = tmp_path / "study"
    synthetic_records.write_study(out, methods=("none", "cropr"), budgets=(0.5,), num_items=40)
    config = configs_of(Options(reducers="random", budgets="0.5", out=out))[0]
    failed, claimed = out / "runs" / config.id, out / "runs" / "claimed"
    for folder in (failed, claimed):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (failed / "failure.json").write_text(json.dumps({"schema": 1, "type": "ValueError", "message": "no", "config": {}}))
    (claimed / "claim.json").write_text(json.dumps({"host": "there", "pid": 1, "start": None, "place": "x"}))
    append_line(claimed / "log.jsonl", {"epoch": 1, "epochs": 2, "train_loss": 1.0, "train_seconds": 1.0})
    (out / "slurm").mkdir()
    append_line(out / "slurm" / "submissions.jsonl", {
        "time": "t", "kind": "runs", "folder": "slurm/x", "items": {"1_0": [f"runs/{config.id}"]}, "resources": {},
        "host": "h", "user": os.getuid(),
    })  # fmt: skip
    return out


FILES = (
    "study.json", "runs/cropr-0.5-s0/result.json", "runs/cropr-0.5-s0/predictions.npz", "runs/random-*/failure.json",
    "runs/random-*/config.json", "runs/claimed/claim.json", "runs/claimed/log.jsonl", "speed/cpu-b64/result.json",
    "slurm/submissions.jsonl",
)  # fmt: skip


def replaced(path, content):
    if content in CONTENTS:
        path.write_bytes(CONTENTS[content] + (b"\n" if path.suffix == ".jsonl" else b""))
        return
    path.unlink()
    if content == "directory":
        path.mkdir()
    elif content == "link to itself":
        path.symlink_to(path.name)
    elif content == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("{}")
        path.chmod(0)


def said(*args):
    """Exit code and text of a command; a traceback is raised."""
    done = CliRunner().invoke(app, [*map(str, args)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2), done.output
    return done.exit_code, done.output


@pytest.mark.parametrize("content", [*CONTENTS, *ODD])
@pytest.mark.parametrize("file", FILES)
def test_status_logs_retry_and_cancel(out, file, content):
    (path,) = out.glob(file)
    failed = next(out.glob("runs/random-*"))
    replaced(path, content)
    for command in (("status", out), ("status", out, "--json"), ("logs", out, failed.name), ("cancel", out)):
        said(*command)
    code, text = said("retry", out)
    if file in ("runs/random-*/config.json", "slurm/submissions.jsonl") and content != "no permission":
        assert code == 2 and path.name in text, text


READ_BY_REPORT = [file for file in FILES if file[:4] in ("stud", "spee") or "cropr" in file]


@pytest.mark.parametrize("content", [*CONTENTS, *ODD])
@pytest.mark.parametrize("file", READ_BY_REPORT)
def test_a_report_goes_on_without_what_it_cannot_read(out, file, content):
    (path,) = out.glob(file)
    replaced(path, content)
    records = load_records(out)
    runs, speeds = run_frame([records]), speed_frame([records])
    found = analyse(runs)
    assess(Evidence(runs, found.variants, speeds, found.replicates, found.means), CHECKS)
    assert "Dense" in set(found.variants["label"])
    told = " ".join([*map(str, records.broken), *found.replicates.notes])
    if content != "no permission" and not (file == "study.json" and content in ("nothing", "null for objects")):
        assert path.name in told or path.parent.name in told, told


@pytest.mark.parametrize("file", READ_BY_REPORT)
def test_the_whole_report_names_it(out, file):
    (path,) = out.glob(file)
    replaced(path, "deep inside")
    code, _ = said("report", out)
    table = (out / "report" / "table.md").read_text()
    assert code == 0 and "Dense" in table and path.parent.name in table


@pytest.mark.parametrize(
    "arrays",
    [
        {}, {"item": [0, 1]}, {"prediction": [["a"]]}, {"item": [[0]]}, {"cluster": [0.5] * 40}, {"target": [1] * 39},
        {"item": np.zeros((0,), int)}, {"prediction": np.zeros((40, 2), int)}, {"cluster": ["a"] * 40},
    ],
)  # fmt: skip
def test_arrays_that_are_no_predictions(out, arrays):
    path = out / "runs" / "cropr-0.5-s0" / "predictions.npz"
    with np.load(path) as whole:
        changed = {**whole, **arrays} if arrays else {}
    np.savez(path, **changed)
    records = load_records(out)
    (note,) = analyse(run_frame([records])).replicates.notes
    assert "cropr-0.5-s0" in note


def test_one_study_is_not_compared_with_itself(out, tmp_path):
    (tmp_path / "link").symlink_to(out)
    code, text = said("report", out, tmp_path / "link")
    assert code == 2 and f"{out} is given twice" in text


def test_what_to_do_next_is_what_works(out):
    (out / "runs" / "claimed" / "claim.json").unlink()  # nothing is going on
    assert "retry" in said("status", out)[1]
    (out / "slurm" / "submissions.jsonl").unlink()
    text = said("status", out)[1]
    assert "the command that began the study tries the failed ones again" in text and "retry" not in text
