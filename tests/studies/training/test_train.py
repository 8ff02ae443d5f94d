"""The training loop: schedule, groups, a batch in parts, a training that is stopped, and one that diverges."""

import dataclasses
import json
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from baselines.dynamicvit import DynamicViT, DynamicViTObjective
from cropr.method import Training
from cropr.method.objective import CrossEntropy, Objective, Term, weighted_loss
from cropr.vit import ReducedViT
from studies.config import Recipe, RunConfig, replace_key
from studies.data import Batch
from studies.data.sets.scenes import Scenes
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.runs.provenance import weight_digest
from studies.tasks.classification import criterion
from studies.training.rates import learning_rate, parameter_groups
from studies.training.trainer import Diverged, Stopped, Trainer

RECIPE = Recipe(epochs=2, batch_size=299, lr=1e-3, ema=0.9)  # three steps an epoch


def trainer(folder, reducer="cropr", recipe=RECIPE, evaluate=None, data=None):
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, num_classes=10)
    method = parse_one(reducer)
    built = build(vit, method, 0.7 if method.takes_budget else None)
    objective = built.method.objective(Training(built.model, criterion(), lambda: vit))
    folder.mkdir(exist_ok=True)
    return Trainer(built.model, objective, data or Scenes(), recipe, folder, evaluate=evaluate)


TIMES = {"train_seconds": 0, "images_per_s": 0}  # what two runs need not have alike


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


class Interrupted(Scenes):
    """The process gets a signal while it works on batch number `at`."""

    def __init__(self, at):
        super().__init__()
        self.at, self.given = at, 0

    def train_batches(self, epoch, batch_size, start=0, rows=slice(None)):
        for batch in super().train_batches(epoch, batch_size, start, rows):
            self.given += 1
            if self.given == self.at:
                os.kill(os.getpid(), signal.SIGUSR2)
            yield batch


@pytest.mark.parametrize(("reducer", "accumulate"), [("dynamicvit", 1), ("cropr", 2)])
def test_a_signal_stops_at_a_step_and_the_rest_is_as_if_it_had_not(tmp_path, reducer, accumulate):
    recipe = dataclasses.replace(RECIPE, accumulate=accumulate)
    whole = trainer(tmp_path / "whole", reducer, recipe)
    whole.run()
    before = signal.getsignal(signal.SIGUSR2)
    try:
        for at in (2, 3):  # within an epoch, and at its end
            cut = trainer(tmp_path / str(at), reducer, recipe, data=Interrupted(at))
            signal.signal(signal.SIGUSR2, lambda *_, cut=cut: cut.stop())
            with pytest.raises(Stopped, match=f"step {at} of 6"):
                cut.run()
            rest = trainer(tmp_path / str(at), reducer, recipe)
            torch.randn(at)  # another place in the stream of random numbers
            rest.run()
            assert weight_digest(rest.model) == weight_digest(whole.model)
            assert weight_digest(rest.evaluated) == weight_digest(whole.evaluated)
            for ours, theirs in zip(rest.history, whole.history, strict=True):
                assert ours | TIMES == theirs | TIMES
            log = (tmp_path / str(at) / "log.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in log] == rest.history
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("saved", [True, False])
def test_a_log_that_is_ahead_of_the_state_is_set_back(tmp_path, saved):
    first = trainer(tmp_path / "run")
    batches = first._batches(0, 0)
    first.model.train()
    first._step(next(batches))
    if saved:
        first.save()
    (tmp_path / "run" / "log.jsonl").write_text('{"epoch": 1}\n')  # killed between the log and the state of an epoch
    rest = trainer(tmp_path / "run")
    rest.run()
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in log] == rest.history


# What is no number


def after_one_good_epoch(folder, **changes):
    """A training that goes on from there with other settings."""
    good = trainer(folder, recipe=dataclasses.replace(RECIPE, epochs=1))
    good.run()
    return trainer(folder, recipe=dataclasses.replace(RECIPE, **changes)), good.state_file.read_bytes()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    bad, before = after_one_good_epoch(tmp_path / "run", lr=1e18)
    with pytest.raises(Diverged, match="the loss became nan in epoch 2, at step 6 of 6"):
        bad.run()
    assert bad.state_file.read_bytes() == before
    again = trainer(tmp_path / "run")  # with settings that do not diverge it goes on from there
    assert len(again.run()) == 2


