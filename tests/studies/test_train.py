"""The training loop: schedule, groups, and that a stopped training ends like one that was not."""

import dataclasses

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from studies.config import Recipe, RunConfig, from_dict, replace_key
from studies.data.scenes import Scenes
from studies.reducers import build, make_objective, parse
from studies.run import weight_digest
from studies.tasks.classification import criterion
from studies.train import Diverged, Trainer, learning_rate, parameter_groups

RECIPE = Recipe(epochs=2, batch_size=449, lr=1e-3, ema=0.9)  # three steps an epoch


def trainer(folder, reducer="cropr", recipe=RECIPE, evaluate=None):
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, num_classes=10)
    (spec,) = parse(reducer)
    built = build(vit, spec, None if spec.name == "none" or spec.is_native else 0.7)
    objective = make_objective(spec, built, criterion(), lambda: vit)
    folder.mkdir(exist_ok=True)
    return Trainer(built.model, objective, Scenes(), recipe, folder, evaluate=evaluate)


class Killed(Exception):
    pass


def test_a_stopped_training_ends_like_an_uninterrupted_one(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run()

    def die(model):
        raise Killed  # behind the last step of epoch 1 and before its state is saved

    first = trainer(tmp_path / "cut", evaluate=die)
    with pytest.raises(Killed):
        first.run()
    assert first.step == 3
    middle = trainer(tmp_path / "cut")
    for batch in list(middle._batches(0, 0))[:2]:
        middle.model.train()
        middle._step(batch)
    middle.save()  # in the middle of epoch 1
    rest = trainer(tmp_path / "cut")
    rest.run()
    assert weight_digest(rest.model) == weight_digest(whole.model)
    assert weight_digest(rest.evaluated) == weight_digest(whole.evaluated) != weight_digest(whole.model)


def test_the_same_config_gives_the_same_weights_and_another_seed_does_not(tmp_path):
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        run = trainer(tmp_path / str(number), "dynamicvit")  # draws at random while training
        run.seed = seed
        run.run()
        digests.append(weight_digest(run.model))
    assert digests[0] == digests[1] != digests[2]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    good = trainer(tmp_path / "run", recipe=dataclasses.replace(RECIPE, epochs=1))
    good.run()
    before = good.state_file.read_bytes()
    bad = trainer(tmp_path / "run", recipe=dataclasses.replace(RECIPE, epochs=2))
    bad.objective.criterion = lambda logits, target: logits.sum() * float("nan")
    with pytest.raises(Diverged, match="nan in epoch 2"):
        bad.run()
    assert bad.state_file.read_bytes() == before


def test_accumulation_is_the_whole_batch(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, ema=None)
    one = trainer(tmp_path / "one", "none", recipe)
    three = trainer(tmp_path / "three", "none", dataclasses.replace(recipe, accumulate=3))
    one.run(), three.run()
    for ours, theirs in zip(one.model.parameters(), three.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_learning_rate_warms_up_and_falls():
    recipe = Recipe(epochs=10, lr=1.0, min_lr=0.1, warmup_start=0.2)
    rates = [learning_rate(recipe, step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55) and rates[99] > 0.1
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_layer_decay_reaches_the_embedding_and_spares_the_reducers(tmp_path):
    model = trainer(tmp_path / "run").model
    groups = parameter_groups(model, Recipe(layer_decay=0.5, weight_decay=0.1))
    scale = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert scale[id(model.vit.patch_embed.proj.weight)] == (0.5**5, 0.1)
    assert scale[id(model.vit.blocks[3].mlp.fc1.weight)] == (0.5, 0.1)
    assert scale[id(model.vit.pos_embed)] == (0.5**5, 0.0)
    assert scale[id(model.reducers["0"].queries)] == (1.0, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def config(**changes):
    values = dict(
        study="pareto", task="classification", dataset="scenes", backbone="scenes_vit", reducer="cropr:llf=true",
        method_version=1, budget=0.5, seed=0, recipe=RECIPE,
    )  # fmt: skip
    return RunConfig(**(values | changes))


def test_a_run_is_named_by_what_was_asked_for():
    assert config().id == config(device="cuda", data_dir="elsewhere").id
    others = [config(seed=1), config(method_version=2), config(recipe=dataclasses.replace(RECIPE, lr=1e-4))]
    assert len({run.id for run in [config(), *others]}) == 4
    assert from_dict(config().to_dict()) == config()


def test_settings_are_checked():
    assert replace_key(RECIPE, "lr", "1").lr == 1.0
    with pytest.raises(ValueError, match="Did you mean epochs"):
        replace_key(RECIPE, "epoch", "3")
    with pytest.raises(ValueError, match="is a int"):
        replace_key(RECIPE, "epochs", "many")
