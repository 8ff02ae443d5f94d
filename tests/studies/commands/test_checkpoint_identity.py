"""A checkpoint enters a study by what it holds, not by where it lies."""

import os
from pathlib import Path

import pytest
import torch
from command_line import study
from safetensors.torch import save_file

from studies.commands.run import Options, configs_of
from studies.data.datasets import create_dataset
from studies.models.backbones import create_backbone
from studies.runs.pretraining import BackboneFailed, make_backbone


def write(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), path, {"architecture": "scenes_vit"})
    return path


def ids(backbone: str) -> set[str]:
    return {config.id for config in configs_of(Options(reducers="none,random", backbone=backbone, quick=True))}


def test_the_same_file_by_any_path_is_the_same_study(tmp_path, monkeypatch):
    file = write(tmp_path / "vit.safetensors", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.safetensors").symlink_to(file)
    (tmp_path / "copy.safetensors").write_bytes(file.read_bytes())
    paths = ("vit.safetensors", str(file), "./vit.safetensors", "link.safetensors", "copy.safetensors")
    found = [ids(f"scenes_vit={path}") for path in paths]
    assert all(other == found[0] for other in found) and ids(str(file)) == found[0]
    assert ids(f"scenes_vit={write(tmp_path / 'other.safetensors', 1)}").isdisjoint(found[0])
    assert ids("scenes_vit").isdisjoint(found[0])


def test_a_file_that_is_replaced_makes_another_study(tmp_path):
    file, out = write(tmp_path / "vit.safetensors", 0), tmp_path / "out"
    before = os.stat(file)
    args = ("run", "--train", "none", "--reducers", "none", "--backbone", f"scenes_vit={file}", "--out", out)
    assert study(*args).returncode == 0
    write(file, 1)
    os.utime(file, (before.st_atime, before.st_mtime))  # of the same size and hour: another moment, and other weights
    done = study(*args)
    assert done.returncode == 2 and "another study: its checkpoint is" in done.stderr, done.stderr


def test_a_file_that_changes_behind_the_plan_is_noticed(tmp_path):
    file = write(tmp_path / "vit.safetensors", 0)
    (config,) = configs_of(Options(reducers="none", backbone=f"scenes_vit={file}", quick=True))
    make_backbone(config, tmp_path, create_dataset(config))
    write(file, 1)
    with pytest.raises(BackboneFailed, match="is not the file that this run was planned with"):
        make_backbone(config, tmp_path, create_dataset(config))