@pytest.mark.parametrize("ema", [None, 0.9])
def test_weights_that_are_no_numbers_are_never_saved(tmp_path, ema):
    good, before = after_one_good_epoch(tmp_path / "run", ema=0.9)
    bad = trainer(tmp_path / "run", recipe=dataclasses.replace(RECIPE, lr=1e39))
    bad.load()
    bad.model.train()
    loss = bad._step(next(bad._batches(1, 0)))  # the last step before a save, say, and its loss is fine
    assert loss.isfinite()
    if ema is None:  # also where the average alone has taken it up
        bad.model.load_state_dict(good.model.state_dict())
    bad.loss_sum += loss
    for leave in (bad.check, bad.save):
        with pytest.raises(Diverged, match="no longer finite in epoch 2, at step 4 of 6"):
            leave()
    assert bad.state_file.read_bytes() == before


# A batch in parts


class Labels(Objective):
    """Every patch is named by the bias-free logits of its first ten channels; label 255 is none."""

    def __init__(self):
        super().__init__(CrossEntropy(ignore_index=255))

    def __call__(self, model, batch):
        logits = model.forward_features(batch.images).patches[..., :10].transpose(1, 2)
        return {"main": Term(self.criterion(logits, batch.target), "label")}, self.counts(model, batch)


