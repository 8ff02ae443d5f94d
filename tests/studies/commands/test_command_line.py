"""The command line as a user meets it: real processes, real files, real training (a few steps of it)."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import ROOT, TINY, study
from safetensors.torch import save_file

from studies.models.backbones import create_backbone


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "paretto"), ["'paretto'", "pareto"]),
        (("run", "--reducers", "evti"), ["'evti'", "evit"]),
        (("run", "--reducers", "cropr:lff=true"), ["'lff'", "unknown option of cropr", "rest"]),
        (("cancel", "nowhere"), ["nowhere holds no study"]),
        (("run", "--train", "none", "--reducers", "tome,cropr"), ["cropr", "weights to learn"]),
        (("run", "--budgets", "1.5"), ["1.5", "[0.01, 1]"]),
        (("run", "--budgets", "half"), ["'half'", "share"]),
        (("run", "--budgets", "0.01", "--reducers", "evit"), ["floor"]),
        (("run", "--dataset", "scene"), ["'scene'", "scenes"]),
        (("run", "--dataset", "imagenet", "--data", "/nowhere", "--backbone", "vit_tiny_patch16_224"), ["/nowhere"]),
        (
            ("run", "--dataset", "imagenet", "--data", "/nowhere"),
            ["scenes_vit is not of timm", "vit_small"],
        ),
        (("run", "--backbone", "vit_tinny_patch16_224"), ["vit_tiny_patch16_224"]),
        (("run", "--task", "segmentatoin"), ["'segmentatoin'", "did you mean segmentation"]),
        (
            ("run", "pareto", "--task", "segmentation"),
            ["study pareto is of task", "segmentation, fusion"],
        ),
        (("run", "--task", "segmentation", "--recipe", "cropr"), ["mixup"]),
        (("run", "fusion", "--reducers", "cropr:fusion=lff"), ["rest", "'lff'", "llf, concat"]),
        (("run", "--reducers", "cropr:fusion=concat"), ["rest=concat of cropr", "dense"]),
        (("run", "--task", "segmentation", "--dataset", "ade20k"), ["--data"]),
        (("run", "--recipe", "crop"), ["'crop'", "cropr", "evit"]),
        (("run", "--set", "epoch=3"), ["'epoch'", "epochs"]),
        (("status", "/nowhere"), ["/nowhere"]),
        (("report", "/nowhere"), ["/nowhere"]),
        (("run", "resolution", "--no-timing"), ["resolution is only timed", "--no-timing"]),
        (("run", "--corruptions", "blur,nois"), ["'nois'", "did you mean noise", "pixelate"]),
        (("run", "--task", "segmentation", "--corruptions", "all"), ["--corruptions", "not of segmentation"]),
        (("run", "resolution", "--corruptions", "all"), ["resolution is only timed", "--corruptions"]),
        (("list", "reducer"), ["'reducer'", "reducers"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(args, words, tmp_path):
    extra = ("--out", tmp_path / "out") if args[0] == "run" else ()
    done = study(*args, *extra)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words)
    assert not list(tmp_path.glob("out/runs/*"))


def lines_of(files):
    return sum(len(path.read_text().splitlines()) for path in files)


def test_run_stop_continue_and_repeat(tmp_path):
    out = tmp_path / "out"
    args = ("run", "--quick", "--reducers", "none,random", *TINY, "--out", out)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cli", *map(str, args)]
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    for number, stop in ((1, os.killpg), (2, os.kill)):
        started = subprocess.Popen(command, **options)
        deadline = time.monotonic() + 240
        while lines_of(out.glob("backbones/*/log.jsonl")) < number and time.monotonic() < deadline:
            time.sleep(0.2)
        # What Ctrl-C does: the whole foreground group. Then what `kill` does: the one process.
        stop(started.pid, signal.SIGINT if stop is os.killpg else signal.SIGTERM)
        _, message = started.communicate(timeout=120)
        assert started.returncode == 130 and "same command" in message
        processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert str(out) not in processes  # no worker is left

    again = study(*args)
    assert again.returncode == 0, again.stderr
    results = sorted(out.glob("runs/*/result.json"))
    records = [json.loads(path.read_text()) for path in results]
    assert sorted(record["reducer"] for record in records) == ["none", "random"]
    assert all(0 <= record["metrics"]["final"]["top1"] <= 1 for record in records)
    assert not list(out.glob("*/*/last.safetensors"))  # nothing is left to continue
    assert {path.name for path in out.glob("report/*.png")} >= {"pareto_accuracy_gmacs.png", "throughput_gmacs.png"}
    assert "smoke" in (out / "report" / "table.md").read_text().lower()

    written = {path: path.read_bytes() for path in results}
    results[0].write_bytes(written[results[0]][:100])  # cut off in the middle
    third = study(*args, "--corruptions", "noise,blur")
    assert third.returncode == 0, third.stderr
    assert results[1].read_bytes() == written[results[1]]
    before, after = json.loads(written[results[0]]), json.loads(results[0].read_bytes())
    assert (after["metrics"], after["weight_digest"]) == (before["metrics"], before["weight_digest"])

    scores = json.loads(study("evaluate", results[0].parent / "model", "--quick", "--corruptions", "noise").stdout)
    assert scores["top1"] == before["metrics"]["final"]["top1"] and scores["num_items"] == before["num_items"]
    for path in results:
        with np.load(path.parent / "corrupted.npz") as arrays:
            assert {name for name in arrays.files if name.startswith("under_")} == {"under_noise", "under_blur"}
            noisy = float((arrays["under_noise"] == arrays["target"]).mean())
        assert path is not results[0] or noisy == scores["top1_under_noise"]
    assert "## Under corruptions: top-1, %" in (out / "report" / "table.md").read_text()

    status = json.loads(study("status", out, "--json").stdout)
    assert {row["state"] for row in status} == {"done"}
    other = study("run", "--quick", "--reducers", "none", "--set", "lr=0.1", "--out", out)
    assert other.returncode == 2 and "another study" in other.stderr


def test_segmentation_from_the_command_to_the_report(tmp_path):
    out, weights = tmp_path / "out", tmp_path / "vit.safetensors"
    save_file(create_backbone("scenes_vit", num_classes=11, pretrained=False).state_dict(), weights)
    backbone = ("--backbone", f"scenes_vit={weights}")  # nothing to train first
    common = ("--quick", *TINY, *backbone, "--no-timing", "--out", out)
    done = study("run", "--task", "segmentation", "--reducers", "none,cropr", *common)
    assert done.returncode == 0, done.stderr
    assert not (out / "speed").exists()
    records = {path.parent: json.loads(path.read_text()) for path in out.glob("runs/*/result.json")}
    assert {record["variant"] for record in records.values()} == {"none", "cropr@0.65"}
    for folder, record in records.items():
        assert record["task"] == "segmentation" and 0 < record["metrics"]["final"]["miou"] < 1
        assert record["macs_g"]["decoder"] == pytest.approx(64 * 96 * 11 / 1e9) and record["fusion"] == "llf"
        with np.load(folder / "predictions.npz") as arrays:
            assert arrays["confusion"].shape == (674, 11, 11) and arrays["confusion"].sum() == 674 * 32 * 32
    ((folder, cropr),) = (pair for pair in records.items() if pair[1]["reducer"] == "cropr")
    scores = json.loads(study("evaluate", folder / "model", "--quick").stdout)
    assert scores["miou"] == cropr["metrics"]["final"]["miou"] and scores["num_items"] == cropr["num_items"]
    assert sum(cropr["curriculum"]["evaluated_with_removed_per_module"]) == 64 - cropr["schedule"][3]
    table = (out / "report" / "table.md").read_text()
    assert "mIoU, %" in table and "decoder, MMACs" in table


def test_list_is_one_json_document():
    assert set(json.loads(study("list", "reducers", "--json").stdout)) >= {"none", "cropr", "tome"}


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = study("run", "--quick", "--out", tmp_path / "file" / "out")
    assert done.returncode == 2 and "cannot write" in done.stderr


def test_options_of_run_stand_in_panels():
    text = study("run", "--help", COLUMNS="120", NO_COLOR="1").stdout
    names = ("Study", "Training", "Where it runs", "Slurm")
    titles = [name for name in names if f"─ {name} ─" in text]
    assert titles == list(names)
    parts = dict(zip(titles, [text.split(f"─ {title} ─")[1].split("╰")[0] for title in titles], strict=True))
    assert "--reducers" in parts["Study"] and "--recipe" in parts["Training"]
    assert "--device" in parts["Where it runs"] and "--partition" in parts["Slurm"]
    assert "Slurm:" not in text
