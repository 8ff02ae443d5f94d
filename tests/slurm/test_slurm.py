"""A study on a real Slurm, and everything that a cluster does to it. After each of it: no finished record is lost or
changed, no run is done twice, and the rest completes when it is submitted again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from image_folders import write_root
from safetensors.torch import save_file
from slurm_cluster import Cluster, kill, wait_until
from typer.testing import CliRunner

from cli import app
from results.records.files import read_json, read_lines
from results.records.store import read_result
from studies.commands.new_method import new_method
from studies.config import read_config
from studies.launch import submissions
from studies.launch.progress import going_on, survey
from studies.models.backbones import create_backbone
from studies.runs.run import execute

SMALL = ("--cpus", "1", "--time", "60")
SHORT = ("--set", "batch_size=449", *SMALL)
EPOCHS = 3


def study(*args, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == code, done.output
    return done


def command(*args) -> subprocess.Popen:
    """The same in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def states(out: Path) -> dict[str, str]:
    return {row.id: row.state for row in survey(out)}


def runs_end(out: Path) -> dict[str, str]:
    """States when no run is queued or running any more; the timing is cancelled."""
    wait_until(lambda: not going_on([row for row in survey(out) if not row.id.startswith("speed/")]), "runs end")
    return {name: state for name, state in states(out).items() if not name.startswith("speed/")}


def job_of(out: Path) -> dict[str, str]:
    return {item: job for item, (job, _) in submissions.newest(submissions.read(out)).items()}


def results(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.glob("*/*/result.json")}


def outcome(out: Path) -> dict[str, tuple]:
    """What must not depend on where and in how many pieces a run was done."""
    found = {}
    for path in sorted(out.glob("runs/*/result.json")):
        record = read_result(path)
        keys = ("status", "metrics", "macs_g", "params_m", "tokens_per_block", "weight_digest", "num_items", "schedule")
        found[record["id"]] = tuple(json.dumps(record[key]) for key in keys)
    return found


def epochs(out: Path, name: str) -> list[int]:
    path = out / "runs" / name / "log.jsonl"
    return [line["epoch"] for line in read_lines(path)] if path.exists() else []


def submitted(out: Path, kind: str = "runs") -> list[list[str]]:
    """What each submission of a kind held."""
    return [sorted(sum(entry.items.values(), [])) for entry in submissions.read(out) if entry.kind == kind]


