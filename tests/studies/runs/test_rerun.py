"""Options out of a file; records that are made again: the old one is whole, in its place or aside."""

import json

import pytest
from command_line import study
from safetensors.torch import save_file

from results.records.store import Claim
from studies.models.backbones import create_backbone
from studies.runs.rerun import drop_aside, set_aside


@pytest.fixture
def folders(tmp_path):
    """Three finished records and one that is not."""
    found = [tmp_path / place for place in ("runs/a", "runs/b", "speed/c", "runs/d")]
    for folder in found:
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(folder.name)
    for folder in found[:3]:
        (folder / "result.json").write_text(f"old {folder.name}")
    return found


def results(out):
    return {str(path.parent.relative_to(out)): path.read_text() for path in out.rglob("result.json")}


def test_finished_records_move_aside_and_leave_when_all_is_done_anew(folders, tmp_path):
    set_aside(folders, tmp_path)
    old = {"aside/runs/a": "old a", "aside/runs/b": "old b", "aside/speed/c": "old c"}
    assert results(tmp_path) == old
    assert (folders[3] / "log.jsonl").exists()  # what is not finished goes on

    folders[0].mkdir()  # one is made anew, then the power fails and the same command is given again
    (folders[0] / "result.json").write_text("new a")
    set_aside(folders, tmp_path)
    assert results(tmp_path) == old | {"runs/a": "new a"}

    drop_aside(folders, tmp_path)  # only what has a new record
    assert results(tmp_path) == {"runs/a": "new a", "aside/runs/b": "old b", "aside/speed/c": "old c"}
    for folder in folders[1:3]:
        folder.mkdir()
        (folder / "result.json").write_text("new")
    drop_aside(folders, tmp_path)
    assert not (tmp_path / "aside").exists() and len(results(tmp_path)) == 3


def test_a_rerun_that_was_stopped_between_two_moves_goes_on(folders, tmp_path):
    set_aside(folders[:1], tmp_path)
    set_aside(folders, tmp_path)
    assert results(tmp_path) == {"aside/runs/a": "old a", "aside/runs/b": "old b", "aside/speed/c": "old c"}


def test_a_record_that_is_held_stays(folders, tmp_path):
    with Claim(folders[1]), pytest.raises(ValueError, match="runs/b is held by"):
        set_aside(folders, tmp_path)
    assert results(tmp_path)["runs/b"] == "old b"


def test_finished_runs_are_made_again_on_the_command_line(tmp_path):
    out, weights = tmp_path / "out", tmp_path / "vit.safetensors"
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), weights)
    args = ("run", "--quick", "--train", "none", "--reducers", "none,random", "--budgets", 0.6, "--jobs", 1)
    args = (*args, "--backbone", f"scenes_vit={weights}", "--out", out)
    first = study(*args)
    assert first.returncode == 0, first.stderr
    records = {path: json.loads(path.read_text()) for path in out.glob("*/*/result.json")}
    assert sorted(path.parts[-3] for path in records) == ["runs", "runs", "speed"]
    again = study(*args, "--rerun")
    assert again.returncode == 0, again.stderr
    assert not (out / "aside").exists()
    for path, before in records.items():
        after = json.loads(path.read_text())
        assert after["provenance"]["started"] > before["provenance"]["started"]
        assert after.get("weight_digest") == before.get("weight_digest")


def test_options_come_from_a_file_and_what_is_typed_wins(tmp_path):
    """The id of a run is a hash of all that was asked for."""
    file = tmp_path / "study.toml"
    file.write_text(
        "reducers = ['none', 'random']\nbudgets = [0.9, 0.6]\nseeds = 2\nquick = true\n"
        "[set]\nepochs = 1\nbatch_size = 64\nlabel_smoothing = 0.1\n"
    )
    planned = study("run", "--config", file, "--dry-run").stdout.split()
    assert len(planned) == 4 and sum(run.startswith("random-0.6") for run in planned) == 2
    mixed = study("run", "--config", file, "--seeds", 1, "--set", "batch_size=449", "--dry-run")
    settings = ("--set", "epochs=1", "--set", "batch_size=449", "--set", "label_smoothing=0.1")
    typed = study("run", "--quick", "--reducers", "none,random", "--budgets", 0.6, *settings, "--dry-run")
    assert len(typed.stdout.split()) == 2 and mixed.stdout == typed.stdout


@pytest.mark.parametrize(
    "text, words",
    [
        ("reducer = 'evit'", ["'reducer'", "did you mean reducers"]),
        ("[set]\nepoch = 3", ["'epoch'", "did you mean epochs"]),
        ("set = 3", ["[set]"]),
        ("[budgets]\na = 1", ["budgets", "not a table"]),
        ("seeds = ", ["no TOML"]),
        ("reducers = 'evti'", ["'evti'", "evit"]),
        ("config = 'other.toml'", ["'config'"]),
    ],
)
def test_a_bad_file_is_one_message(tmp_path, text, words):
    file = tmp_path / "study.toml"
    file.write_text(text)
    done = study("run", "--config", file, "--dry-run")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert all(word in done.stderr for word in words)


def test_a_file_that_is_not_there():
    done = study("run", "--config", "/nowhere.toml", "--dry-run")
    assert done.returncode == 2 and "/nowhere.toml" in done.stderr
