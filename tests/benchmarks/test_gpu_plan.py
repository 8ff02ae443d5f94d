"""The plan of `make gpu`, which nothing here can run: what it covers, how long it may take, and that it refuses."""

import subprocess
import sys

import pytest
import torch
from benchmarks import gpu_plan
from benchmarks.gpu import TESTS, record
from benchmarks.gpu_plan import BASE, EVA, GMACS, LARGE, LIMIT_S, PARTS, PRECISIONS, SMALL, Setting, plan, planned_s
from command_line import ROOT

from cropr.macs import dense_macs
from studies.measure.modes import MODES
from studies.models.backbones import create_backbone

SCRIPT = ROOT / "tests" / "benchmarks" / "gpu.py"
ABSENT = ("fvcore", "submitit", "pydantic", "annotated_types", "plotly")  # where a GPU is lent


def test_two_parts_end_in_less_than_nine_minutes():
    assert len(PARTS) * LIMIT_S < 9 * 60
    assert all(planned_s(part) < LIMIT_S for part in PARTS), [planned_s(part) for part in PARTS]


def test_what_was_asked_for_is_planned():
    both = [setting for part in PARTS for setting in plan(part)]
    assert len({setting.name for setting in both}) == len(both)
    for backbone in (SMALL, BASE, LARGE):
        mine = [s for s in both if s.backbone == backbone and s.kind == "speed" and s.img_size == 224]
        assert {s.precision for s in mine} == set(PRECISIONS)
        assert min(s.batch_size for s in mine) == 1 and max(s.batch_size for s in mine) == 256
    assert {s.precision for s in both if s.backbone == EVA} == set(PRECISIONS)
    assert {s.kind for s in both} == {"speed", "compiled", "graphs", "queries", "training"}
    assert {s.precision for s in both if s.kind == "training"} == set(PRECISIONS)


def test_batches_that_take_too_long_are_halved():
    found = gpu_plan.largest(1, "speed", LARGE, 224, "float32", 256)
    assert found.batch_size < 256 and found.estimate_s <= gpu_plan.SETTING_S
    assert Setting(1, "speed", LARGE, 224, 2 * found.batch_size, "float32").estimate_s > gpu_plan.SETTING_S


@pytest.mark.parametrize(("name", "img_size"), GMACS)
def test_macs_of_the_plan_are_those_of_the_models(name, img_size):
    with torch.device("meta"):
        vit = create_backbone(name, img_size=img_size, pretrained=False)
    assert GMACS[name, img_size] == pytest.approx(dense_macs(vit) / 1e9, rel=0.01)


def run(*args, **options):
    return subprocess.run([sys.executable, SCRIPT, *args], capture_output=True, text=True, check=False, **options)


def test_a_dry_run_prints_the_plan_without_a_gpu():
    done = run("--dry-run")
    assert done.returncode == 0 and all(setting.name in done.stdout for part in PARTS for setting in plan(part))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses(tmp_path):
    done = run("--out", tmp_path / "gpu")
    assert done.returncode == 2 and "no GPU here" in done.stderr and not (tmp_path / "gpu").exists()


def test_its_tests_are_there_and_marked():
    assert "pytest.mark.gpu" in (ROOT / TESTS).read_text()


def test_modes_are_those_of_bench():
    assert {setting.mode for part in PARTS for setting in plan(part)} <= set(MODES)


SETTINGS = [("speed", "float32"), ("queries", "bfloat16"), ("training", "float32")]


@pytest.mark.parametrize(("kind", "precision"), SETTINGS)
def test_a_setting_is_measured_and_kept(kind, precision, tmp_path, monkeypatch):
    """On a CPU, with a small model."""
    monkeypatch.setattr("benchmarks.gpu.SPECS", ("tome", "evit"))
    monkeypatch.setattr("benchmarks.training_step.SPECS", ("none", "tome"))
    size = 128 if kind == "queries" else 32
    setting = Setting(2, kind, "scenes_vit", size, 2, precision)
    kept = record(setting, tmp_path, device="cpu", rounds=2)
    assert (tmp_path / f"{setting.name}.json").exists() and kept["setting"]["kind"] == kind
    if kind == "training":
        assert kept["over_dense"]["none"]["median"] == 1
    else:
        rows = {row["variant"]: row for row in kept["variants"]}
        assert rows["tome@0.5"]["mac_ratio"] == pytest.approx(2, rel=0.03) and len(rows["none"]["samples_s"]) == 2
        assert ("cropr:queries=1024@0.5" in rows) == (kind == "queries")


def test_it_needs_none_of_the_packages_that_are_absent_there(tmp_path):
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import benchmarks.gpu as gpu, benchmarks.training_step as steps
gpu.SPECS, steps.SPECS = ("tome",), ("none",)
for kind in ("speed", "training"):
    gpu.record(gpu.Setting(1, kind, "scenes_vit", 32, 2, "float32"), Path({str(tmp_path)!r}), "cpu", 1)
import conftest, tiny_models
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 2
