"""Values chosen on validation items, and the two protocols."""

import json
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from command_line import TINY, study
from safetensors.torch import save_file

from cropr.method import GRID_SIZE
from results.records.frames import run_frame
from results.records.store import load_records, write_json
from results.statistics.curves import variant_frame
from studies.catalogue import studies
from studies.catalogue.chosen import factors_in, shipped
from studies.commands.run import Options, configs_of
from studies.commands.tune import choose, trials
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import builtin


def recipes(**options):
    return {config.reducer: config.recipe for config in configs_of(Options(**options))}


def test_values_are_tried_on_validation_items_and_taken(tmp_path):
    weights, out = tmp_path / "vit.safetensors", tmp_path / "tuned"
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), weights)
    backbone = ("--backbone", f"scenes_vit={weights}", *TINY)
    done = study("tune", "--quick", "--reducers", "random", *backbone, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "random: lr × " in done.stdout and "on validation items" in done.stdout
    chosen = json.loads((out / "chosen.json").read_text())
    assert (chosen["split"], chosen["num_items"], chosen["seeds"]) == ("val", Scenes(once=True).num_val, 1)
    tried = chosen["methods"]["random"]["trials"]
    assert [row["factors"]["lr"] for row in tried] == [0.5, 1.0, 2.0, 4.0] and not list(out.glob("speed/*"))
    records = load_records(out).runs
    assert {run for row in tried for run in row["runs"]} == set(records) and len(records) == 4
    val = {int(digit) for digit in Scenes().split["val"]}
    for run, record in records.items():
        assert record["split"] == "val" and record["provenance"]["data_fingerprint"] == Scenes(scored="val").fingerprint
        with np.load(out / "runs" / run / "predictions.npz") as arrays:
            assert set(arrays["cluster"].tolist()) == val
    assert study("tune", "--quick", "--reducers", "random", *backbone, "--out", out).stdout == done.stdout
    best = max(tried, key=lambda row: row["top1"])
    factor = chosen["methods"]["random"]["factors"]["lr"]
    assert next(row for row in tried if row["factors"]["lr"] == factor)["top1"] == best["top1"]
    base = studies()["pareto"].recipes(quick=True)[0].lr
    taken = recipes(quick=True, reducers="random,tome", protocol=str(out / "chosen.json"))
    assert taken["random"].lr == base * factor and taken["tome"].lr == base


def test_every_method_has_as_many_trials():
    for method in builtin().values():
        assert prod(map(len, method.grid.values())) == GRID_SIZE, method.name
    tried = trials(Options(reducers="all"))
    counts = {name: sum(trial.method.name == name for trial in tried) for name in {t.method.name for t in tried}}
    assert len(counts) == 6 and set(counts.values()) == {GRID_SIZE}
    assert {run.split for trial in tried for run in trial.runs} == {"val"}
    assert len({run.id for trial in tried for run in trial.runs}) == 6 * GRID_SIZE


def test_the_best_is_chosen_and_of_equals_the_nearest_to_the_recipe(tmp_path):
    options = Options(reducers="random", out=tmp_path, seeds=2)
    tried = trials(options)

    def chosen(*scores, fallen=(0, 0, 0, 0), role="dense"):
        for trial, score, points in zip(tried, scores, fallen, strict=True):
            epochs = [{"epoch": 0, "top1": 0.6}, {"epoch": 1, "top1": 0.6 - points / 100}, {"epoch": 2, "top1": 0.7}]
            for run, value in zip(trial.runs, score, strict=True):
                write_json(tmp_path / "runs" / run.id / "result.json", {
                    "schema": 1, "id": run.id, "status": "done", "variant": run.variant, "label": "", "num_items": 9,
                    "seed": 0, "macs_g": {}, "role": role,
                    "task": "classification", "dataset": "scenes", "backbone": "", "reducer": run.reducer,
                    "metrics": {"final": {"top1": value}}, "provenance": {}, "validation": epochs,
                })  # fmt: skip
        return factors_in(choose(tried, options, "tune"))["random"]["lr"]

    for trial in tried:
        for run in trial.runs:
            (tmp_path / "runs" / run.id).mkdir(parents=True)
    assert chosen((0.9, 0.1), (0.5, 0.5), (0.6, 0.5), (0.2, 0.3)) == 2.0  # by the mean over seeds
    assert chosen((0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5)) == 1.0
    held = ((0.4, 0.4), (0.5, 0.5), (0.6, 0.5), (0.2, 0.3))
    assert chosen(*held, fallen=(0.9, 1.1, 3, 4)) == 0.5  # the best of those that keep the backbone where it was
    assert chosen(*held, fallen=(2, 1.1, 3, 4)) == 2.0  # there is none: the best of all
    assert chosen(*held, fallen=(0.9, 1.1, 3, 4), role="method") == 2.0  # whose rate may grow meanwhile


def test_protocols():
    study_recipe = studies()["pareto"].recipes(quick=False)[0]
    assert set(recipes(reducers="all", protocol="same").values()) == {study_recipe}
    own = recipes(reducers="all")
    assert own["dynamicvit"].backbone_lr < 0.2 and own["dynamicvit"].freeze_backbone_epochs > 0
    assert "evit:span=0.33" in own and "evit" not in own
    typed = recipes(reducers="all", settings=["lr=0.01", "backbone_lr=0.5"])
    assert {recipe.lr for recipe in typed.values()} == {0.01} and typed["dynamicvit"].backbone_lr == 0.5
    assert len(set(recipes(reducers="all", recipe="evit").values())) == 1
    for config in configs_of(Options(reducers="all")):
        assert replace(config.recipe, **{key: getattr(study_recipe, key) for key, _ in config.own}) == study_recipe


def test_both_protocols_stand_in_one_report(tmp_path):
    def write(config):
        folder = tmp_path / "runs" / config.id
        folder.mkdir(parents=True)
        record = {
            "schema": 1, "id": config.id, "status": "done", "label": "DynamicViT", "role": "method", "objective": "CE",
            "study": "pareto", "task": "classification", "dataset": "scenes", "backbone": "scenes_vit", "quick": False,
            "reducer": config.reducer, "variant": config.variant, "seed": 0, "lr": config.recipe.lr, "epochs": 8,
            "method_version": 3, "budget_asked": config.budget, "own": dict(config.own),
            "provenance": {}, "macs_g": {},
            "metrics": {"final": {"top1": 0.9}}, "metrics_declared": [{"name": "top1", "label": "top-1"}],
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(record))

    for protocol in ("own", "same"):
        for config in configs_of(Options(reducers="dynamicvit", protocol=protocol)):
            write(config)
    curves = set(variant_frame(run_frame([load_records(tmp_path)]))["curve"])
    assert len(curves) == 2 and any("backbone_lr=0." in curve for curve in curves), curves
    assert any("recipe of all" in curve for curve in curves)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("tune", "--train", "none"), ["no --train, --protocol or --recipe"]),
        (("tune", "--reducers", "cropr,cropr:rest=llf"), ["cropr is asked for twice"]),
        (("run", "--protocol", "sam"), ["unknown protocol 'sam'", "did you mean same", "own"]),
        (("run", "--protocol", "nothing.json"), ["nothing.json"]),
        (("run", "--protocol", ""), ["--protocol is empty"]),
    ],
)
def test_bad_input(args, said, tmp_path):
    done = study(*args, "--out", tmp_path / "out")
    assert done.returncode == 2 and all(text in done.stderr for text in said), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"methods": {"cropr": 3}}', '{"methods": {"cropr": {"factors": []}}}']
)
def test_files_of_other_hands_are_refused(content, tmp_path):
    path = tmp_path / "chosen.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="no file that `cropr-study tune` wrote"):
        factors_in(path)


def test_shipped_values_are_of_the_grid():
    for name in studies():
        path = shipped(name)
        if path is None:
            continue
        for method, factors in factors_in(path).items():
            grid = builtin()[method].grid
            assert {key: value in grid[key] for key, value in factors.items()} == dict.fromkeys(grid, True)
