"""Trained at one budget, scored at another: weights of the one, counts of the other, and one training for both."""

import json

import pytest
import torch
from safetensors.torch import save_file

from cropr.macs import count
from results.records.store import read_predictions
from studies.commands.run import Options, configs_of
from studies.data.datasets import create_dataset
from studies.launch.pending import write_configs
from studies.models.backbones import create_backbone
from studies.models.deploy import load
from studies.models.methods import builtin, parse_one
from studies.models.reducers import build
from studies.runs.run import execute

REDUCERS = "none,cropr,cropr:trained_at=0.8,tome:trained_at=1"


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """(directory, variant -> config) of a study that was executed backwards: what is scored comes first."""
    out = tmp_path_factory.mktemp("matrix")
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), out / "vit.safetensors")
    options = Options(
        reducers=REDUCERS, budgets="0.8,0.6", backbone=f"scenes_vit={out / 'vit.safetensors'}", quick=True,
        settings=["epochs=1", "batch_size=449", "lr=0.01"],
    )  # fmt: skip
    configs = configs_of(options)
    assert {config.variant for config in configs} == {
        "none", "cropr@0.6", "cropr@0.8", "cropr:trained_at=0.8@0.6", "tome:trained_at=1@0.6",
    }  # fmt: skip
    write_configs(configs, out)
    for config in reversed(configs):
        execute(config, out)
    return out, {config.variant: config for config in configs}


def result(out, config):
    return json.loads((out / "runs" / config.id / "result.json").read_text())


def test_weights_of_the_one_and_counts_of_the_other(matrix):
    out, configs = matrix
    for scored, trained, spec in (
        ("cropr:trained_at=0.8@0.6", "cropr@0.8", "cropr"), ("tome:trained_at=1@0.6", "none", "tome"),
    ):  # fmt: skip
        config, source = configs[scored], configs[trained]
        assert config.source == source.id and config.recipe == source.recipe
        record = result(out, config)
        assert record["budget_reached"] == pytest.approx(0.6, abs=0.05) and record["source"] == source.id
        assert record["train_seconds"] == 0 and record["objective"] == result(out, source)["objective"]
        own, theirs = (load(out / "runs" / one.id / "model").state_dict() for one in (config, source))
        assert all(torch.equal(own[key], value) for key, value in theirs.items()) and own.keys() == theirs.keys()
        # The slow way: a model made anew at that budget, given the weights by hand, image by image.
        vit = create_backbone("scenes_vit", pretrained=False)
        fresh = build(vit, parse_one(spec), 0.6).model.fold().eval()
        fresh.load_state_dict(theirs)
        assert count(fresh).total / 1e9 == pytest.approx(record["macs_g"]["total"])
        predicted = read_predictions(str(out / "runs" / config.id))["prediction"]
        images = create_dataset(config).test_items(range(40)).images
        with torch.no_grad():
            assert [int(fresh(image[None]).argmax()) for image in images] == predicted[:40].tolist()
    different = result(out, configs["cropr:trained_at=0.8@0.6"])["weight_digest"]
    assert different != result(out, configs["cropr@0.6"])["weight_digest"]


def test_one_training_serves_all_that_score_it(matrix):
    out, configs = matrix
    trained = {name for name, config in configs.items() if (out / "runs" / config.id / "log.jsonl").exists()}
    assert trained == {"none", "cropr@0.8", "cropr@0.6"}


def test_a_budget_of_its_own_is_the_same_figure(matrix):
    out, configs = matrix
    options = Options(
        reducers="none,cropr:trained_at=0.6", budgets="0.6", backbone=f"scenes_vit={out / 'vit.safetensors'}",
        quick=True, settings=["epochs=1", "batch_size=449", "lr=0.01"],
    )  # fmt: skip
    (again,) = [config for config in configs_of(options) if config.source is not None]
    execute(again, out)
    assert again.source == configs["cropr@0.6"].id
    assert result(out, again)["metrics"] == result(out, configs["cropr@0.6"])["metrics"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reducers": "cropr:trained_at=1"}, "learns queries"),
        ({"reducers": "cropr:rate=4,trained_at=0.5"}, "rate= leaves nothing to budget"),
        ({"reducers": "tome:trained_at=1", "train": "none"}, "trains nothing"),
        ({"reducers": "tome:trained_at=1.5"}, "trained_at cannot be '1.5'"),
        ({"reducers": "none:trained_at=0.5"}, "unknown option of none"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        configs_of(Options(**options))


def test_controls_have_the_counts_of_the_method_they_are_like():
    vit = create_backbone("scenes_vit", pretrained=False)
    for other in ("evit", "tome", "dynamicvit", "cropr"):
        counts = build(vit, parse_one(other), 0.6).model.token_counts()
        for name, cls in builtin().items():
            if "like" in cls.options() and cls.role != "method":
                like = build(vit, parse_one(f"{name}:like={other}"), 0.6)
                assert [row[2] for row in like.model.token_counts()] == [row[2] for row in counts], (name, other)
                assert like.method.like == other and like.method.rest == (parse_one(other).rest or "drop")
    with pytest.raises(ValueError, match="names no method that chooses"):
        parse_one("norm:like=random")
