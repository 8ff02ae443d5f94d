"""What a run starts from depends on its config alone, and is what its record says."""

import json
from dataclasses import replace

import torch
from command_line import TINY, study
from safetensors.torch import load_file, save_file

from studies.config import Recipe
from studies.models.backbones import create_backbone
from studies.models.methods import parse
from studies.runs.run import execute
from studies.study import plan


def test_a_head_of_other_classes_is_drawn_under_the_runs_seed(tmp_path):
    """Whatever was drawn before in the process, and in which directory: for a teacher too."""
    torch.manual_seed(0)
    weights = create_backbone("scenes_vit", num_classes=7, pretrained=False).state_dict()
    save_file(weights, tmp_path / "seven.safetensors")
    configs = plan(
        "pareto", parse("none,random,dynamicvit"), [0.5], 2, task="classification", dataset="scenes",
        backbone="scenes_vit", checkpoint=str(tmp_path / "seven.safetensors"), data_dir=None, device="cpu", quick=True,
        train="recipe", recipe=Recipe(epochs=1, batch_size=898, lr=1e-3),
    )  # fmt: skip
    digests = {}
    for place in ("a", "b"):
        for config in configs if place == "a" else reversed(configs):
            torch.rand(7 if place == "a" else 1000)
            execute(replace(config, num_threads=torch.get_num_threads()), tmp_path / place)
        records = [json.loads(path.read_text()) for path in (tmp_path / place).glob("runs/*/result.json")]
        digests[place] = {record["id"]: record["weight_digest"] for record in records}
    assert digests["a"] == digests["b"] and len(set(digests["a"].values())) == 6


def test_a_backbone_that_was_replaced_is_noticed(tmp_path):
    command = ("run", "--reducers", "none,random", "--quick", *TINY, "--out", tmp_path)
    assert study(*command, timeout=600).returncode == 0
    (file,) = tmp_path.glob("backbones/*/backbone.safetensors")
    first = file.read_bytes()
    save_file({key: value + 0.01 for key, value in load_file(file).items()}, file)
    (run,) = tmp_path.glob("runs/random*")
    (run / "result.json").unlink()
    done = study(*command, timeout=600)
    assert done.returncode == 1 and "holds other weights than its record says" in done.stderr, done.stderr
    assert not (run / "result.json").exists()
    file.write_bytes(first)
    assert study(*command, timeout=600).returncode == 0
    record = file.with_name("result.json")
    said = json.loads(record.read_text())["weight_digest"]
    record.unlink()  # as a kill between the weights and their record leaves it
    (run / "result.json").unlink()
    assert study(*command, timeout=600).returncode == 0
    assert json.loads(record.read_text())["weight_digest"] == said
