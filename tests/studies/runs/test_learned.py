"""Runs whose counts are learned: searched before training, on training items, once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cropr.method.objective import CrossEntropy
from results.pages.report import build as report
from results.records.frames import run_frame
from results.records.store import load_records
from studies.commands.run import Options, configs_of, preflight
from studies.data.datasets import create_dataset
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.deploy import load
from studies.models.learned import search
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.runs import learned as of_runs
from studies.runs.holding import HERE
from studies.runs.run import execute
from studies.study import time_variants
from studies.training.trainer import Stopped

STEPS = 3
TINY = ["epochs=1", "batch_size=200", "lr=0.001"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A search of a second; how near it comes is asked elsewhere."""
    monkeypatch.setattr(of_runs, "STEPS", STEPS)
    monkeypatch.setattr(of_runs, "BATCH", 16)


@pytest.fixture
def looked_at(monkeypatch):
    """(split, items) of scenes that are rendered, in this order."""
    seen, batch = [], Scenes.batch

    def noted(self, split, index):
        seen.append((split, list(map(int, index))))
        return batch(self, split, index)

    monkeypatch.setattr(Scenes, "batch", noted)
    return seen


def configs(out, reducers, **options):
    weights = out / "vit.safetensors"
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), weights)
    found = configs_of(Options(
        reducers=reducers, budgets="0.65", backbone=f"scenes_vit={weights}", quick=True, device="cpu",
        **{"settings": TINY, **options},
    ))  # fmt: skip
    return [replace(config, num_threads=torch.get_num_threads()) for config in found]


def result(out, config):
    return json.loads((out / "runs" / config.id / "result.json").read_text())


def test_counts_are_searched_on_training_items_before_training(tmp_path, looked_at):
    config, twin = configs(tmp_path, "evit:schedule=learned,random:like=evit:schedule=learned")
    if config.reducer.startswith("random"):
        config, twin = twin, config
    preflight([config])
    looked_at.clear()
    execute(config, tmp_path)
    record, folder = result(tmp_path, config), tmp_path / "runs" / config.id
    first = config.recipe.epoch_offset * Scenes().num_train
    assert [split for split, _ in looked_at[:STEPS]] == ["train"] * STEPS
    assert [items for _, items in looked_at[:STEPS]] == [
        list(range(first + 16 * n, first + 16 * (n + 1))) for n in range(STEPS)
    ]
    assert looked_at[STEPS] == ("train", list(range(first, first + 200)))  # then it trains
    found = record["search"]
    assert found == json.loads((folder / "search.json").read_text())
    assert (found["steps"], found["num_items"], found["seed"]) == (STEPS, 16 * STEPS, config.seed)
    assert record["schedule_kind"] == "learned" and record["options"]["schedule"] == "learned"
    assert record["budget_reached"] == pytest.approx(0.65, abs=0.01)
    # The same by hand, from the same weights.
    vit, data = create_backbone("scenes_vit", pretrained=False, checkpoint=config.checkpoint), create_dataset(config)
    batches = [data.batch("train", np.arange(16 * n, 16 * (n + 1)) + first) for n in range(STEPS)]
    by_hand = search(vit, parse_one(config.reducer), 0.65, batches, CrossEntropy(), STEPS, config.seed)
    assert by_hand.record["found"] == found["found"] and by_hand.record["loss_last"] == found["loss_last"]
    counts = [tokens for tokens, *_ in build(vit, by_hand.method).model.token_counts()]
    assert record["tokens_per_block"] == counts == [t for t, *_ in load(folder / "model").token_counts()]
    assert record["native"]["keeps"] == list(by_hand.method.keeps)
    # Random pruning at the very counts, and both timed at them and shown.
    execute(twin, tmp_path)
    # how EViT trains (span) is not random's; the counts are
    theirs = result(tmp_path, twin)["search"]
    one, other = (parse_one(search["found"]) for search in (found, theirs))
    assert (one.at, one.keeps) == (other.at, other.keeps) and one.span != other.span
    same = {"seconds": 0, "found": ""}
    assert theirs | same == found | same
    time_variants([config, twin], tmp_path)
    (timing,) = tmp_path.glob("speed/*/result.json")
    timed = {row["variant"]: row["tokens_per_block"] for row in json.loads(timing.read_text())["variants"]}
    assert timed[config.variant] == counts
    (row,) = [row for row in run_frame([load_records(tmp_path)]).to_dict("records") if row["id"] == config.id]
    assert row["search"] == found
    report([tmp_path])
    page = (tmp_path / "report" / "table.md").read_text()
    assert f"counts of {config.variant}, seed 0, are learned: {found['found']}" in page.replace("\\", "")
    assert "learned" in (tmp_path / "report" / "summary.csv").read_text()


@pytest.mark.parametrize("reducer", ["tome:schedule=learned", "cropr:schedule=learned"])
def test_a_continued_run_does_not_search_again_and_ends_the_same(tmp_path, monkeypatch, reducer):
    """Stopped in training, and before that in its search."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir(), stopped.mkdir()
    (config,) = configs(tmp_path, reducer)
    execute(config, straight)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(of_runs, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(config, stopped)
    folder = stopped / "runs" / config.id
    assert not (folder / "search.json").exists() and not (folder / "failure.json").exists()
    with pytest.raises(Stopped):
        execute(config, stopped, replace(HERE, training=lambda trainer: trainer.stop()))
    assert (folder / "search.json").exists() and (folder / "last.safetensors").exists()
    monkeypatch.setattr(of_runs, "search", interrupted)
    execute(config, stopped)
    one, other = result(straight, config), result(stopped, config)
    assert other["search"] == json.loads((folder / "search.json").read_text())
    assert one["search"] | {"seconds": 0} == other["search"] | {"seconds": 0}
    for key in ("weight_digest", "schedule", "metrics", "train_loss", "budget_reached"):
        assert one[key] == other[key], key


def test_off_the_shelf_it_searches_too_and_a_budget_out_of_reach_is_a_floor(tmp_path):
    config, far = (
        replace(configs(tmp_path, "tome:schedule=learned", train="none", settings=[])[0], budget=budget)
        for budget in (0.65, 0.01)
    )
    execute(config, tmp_path)
    record = result(tmp_path, config)
    assert record["search"]["steps"] == STEPS and record["objective"] == "off the shelf" and record["epochs"] == 0
    execute(far, tmp_path)
    assert result(tmp_path, far)["status"] == "unreachable" and 0.01 < result(tmp_path, far)["floor"] < 0.65
    with pytest.raises(ValueError, match="its floor is"):
        preflight([far])


def test_a_classifier_that_is_drawn_at_random_is_refused(tmp_path):
    torch.manual_seed(0)
    for num_classes, said in ((10, None), (7, "is of 7 classes, not of the 10 of scenes"), (0, "is of no classes")):
        weights = tmp_path / f"{num_classes}.safetensors"
        save_file(create_backbone("scenes_vit", pretrained=False, num_classes=num_classes).state_dict(), weights)
        options = Options(
            reducers="evit:schedule=learned",
            budgets="0.65",
            backbone=f"scenes_vit={weights}",
            quick=True,
            settings=TINY,
        )
        if said is None:
            preflight(configs_of(options))
            continue
        with pytest.raises(ValueError, match=f"evit:schedule=learned.*{said}"):
            preflight(configs_of(options))
