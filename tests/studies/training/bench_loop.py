"""What the training loop costs beside forward, backward, data and the arithmetic of the optimiser (clipping, AdamW), on
the default recipe of scenes.

`python tests/studies/bench_loop.py [REDUCER ...]`; not collected as a test. Shares of the processor time of this one
thread, so that what else the machine does is not in them; the clocks' own time counts as the loop's.
"""

import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cropr.method import Training
from studies.catalogue.pareto import FINETUNE
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.tasks.classification import criterion
from studies.training.trainer import Trainer

STEPS, WARM = 42, 8


class Clock:
    """Seconds spent under each name."""

    def __init__(self):
        self.spent = {}

    @contextmanager
    def __call__(self, name):
        start = time.process_time()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - start


class Timed(Trainer):
    """A Trainer that says where its time went: gradients, data and the optimiser's arithmetic are not the loop's."""

    clock = Clock()

    def _backward(self, batch) -> Tensor:
        with self.clock("forward and backward"):
            return super()._backward(batch)

    def _update(self, params) -> None:
        with self.clock("optimiser"):
            super()._update(params)

    def _batches(self, epoch, start):
        batches = super()._batches(epoch, start)
        while True:
            with self.clock("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def main(reducer):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vit = create_backbone("scenes_vit", pretrained=False)
    method = parse_one(reducer)
    built = build(vit, method, 0.5 if method.takes_budget else None)
    teacher = lambda: create_backbone("scenes_vit", pretrained=False)  # noqa: E731
    objective = built.method.objective(Training(built.model, criterion(), teacher))
    with tempfile.TemporaryDirectory() as folder:
        run = Timed(built.model, objective, Scenes(), FINETUNE, Path(folder))
        run.model.train()
        steps, count = [], 0
        while count < STEPS + WARM:
            for batch in run._batches(count, 0):
                run.loss_sum += run._step(batch)
                count += 1
                if count == WARM:
                    run.clock.spent.clear()
                    start = time.process_time()
                if count == STEPS + WARM:
                    break
        whole = time.process_time() - start
        begun = time.perf_counter()
        run.save()
        saving = time.perf_counter() - begun
    parts = dict(run.clock.spent)
    parts["loop"] = whole - sum(parts.values())
    steps = ", ".join(f"{name} {100 * seconds / whole:.2f} %" for name, seconds in parts.items())
    print(
        f"{reducer:<11} n = {STEPS} steps, {1e3 * whole / STEPS:.1f} ms each: {steps}; one save {1e3 * saving:.0f} ms"
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or ["none", "cropr", "dynamicvit"]:
        main(name)