def test_two_submitters_at_once_make_one_study_that_equals_the_local_one(cluster: Cluster) -> None:
    here, there = cluster.directory(), cluster.directory()
    args = ("--quick", "--out")  # the default study
    both = [
        command("submit", *args, there, "--cpus", os.cpu_count(), "--time", "60", "--runs-per-job", 2) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [len(items) for items in submitted(there)] == [6] and [len(i) for i in submitted(there, "backbone")] == [1]
    assert any("6 runs are queued or running already" in text for text in outputs)

    study("run", *args, here, "--jobs", 1)
    wait_until(lambda: not going_on(survey(there)), "the study ends")
    assert set(states(there).values()) == {"done"}, study("status", there).output
    assert outcome(there) == outcome(here) and len(outcome(here)) == 6
    digests = [read_json(next(o.glob("backbones/*/result.json")))["weight_digest"] for o in (here, there)]
    assert digests[0] == digests[1]
    assert [len(read_result(path)["variants"]) for path in there.glob("speed/*/result.json")] == [6]

    before = results(there)
    assert "nothing to submit" in study("submit", *args, there).output
    waited = study("run", "--launcher", "slurm", *args, there)
    assert "Dense" in waited.output and results(there) == before
    assert json.loads(study("status", there, "--json").output)[0]["state"] == "done"


def test_a_method_of_ones_own_goes_with_its_records(cluster: Cluster) -> None:
    """The file is copied; jobs load the copy, whatever becomes of the file; a resubmission wants the same file."""
    out = cluster.directory()
    (out.parent / f"{out.name}_method").mkdir()
    mine = new_method(out.parent / f"{out.name}_method" / "mine.py")
    args = ("--quick", "--reducers", f"random,{mine}", *SHORT, "--set", "epochs=1", "--out", out)

    def own(code: int) -> str:
        """In a process of its own: a method that is given is known to its process from then on."""
        process = command("submit", *args)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == code, output
        return output

    own(0)
    text = mine.read_text()
    mine.write_text("1 / 0\n")
    ended = runs_end(out)
    assert set(ended.values()) == {"done"} and len([name for name in ended if name.startswith("mine-")]) == 1, ended
    (copy,) = (out / "methods").iterdir()
    assert copy.read_text() == text
    assert "line 1" in own(2)
    mine.write_text(text)
    wait_until(lambda: not going_on(survey(out)), "the study ends")
    assert "nothing to submit" in own(0)


def test_what_is_stopped_or_killed_continues_to_the_same_bits(cluster: Cluster) -> None:
    out = cluster.directory()
    args = ("--quick", "--reducers", "random", "--seeds", 4, "--set", f"epochs={EPOCHS}", *SHORT, "--out", out)
    args += ("--backbone", cluster.random_backbone(), "--partition", "low")
    study("submit", *args)
    names = sorted(path.name for path in (out / "runs").iterdir())
    jobs = job_of(out)
    cluster.call("scancel", next(job for item, job in jobs.items() if item.startswith("speed/")))

    def interrupt(name: str, how: str) -> None:
        job = jobs[f"runs/{name}"]
        wait_until(lambda: epochs(out, name), f"first epoch of {name}")
        assert not (out / "runs" / name / "result.json").exists()
        if how == "USR2":
            cluster.call("scancel", "--signal=USR2", job)
        elif how == "SIGKILL":
            kill(*cluster.processes(job))
        elif how == "scancel":
            cluster.call("scancel", job)
        else:
            node = cluster.call("squeue", "-h", "-o", "%N", "-j", job)
            cluster.call("sbatch", "-p", "high", "--exclusive", "-w", node, "-o", "/dev/null", "--wrap", "sleep 1")

    for name, how in zip(names, ("USR2", "SIGKILL", "scancel", "preemption"), strict=True):
        interrupt(name, how)
    ended = runs_end(out)
    assert [ended[name] for name in names] == ["done", "failed", "failed", "done"]
    logs = [path.read_text() for path in out.glob("slurm/*-runs/*_0_log.out")]
    assert sum("Calling checkpoint method" in text for text in logs) == 2
    details = {row.id: row.detail for row in survey(out)}
    assert all("ended without a record" in details[name] for name in names[1:3])
    before = results(out)

    assert "2 in 2 jobs" in study("retry", out, "--partition", "debug").output
    cluster.call("scancel", next(job for item, job in job_of(out).items() if item.startswith("speed/")))
    assert set(runs_end(out).values()) == {"done"}
    assert submitted(out)[-1] == [f"runs/{name}" for name in names[1:3]]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [epochs(out, name) for name in names] == 4 * [list(range(1, EPOCHS + 1))]

    reference = cluster.directory()
    for name in names:
        execute(read_config(out / "runs" / name / "config.json"), reference)
    assert outcome(reference) == outcome(out)


def test_a_time_limit_a_dead_node_and_a_new_controller(cluster: Cluster) -> None:
    """The jobs are longer than their limit of 3 minutes lets a life of them be: USR2 comes 90 s before its end or up
    to a minute earlier."""
    out, reference = cluster.directory(), cluster.directory()
    args = ("--quick", "--reducers", "random", "--seeds", 2, "--set", "batch_size=449", "--set", "epochs=50")
    args = (*args, "--set", "evaluate_every=50", "--backbone", cluster.random_backbone(), "--out")
    study("submit", *args, out, "--cpus", "1", "--time", 3)
    names = sorted(path.name for path in (out / "runs").iterdir())
    jobs = [job_of(out)[f"runs/{name}"] for name in names]

    # Not while jobs are requeued: a killed controller forgets what it did in its last seconds, and a requeue with it.
    wait_until(lambda: all(len(epochs(out, name)) > 4 for name in names), "five epochs")
    kill(cluster.daemon("slurmctld"))
    cluster.script("start", "slurmctld")
    for job in jobs:
        wait_until(lambda job=job: "Restarts=0" not in cluster.call("scontrol", "show", "job", job), "it is requeued")
    wait_until(lambda: cluster.call("squeue", "-h", "-o", "%N", "-t", "RUNNING"), "one runs")
    node = cluster.call("squeue", "-h", "-o", "%N", "-t", "RUNNING").split()[0]
    cluster.node_dies(node)
    ended = runs_end(out)  # Slurm itself runs them again, on the other node
    cluster.script("start", node)
    assert set(ended.values()) == {"done"}
    assert len(submitted(out)) == 1
    assert all(epochs(out, name) == list(range(1, 51)) for name in names)
    study("run", *args, reference, "--jobs", 2)
    assert outcome(reference) == outcome(out) and len(outcome(out)) == 2
    study("cancel", out)


def test_jobs_that_cannot_start_or_fail_say_why(cluster: Cluster, tmp_path: Path) -> None:
    out = cluster.directory()
    backbone = cluster.random_backbone()
    args = ("submit", "--quick", "--train", "none", "--reducers", "none,random", *SMALL, "--out", out)
    args += ("--backbone", backbone)

    refused = study(*args, "--gpus", 99, code=2)
    assert refused.output.startswith("error: sbatch:"), refused.output
    assert "queued" not in states(out).values()
    (tmp_path / "lab.toml").write_text('partitoin = "debug"\n')
    refused = study(*args, "--profile", tmp_path / "lab.toml", code=2)
    assert "'partitoin'" in refused.output and "did you mean partition" in refused.output

    (tmp_path / "lab.toml").write_text('partition = "debug"\npython = "/nowhere/python"\nmax_timeouts = 3\n')
    study(*args, "--profile", tmp_path / "lab.toml")
    assert set(runs_end(out).values()) == {"failed"}
    failure = read_json(next(out.glob("runs/*/failure.json")))
    assert failure["type"] == "CannotStart" and "/nowhere/python" in failure["message"]

    if cluster.accounting:  # without it nobody watches the memory
        study(*args, "--mem", "200M")
        assert set(runs_end(out).values()) == {"failed"}
        assert all("memory limit" in row.detail for row in survey(out) if row.id.startswith(("none", "random")))
        name = next(row.id for row in survey(out) if row.id.startswith("random"))
        assert "memory limit" in study("logs", out, "random").output and name in study("status", out).output

    study(*args, "--sbatch", "uid=65534")  # the node may read the directory, and not write into it
    assert set(runs_end(out).values()) == {"failed"}
    assert all("left no log" in row.detail for row in survey(out) if row.id.startswith(("none", "random")))

    waiting = command("run", *args[1:], "--launcher", "slurm", "--mem", "3G", "--sbatch", "hold")
    wait_until(lambda: set(states(out).values()) == {"queued"}, "submission")
    time.sleep(2)
    waiting.send_signal(signal.SIGINT)
    message = waiting.communicate(timeout=120)[0]
    assert waiting.returncode == 130 and "the jobs go on" in message
    assert set(states(out).values()) == {"queued"}
    assert "3 jobs cancelled" in study("cancel", out).output
    assert "queued" not in states(out).values()
    study(*args, "--mem", "3G")
    wait_until(lambda: not going_on(survey(out)), "the study ends")
    assert set(states(out).values()) == {"done"}, study("status", out).output


def test_data_that_the_node_lacks_are_named(cluster: Cluster, tmp_path: Path) -> None:
    out = cluster.directory()
    weights, data = tmp_path / "weights.safetensors", write_root(tmp_path / "images")
    save_file(create_backbone("vit_tiny_patch16_224", num_classes=3, pretrained=False).state_dict(), weights)
    args = ("--dataset", "imagenet", "--data", data, "--backbone", f"vit_tiny_patch16_224={weights}", "--out", out)
    study("submit", "--train", "none", "--reducers", "none", "--budgets", "0.5", *args, *SMALL, "--sbatch", "hold")
    shutil.rmtree(data)
    job = next(job for item, job in job_of(out).items() if item.startswith("runs/"))
    cluster.call("scontrol", "release", job)
    assert set(runs_end(out).values()) == {"failed"}
    row = next(row for row in survey(out) if row.id.startswith("none"))
    assert row.detail.startswith(f"ValueError: data folder {data} does not exist") and Path(row.log or "").exists()
    study("cancel", out)


def test_two_nodes_train_one_model(cluster: Cluster) -> None:
    out, reference = cluster.directory(), cluster.directory()
    args = ("--quick", "--reducers", "cropr", "--budgets", "0.65", "--backbone", cluster.random_backbone())
    args += ("--set", "batch_size=449", "--set", "epochs=2", "--out")
    study("submit", *args, out, "--cpus", 1, "--time", 60, "--nodes", 2)
    assert set(runs_end(out).values()) == {"done"}, study("status", out).output
    study("cancel", out)
    study("run", *args, reference, "--jobs", 1)

    (there,), (here,) = (folder.glob("runs/cropr*") for folder in (out, reference))
    two, one = (read_result(folder / "result.json") for folder in (there, here))
    losses, expected = ([line["train_loss"] for line in read_lines(f / "log.jsonl")] for f in (there, here))
    assert (two["num_processes"], one["num_processes"]) == (2, 1)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert expected[1] < expected[0] * (1 - 1e-3)  # steps show in it, so half of a batch would
    assert two["metrics"]["final"]["loss"] == pytest.approx(one["metrics"]["final"]["loss"], rel=1e-5)
    assert two["num_items"] == one["num_items"] and two["macs_g"] == one["macs_g"]
