"""What test_distributed.py runs, alone and in two processes: the first steps of some trainings, and whole runs.

`python train_together.py FOLDER` with the environment of torchrun; the first process writes FOLDER/<case>.safetensors.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from cropr.method import Training
from cropr.method.objective import CrossEntropy, Objective, Term
from studies.config import Recipe, RunConfig
from studies.data.sets.scenes import Scenes
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.runs.run import execute
from studies.tasks.classification import criterion
from studies.training.distributed import ALONE, join
from studies.training.trainer import Trainer

STEPS = 3
RECIPE = Recipe(epochs=1, batch_size=24, lr=1e-3, warmup_epochs=0.0, ema=0.9)


class SomeLabels(Scenes):
    """Labels of patches, of which the first half of a batch has few: 255 is none."""

    def batch(self, split, index):
        batch = super().batch(split, index)
        draw = torch.Generator().manual_seed(0)
        few = torch.rand(RECIPE.batch_size, 64, generator=draw) > torch.linspace(0, 1, RECIPE.batch_size)[:, None]
        few = few[torch.from_numpy(index) % RECIPE.batch_size]
        return batch._replace(target=batch.patch_target.masked_fill(few, 255))


class Labels(Objective):
    """Every patch is named by its first eleven channels."""

    def __init__(self):
        super().__init__(CrossEntropy(ignore_index=255))

    def __call__(self, model, batch):
        logits = model.forward_features(batch.images).patches[..., :11].transpose(1, 2)
        return {"main": Term(self.criterion(logits, batch.target), "label")}, self.counts(model, batch)


def trainer(case, folder, world, accumulate=1):
    """ "cropr", "dynamicvit" (draws at random), "labels" (some ignored), "idle" (auxiliary heads without gradient)."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, num_classes=10,
        drop_path_rate=0.2 if case == "dynamicvit" else 0.0,
    )  # fmt: skip
    method = parse_one({"labels": "none", "idle": "cropr"}.get(case, case))
    built = build(vit, method, 0.7 if method.takes_budget else None)
    data = SomeLabels() if case == "labels" else Scenes()
    objective = {"labels": Labels(), "idle": Objective(criterion())}.get(case)
    objective = objective or built.method.objective(Training(built.model, criterion(), lambda: vit))
    recipe = Recipe(**{**vars(RECIPE), "accumulate": accumulate})
    return Trainer(built.model, objective, data, recipe, folder, world=world)


def first_steps(case, folder, world=ALONE, accumulate=1):
    """Losses [STEPS], gradient of the last step, weights behind it, and their average."""
    run = trainer(case, folder, world, accumulate)
    run.model.train()
    batches = run._batches(0, 0)
    losses = torch.stack([run._step(next(batches)) for _ in range(STEPS)])
    grads = {f"grad.{name}": p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    weights = {f"weight.{name}": tensor for name, tensor in run.model.state_dict().items()}
    average = {f"average.{name}": tensor for name, tensor in run.evaluated.state_dict().items()}
    whole = {"losses": losses} | grads | weights | average
    return {name: tensor.detach().clone().contiguous() for name, tensor in whole.items()}


def runs(weights):
    """Off the shelf, and trained."""
    shared = dict(
        study="pareto", task="classification", dataset="scenes", backbone="scenes_vit", method_version=1, budget=0.5,
        seed=0, checkpoint=str(weights),
    )  # fmt: skip
    recipe = Recipe(epochs=1, batch_size=449)
    return [RunConfig(reducer="random", recipe=None, **shared), RunConfig(reducer="cropr", recipe=recipe, **shared)]


def detected(world=ALONE):
    """Scores of a detector that has learnt nothing, of 20 images in batches of 4."""
    from studies.models.backbones import create_backbone
    from studies.tasks.detection import evaluate

    torch.manual_seed(0)
    vit = create_backbone("scenes_vit_sincos", pretrained=False, detector=True)
    data, model = Scenes("detection", num_digits=(1, 4)), build(vit, parse_one("random", True), 0.6).model
    batches = [data.test_items(range(first, first + 4)) for first in range(0, 20, 4)][world.turns]
    return evaluate(model, batches, "cpu", world=world)


def main(folder):
    torch.set_num_threads(1)
    world = join("cpu")
    for case in ("cropr", "dynamicvit", "labels", "idle"):
        found = first_steps(case, folder, world)
        if world.first:
            save_file(found, folder / f"{case}.safetensors")
    scores = detected(world)
    if world.first:
        np.savez(folder / "detected.npz", **scores.predictions)
        (folder / "detected.json").write_text(json.dumps([scores.metrics, scores.facts]))
    for _ in range(2):  # the second time there is nothing to do
        for config in runs(folder / "weights.safetensors"):
            execute(config, folder / "out")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