def unevenly_labelled(images):
    """A batch whose first images have no labels at all, and whose others have more and more. [B, 64]"""
    target = torch.randint(10, (len(images), 64), generator=torch.Generator().manual_seed(3))
    share = torch.linspace(-0.5, 1, len(images))[:, None]
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(4)) > share] = 255
    index = torch.arange(len(images))
    return Batch(images, target, index, index)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def far(ours, theirs):
    """Largest error, in units of the largest gradient."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def in_parts(model, objective, batch, accumulate, folder):
    """The gradient that a Trainer makes of `batch`."""
    recipe = Recipe(epochs=1, batch_size=len(batch.images), accumulate=accumulate)
    run = Trainer(model, objective, Scenes(), recipe, folder)
    model.train()
    model.zero_grad()
    loss = run._backward(batch)
    return loss, gradient(model)


def tiny_vit():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, num_classes=10)


TOLERANCE = 1e-5  # of the largest gradient: fp32 rounding of sums in another order


def test_ignored_labels_count_for_the_whole_batch(tmp_path):
    model = ReducedViT(tiny_vit())
    batch = unevenly_labelled(next(Scenes().train_batches(0, 24)).images)
    exact = ReducedViT(tiny_vit()).double().train()
    logits = exact.forward_features(batch.images.double()).patches[..., :10]
    labelled = batch.target != 255
    loss = F.cross_entropy(logits[labelled], batch.target[labelled])
    loss.backward()
    for parts in (1, 2, 3, 5):
        ours, grad = in_parts(model, Labels(), batch, parts, tmp_path)
        torch.testing.assert_close(ours, loss.float())
        assert far(grad, gradient(exact)) < TOLERANCE
    exact.zero_grad()
    for rows in (slice(8, 16), slice(16, 24)):  # the mean of the means of those that have any label
        logits = exact.forward_features(batch.images[rows].double()).patches[..., :10]
        (F.cross_entropy(logits[labelled[rows]], batch.target[rows][labelled[rows]]) / 2).backward()
    assert far(grad, gradient(exact)) > 10 * TOLERANCE


class Likelier(DynamicViT):
    """Keeps what is likelier also while training, with the same gradient: a decision that no random number changes."""

    def decide(self, log_prob):
        prob = log_prob.exp()[..., 0]
        return (prob > 0.5).float() + prob - prob.detach()


def masked_model(images):
    """The first predictor keeps half of all patches of these images, more in some and fewer in others."""
    vit = tiny_vit()
    nn.init.normal_(vit.patch_embed.proj.weight, std=0.2)
    reducers = {i: Likelier(32, 24) for i in (0, 1, 2)}
    with torch.no_grad():
        for reducer in reducers.values():
            reducer.predictor.out_linear3.bias[0] = 10.0
        patches = vit.blocks[0](vit._pos_embed(vit.patch_embed(images)))[:, 1:]
        logits = reducers[0].predictor(patches, torch.ones(patches.shape[:2]))
        reducers[0].predictor.out_linear3.bias[0] -= (logits[..., 0] - logits[..., 1]).median()
    return ReducedViT(vit, reducers, policy="exact")


class Remembering(DynamicViTObjective):
    """Keeps the decisions it counted."""

    def count(self, keep, target):
        self.seen = [*getattr(self, "seen", []), keep.detach()]
        return super().count(keep, target)


def distilling(model, kind=DynamicViTObjective, **options):
    torch.manual_seed(5)
    teacher = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, num_classes=10)
    return kind(criterion(), ReducedViT(teacher), [0.7, 0.49, 0.343], distill_weight=50.0, **options)


def test_kept_tokens_count_for_the_whole_batch(tmp_path):
    batch = next(Scenes().train_batches(0, 24))
    model = masked_model(batch.images)
    objective = distilling(model, Remembering)
    loss, right = in_parts(model, objective, batch, 1, tmp_path)
    kept = objective.seen[0].sum(dim=1)
    assert kept.max() > kept.min() + 5  # images keep different numbers of tokens
    for parts in (2, 3, 5):
        ours, grad = in_parts(model, objective, batch, parts, tmp_path)
        torch.testing.assert_close(ours, loss)
        assert far(grad, right) < TOLERANCE
    model.zero_grad()
    for rows in (slice(0, 8), slice(8, 16), slice(16, 24)):  # the mean of means
        part = batch._replace(images=batch.images[rows], target=batch.target[rows])
        (weighted_loss(*objective(model, part)) / 3).backward()
    assert far(gradient(model), right) > 10 * TOLERANCE


def test_what_is_counted_is_what_is_decided(tmp_path):
    run = trainer(tmp_path / "run", "dynamicvit", dataclasses.replace(RECIPE, accumulate=3))
    objective = distilling(run.model, Remembering)
    in_parts(run.model, objective, next(Scenes().train_batches(0, 24)), 3, tmp_path)
    counted, decided = objective.seen[:3], objective.seen[3:]
    assert len(decided) == 3 and all(a.equal(b) for a, b in zip(counted, decided, strict=True))
    assert not decided[0].equal(decided[1])  # every part draws its own


def test_a_square_of_a_mean_over_the_batch_is_not_split(tmp_path):
    accumulating = dataclasses.replace(RECIPE, accumulate=2)
    with pytest.raises(ValueError, match="batch_mean"):
        trainer(tmp_path / "run", "dynamicvit:batch_mean=true", accumulating)
    trainer(tmp_path / "run", "dynamicvit:batch_mean=true")


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
        study="pareto", task="classification", dataset="scenes", backbone="scenes_vit", reducer="cropr:rest=llf",
        method_version=1, budget=0.5, seed=0, recipe=RECIPE,
    )  # fmt: skip
    return RunConfig(**(values | changes))


def test_a_run_is_named_by_what_was_asked_for():
    assert config().id == config(device="cuda", data_dir="elsewhere").id
    others = [config(seed=1), config(method_version=2), config(recipe=dataclasses.replace(RECIPE, lr=1e-4))]
    assert len({run.id for run in [config(), *others]}) == 4


def test_settings_are_checked():
    assert replace_key(RECIPE, "lr", "1").lr == 1.0
    with pytest.raises(ValueError, match="did you mean epochs"):
        replace_key(RECIPE, "epoch", "3")
    with pytest.raises(ValueError, match="setting epochs cannot be .many."):
        replace_key(RECIPE, "epochs", "many")


def test_epochs_are_evaluated_at_the_wanted_distance_and_at_the_end(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=5, evaluate_every=2)
    lines = trainer(tmp_path, "none", recipe, evaluate=lambda model: {"top1": 0.5}).run()
    assert ["top1" in line for line in lines] == [False, True, False, True, True]


@pytest.mark.parametrize("damage", ["cut", "empty", "no state"])
def test_a_damaged_state_is_put_aside_and_training_begins_anew(tmp_path, damage, caplog):
    first = trainer(tmp_path / "run")
    whole = first.run()
    data = first.state_file.read_bytes()
    first.state_file.write_bytes(
        {"cut": data[: len(data) // 2], "empty": b"", "no state": data[:8] + b"x" + data[9:]}[damage]
    )
    again = trainer(tmp_path / "run")
    assert [line["train_loss"] for line in again.run()] == [line["train_loss"] for line in whole]
    assert "last.safetensors cannot be read" in caplog.text and (tmp_path / "run" / "last.broken").exists()
    assert weight_digest(again.model) == weight_digest(first.model)
