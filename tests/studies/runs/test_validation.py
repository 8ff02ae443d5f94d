"""Epochs are scored on validation items, and the test items are looked at once, at the end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from results.records.frames import run_frame
from results.records.store import load_records
from results.statistics.insight.kept import read_kept
from studies.config import Recipe
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import parse
from studies.runs.run import execute
from studies.study import plan

RECIPE = Recipe(epochs=3, batch_size=449, lr=1e-3, evaluate_every=2)


@pytest.fixture
def looked_at(monkeypatch):
    """The splits of which scenes are scored, in this order."""
    seen, batches = [], Scenes._batches

    def noted(self, split, *args):
        seen.append(split)
        return batches(self, split, *args)

    monkeypatch.setattr(Scenes, "_batches", noted)
    return seen


def done(out, reducer, **changes):
    weights = out / "vit.safetensors"
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), weights)
    (config,) = plan(
        "pareto", parse(reducer), [0.4], 1, task="classification", dataset="scenes", backbone="scenes_vit",
        checkpoint=str(weights), data_dir=None, device="cpu", quick=True, train="recipe", recipe=RECIPE,
    )  # fmt: skip
    execute(replace(config, num_threads=torch.get_num_threads(), **changes), out)
    (path,) = out.glob("runs/*/result.json")
    return path.parent, json.loads(path.read_text())


def test_test_items_are_looked_at_once(looked_at, tmp_path):
    folder, record = done(tmp_path, "none")
    assert looked_at == ["val", "val", "val", "test"]  # before training, behind epochs 2 and 3, and in the end
    assert [line["epoch"] for line in record["validation"]] == [0, 2, 3]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line.get("val", {}).get("top1") for line in lines] == [None, *(v["top1"] for v in record["validation"][1:])]
    assert record["num_items"] == Scenes(once=True).num_test and record["split"] == "test"
    with np.load(folder / "predictions.npz") as arrays:
        assert set(arrays["cluster"].tolist()) == set(Scenes().split["test"].tolist())
    assert not (folder / "kept.npz").exists()  # nothing leaves
    (row,) = run_frame([load_records(tmp_path)]).to_dict("records")
    shares = [line["top1"] for line in record["validation"]]
    assert (row["metric_before"], row["metric_lowest"]) == (shares[0], min(shares[1:]))
    assert (row["metric_best"], row["metric_last"]) == (max(shares[1:]), shares[-1])
    assert row["metric"] == record["metrics"]["final"]["top1"] != shares[-1]


def test_what_begins_untrained_has_no_figure_before_training(looked_at, tmp_path):
    folder, record = done(tmp_path, "random")
    patches = read_kept(str(folder))
    assert patches is not None and patches.level.shape == (128, 64) and patches.foreground.any(axis=1).all()
    live = [patches.live(number).sum(axis=1) for number in range(len(patches.blocks))]
    assert [{*own} for own in live] == [{record["schedule"][block]} for block in patches.blocks]
    # of 128 items and their mirror images:
    assert abs(np.nanmean(patches.consistency)) < 0.05 and (folder / "kept.npz").stat().st_size < 12_288
    assert looked_at == ["val", "val", "test"] and [line["epoch"] for line in record["validation"]] == [2, 3]


def test_where_something_is_chosen_no_test_item_is_looked_at(looked_at, tmp_path):
    _, record = done(tmp_path, "random", split="val")
    assert set(looked_at) == {"val"} and record["num_items"] == Scenes(once=True).num_val
    assert record["metrics"]["final"]["top1"] == record["validation"][-1]["top1"]
