"""Worker processes that decode: with any number of them a training is the same to the bit, also one that was stopped in
the middle of an epoch, and so are errors."""

import subprocess
from dataclasses import fields
from multiprocessing import active_children
from types import SimpleNamespace

import pytest
import torch
from image_folders import CLASSES, CONFIG, folder, write_root
from tiny_models import tiny

from cropr.method.objective import Objective
from cropr.vit import ReducedViT
from results.records.store import Claim
from studies.config import Recipe, RunConfig
from studies.data.loading import UnreadableImages
from studies.data.workers import num_workers
from studies.launch.jobs import Job
from studies.launch.profile import resources
from studies.tasks.classification import criterion
from studies.training.trainer import Stopped, Trainer

AUGMENT = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5}


def trainer(root, out, workers, at_step=None):
    """Two epochs of 5 steps; `at_step(trainer)` is called behind each step."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = ReducedViT(tiny("token", num_classes=3, drop_path_rate=0.3))  # draws random numbers in every step
    data = folder(root, vit_config={**CONFIG, "input_size": (3, 48, 48)}, augment=AUGMENT, workers=workers)
    made = Trainer(model, Objective(criterion()), data, Recipe(epochs=2, batch_size=4, lr=1e-3), out)
    step = made._step

    def observed(batch):
        loss = step(batch)
        if at_step is not None:
            at_step(made)
        return loss

    made._step = observed
    return made


def weights(made):
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def signal_and_stop(made):
    if made.step == 2:
        for name in ("TERM", "USR2", "INT"):  # as Slurm and terminals do: not from the process that trains
            subprocess.run(["kill", f"-{name}", *(str(child.pid) for child in active_children())], check=True)
    if made.step == 3:
        made.stop()


def test_stopped_and_continued_with_other_workers_is_the_same_training(tmp_path):
    root = write_root(tmp_path / "images")
    plain = trainer(root, tmp_path / "plain", workers=0)
    plain.run()
    stopped = trainer(root, tmp_path / "run", workers=1, at_step=signal_and_stop)
    with pytest.raises(Stopped, match="step 3 of 10"):
        stopped.run()
    (child,) = active_children()
    child.terminate()  # by its parent, as when Python ends
    child.join(20)
    assert child.exitcode == 0
    del stopped
    continued = trainer(root, tmp_path / "run", workers=2)
    continued.run()
    assert len(active_children()) == 2
    expected, found = weights(plain), weights(continued)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    losses = [[line["train_loss"] for line in made.history] for made in (plain, continued)]
    assert losses[0] == losses[1] and len(losses[0]) == 2

    (root / "train" / CLASSES[0] / "1.png").write_bytes(b"")
    said = []
    for data in (folder(root, scan_limit=0), continued.data):
        with pytest.raises(UnreadableImages) as error:
            list(data.train_batches(0, 21))
        said.append(str(error.value))
    assert said[0] == said[1] and f"train/{CLASSES[0]}/1.png" in said[0]


def test_by_default_there_is_a_worker_for_each_cpu_that_a_run_does_not_compute_on():
    assert [num_workers(cpus) for cpus in (1, 2, 8, 17, 96)] == [0, 1, 7, 16, 16]
    assert num_workers(4, computing=4) == num_workers(2, computing=3) == 0
    asked = {None: 3, 0: 0, 5: 5}
    for given, expected in asked.items():
        job = Job("out", "runs", ("run",), num_threads=4, workers=given)
        ((_, work),) = job._work(Claim, SimpleNamespace(watch=None), slurm=False)
        assert work.args[-1].workers == expected
    assert resources(None, {"workers": 5}).workers == 5 and resources(None, {"workers": None}).workers is None
    with pytest.raises(ValueError, match="workers is a whole number, not -1"):
        resources(None, {"workers": -1})
    assert "workers" not in {field.name for field in fields(RunConfig)}  # no part of what a run is
