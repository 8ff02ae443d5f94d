"""DynamicViT scored twice: as deployed, and with tokens marked as in training."""

import json
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save_file

from results.pages.report import build
from studies.config import Recipe
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import parse
from studies.runs.run import execute
from studies.study import plan


def test_the_record_and_the_table_have_both_accuracies(tmp_path):
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), tmp_path / "vit.safetensors")
    (config,) = plan(
        "pareto", parse("dynamicvit"), [0.5], 1, task="classification", dataset="scenes",
        backbone="scenes_vit", checkpoint=str(tmp_path / "vit.safetensors"), data_dir=None, device="cpu", quick=True,
        train="recipe", recipe=Recipe(epochs=1, batch_size=449, lr=1e-3),
    )  # fmt: skip
    execute(replace(config, num_threads=torch.get_num_threads()), tmp_path)
    (path,) = tmp_path.glob("runs/*/result.json")
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["masked"].keys() == metrics["final"].keys() - {"epoch"}
    assert metrics["masked"]["loss"] != metrics["final"]["loss"]  # other tokens: a Bernoulli number, not a fixed one
    hits = metrics["masked"]["top1"] * Scenes(once=True).num_test
    assert np.isclose(hits, round(hits))
    record = json.loads(path.read_text())
    mask = record["masked"]
    assert len(mask["asked"]) == 3 and {round(64 * share) for share in mask["asked"]} <= set(record["schedule"])
    assert len(record["tied_at_cut"]) == 3
    assert all(0 <= share <= 1 for share in mask["kept"]) and mask["kept"] != mask["asked"]
    report = build([tmp_path])
    assert report.summary["top1_masked_percent"].item() == 100 * metrics["masked"]["top1"]
    assert "masked" in (tmp_path / "report" / "table.md").read_text()
