"""Finished runs under corruptions: what is kept of each item, once, against a model called one image at a time."""

import json

import numpy as np
import pytest
import synthetic_records
import torch

from results.records.store import read_predictions
from studies.config import RunConfig
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.deploy import load, save
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.robustness.corruptions import CORRUPTIONS, corrupted
from studies.robustness.score import FILE, score_runs, wanted


@pytest.fixture
def finished(tmp_path):
    """A finished run with the saved model of random weights; a failed one; one without its model."""
    configs = [
        RunConfig("pareto", "classification", "scenes", "scenes_vit", "evit", 1, 0.5, seed, None, quick=True)
        for seed in range(3)
    ]
    torch.manual_seed(0)
    built = build(create_backbone("scenes_vit", num_classes=10, pretrained=False), parse_one("evit"), 0.5, seed=0)
    for config in (configs[0], configs[2]):
        folder = tmp_path / "runs" / config.id
        folder.mkdir(parents=True)
        record = synthetic_records.run_record(config.id, "evit", 0.5, config.seed, 0.1, 674)
        (folder / "result.json").write_text(json.dumps(record))
    save(
        built.model.fold().eval(), tmp_path / "runs" / configs[0].id / "model", backbone="scenes_vit", data_config=None
    )
    return tmp_path, configs


def test_what_is_predicted_of_each_item_is_kept_once(finished):
    out, configs = finished
    folder, told = out / "runs" / configs[0].id, []
    score_runs(configs[:2], out, ("noise", "blur"), tell=told.append)
    found = read_predictions(folder, FILE)
    assert told == [f"{configs[0].id} under {name}" for name in ("noise", "blur")]
    data, model = Scenes(once=True), load(folder / "model").eval()
    assert found["item"].tolist() == list(range(data.num_test)) and str(found["said_blur"]) == CORRUPTIONS["blur"].said
    agree = 0
    for item in (0, 5, 333, 673):
        one = data.test_items([item])
        assert found["target"][item] == one.target[0] and found["cluster"][item] == one.cluster[0]
        for name in ("noise", "blur"):
            (own,) = corrupted([one], name, data.mean, data.std)
            with torch.inference_mode():
                assert found[f"under_{name}"][item] == model(own.images).argmax()
    with torch.inference_mode():
        clean = torch.cat([model(own.images).argmax(dim=1) for own in data.test_batches(250)])
    agree = (found["under_noise"] == clean.numpy()).mean()
    assert 0.1 < agree < 0.999  # it is the same model, and it sees other images
    before = (folder / FILE).read_bytes()
    score_runs(configs[:2], out, ("blur", "noise"), tell=told.append)
    assert (folder / FILE).read_bytes() == before and len(told) == 2
    score_runs(configs[:1], out, ("contrast",), tell=told.append)
    more = read_predictions(folder, FILE)
    assert {*more} - {*found} == {"under_contrast", "said_contrast"}
    assert all(np.array_equal(more[name], found[name]) for name in found)


def test_another_severity_is_scored_again(finished, monkeypatch):
    out, configs = finished
    score_runs(configs[:1], out, ("blur",), tell=lambda _: None)
    monkeypatch.setitem(CORRUPTIONS, "blur", CORRUPTIONS["contrast"]._replace(said="more blur"))
    score_runs(configs[:1], out, ("blur",), tell=lambda _: None)
    assert str(read_predictions(out / "runs" / configs[0].id, FILE)["said_blur"]) == "more blur"


def test_a_run_without_its_model_is_named(finished):
    out, configs = finished
    with pytest.raises(ValueError, match=f"{configs[2].id} has no saved model"):
        score_runs(configs[2:], out, ("blur",))


def test_what_cannot_be_scored_is_refused():
    assert wanted("all", "classification", "local") == tuple(CORRUPTIONS)
    with pytest.raises(ValueError, match="not of segmentation; valid for: classification"):
        wanted("all", "segmentation", "local")
    with pytest.raises(ValueError, match="--launcher local"):
        wanted("all", "classification", "slurm")
