"""One training loop for every task and reducer, which can be stopped at any step and continued.

The state is one safetensors file, replaced atomically: model, averaged weights, optimiser, scaler, random numbers, step
and log. It is never written with a number in it that is none.

A batch may be worked off in micro-batches (`Recipe.accumulate`): every part divides its sums by the counts of the whole
batch, so that the gradient is that of the whole batch whatever its terms are means over.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cropr.method.objective import Counts, Objective, weighted_loss
from cropr.vit import ReducedViT
from results.records.store import append_line, write_text
from studies.config import Recipe
from studies.data import Batch, Data, Instances
from studies.training.distributed import ALONE, World
from studies.training.rates import learning_rate, parameter_groups
from studies.training.state import below, load_optimizer, optimizer_tensors, read_state, there_is, under, write_state

__all__ = ["Diverged", "Stopped", "Trainer"]

SAVE_EVERY_S = 60.0  # between two saves; a killed run loses at most this, and an epoch's end always saves


class Diverged(FloatingPointError):
    """The loss, or what it left of the model, is not a number any more."""


class Stopped(BaseException):
    """Training was asked to stop. Its exact state is on disk, and the same run continues from there. Like
    KeyboardInterrupt it is no error, and passes by what records errors."""


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """`batch` with `change` made to every column that it has."""
    parts: dict[str, Any] = {name: part for name, part in batch._asdict().items() if part is not None}
    for name, part in parts.items():
        parts[name] = Instances(*map(change, part)) if isinstance(part, Instances) else change(part)
    return batch._replace(**parts)


def _rows(begin: int, end: int, column: Tensor) -> Tensor:
    return column[begin:end]


class Trainer:
    """Trains `model` for `objective` on `data` by `recipe`, in `run_dir`.

    `evaluate(model)` returns metrics; log.jsonl gets a line for each epoch, with them where the recipe wants them. In a
    `world` of several processes all of them train, and the first one writes.
    """

    def __init__(
        self,
        model: ReducedViT,
        objective: Objective,
        data: Data,
        recipe: Recipe,
        run_dir: Path,
        *,
        device: str = "cpu",
        seed: int = 0,
        evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
        world: World = ALONE,
    ):
        self.model, self.objective, self.data, self.recipe = model.to(device), objective, data, recipe
        self.run_dir, self.device, self.seed, self.evaluate = run_dir, device, seed, evaluate
        self.world = world
        self.shares = self.world.size * recipe.accumulate  # parts of a batch, in the order of processes
        extra = objective if isinstance(objective, nn.Module) else None
        self.extra = extra.to(device) if extra is not None else None
        groups = parameter_groups(model, recipe, extra)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        self.steps_per_epoch = data.num_train // recipe.batch_size
        self.steps = recipe.epochs * self.steps_per_epoch
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.loss_sum = torch.zeros((), device=device)  # since the epoch began
        self.started = self.saved = time.monotonic()
        self.stopping = False
        self.amp = getattr(torch, recipe.amp) if recipe.amp else None
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp is torch.float16)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        model.vit.set_grad_checkpointing(recipe.checkpointing)
        self.mixup = self._mixup()
        if self.shares > 1 and not objective.separable:
            raise ValueError(
                "batch_mean=true squares a mean over the whole batch, which cannot be split "
                f"(accumulate={recipe.accumulate}, {self.world.size} processes); use batch_mean=false"
            )

    def _mixup(self) -> Any:
        if not (self.recipe.mixup or self.recipe.cutmix):
            return None
        from timm.data import Mixup

        return Mixup(
            self.recipe.mixup,
            self.recipe.cutmix,
            label_smoothing=self.recipe.label_smoothing,
            num_classes=self.data.num_classes,
        )

    @property
    def state_file(self) -> Path:
        return self.run_dir / "last.safetensors"

    def run(self) -> list[dict[str, Any]]:
        """Train from the last saved state, if there is one, to the end. Returns the log of all epochs.

        Raises Diverged (the last good state stays on disk), and Stopped behind a call of `stop`.
        """
        torch.manual_seed(self.seed)
        if self.world.any(self.world.first and there_is(self.state_file))[0]:
            self.load()
        if self.world.first:
            self._write_log()
        self.world.copy_first(self._tensors().values())
        self.started = self.saved = time.monotonic()
        while len(self.history) < self.recipe.epochs:
            epoch = len(self.history)
            self.model.train()
            for batch in self._batches(epoch, self.step - epoch * self.steps_per_epoch):
                self.loss_sum += self._step(batch)
                due = self.world.first and time.monotonic() - self.saved > SAVE_EVERY_S
                stopping, due = self.world.any(self.stopping, due)
                if stopping or due:
                    self.save()
                if stopping:
                    raise Stopped(f"stopped at step {self.step} of {self.steps}; the same run continues from there")
            self.check()
            self._finish_epoch(epoch)
            self.save()
        return self.history

    def stop(self) -> None:
        """Save and raise Stopped at the end of the step at hand. May be called by a signal handler, or a thread."""
        self.stopping = True

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        size = self.recipe.batch_size
        rest = self.data.train_batches(epoch + self.recipe.epoch_offset, size, start, self.world.share(size))
        return islice(rest, self.steps_per_epoch - start)

    def _step(self, batch: Batch) -> Tensor:
        """One optimiser step; returns its loss without waiting for the device."""
        recipe = self.recipe
        progress = self.step / self.steps
        rate = learning_rate(recipe, self.step, self.steps, recipe.warmup_epochs * self.steps_per_epoch)
        frozen = self.step < recipe.freeze_backbone_epochs * self.steps_per_epoch
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0 if frozen and group["vit"] else rate * group["lr_scale"]
        self.objective.before_step(self.model, progress)
        self.optimizer.zero_grad(set_to_none=True)
        total = self._backward(self._prepared(batch))
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.world.add_gradients(params, total)
        self._update(params)
        self.step += 1
        return total

    def _update(self, params: list[nn.Parameter]) -> None:
        """One step of the optimiser, and of the averaged weights."""
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(params, self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _prepared(self, batch: Batch) -> Batch:
        batch = mapped(batch, lambda column: column.to(self.device, non_blocking=True))
        if self.mixup is None:
            return batch
        np.random.seed((self.seed * 1_000_003 + self.step) % 2**32)  # timm's Mixup draws from numpy's global state
        images, target = self.mixup(batch.images, batch.target)
        return batch._replace(images=images, target=target)

    def _backward(self, batch: Batch) -> Tensor:
        """Adds up the gradient of `batch`, part by part; returns its loss. Both are this process's share of those of
        the whole batch."""
        parts, size = self.recipe.accumulate, len(batch.images)
        rows = [partial(_rows, size * i // parts, size * (i + 1) // parts) for i in range(parts)]
        counts = self._counts([mapped(batch, part) for part in rows]) if parts > 1 else None
        total = torch.zeros((), device=self.device)
        for i, part in enumerate(rows):
            self._draw(i)
            mine = mapped(batch, part)
            with self._autocast(), self.model.told(mine.truth):
                terms, own = self.objective(self.model, mine)
                loss = weighted_loss(terms, counts or self.world.total(own))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _counts(self, parts: list[Batch]) -> Counts:
        """The counts of the whole batch, before there is any loss."""
        each = []
        for i, part in enumerate(parts):
            self._draw(i)  # as again for the loss: what a method decides at random is the same both times
            with self._autocast(), self.model.told(part.truth):
                each.append(self.objective.counts(self.model, part))
        return self.world.total({name: torch.stack([own[name] for own in each]).sum() for name in each[0]})

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self.amp, enabled=self.amp is not None)

    def _draw(self, part: int) -> None:
        """Random numbers of a part of a batch (drop path, decisions) are a function of seed, step and part, whichever
        process works it off. A batch that is one part goes on with those of the step before."""
        if self.shares > 1:
            part += self.world.rank * self.recipe.accumulate
            torch.manual_seed((self.seed * 1_000_003 + self.step) * self.shares + part)

    def check(self) -> None:
        """Raise Diverged unless the loss since the epoch began and all that would be saved are numbers. Waits for the
        device."""
        where = f"in epoch {len(self.history) + 1}, at step {self.step} of {self.steps}"
        if not math.isfinite(loss := float(self.loss_sum)):
            raise Diverged(f"the loss became {loss} {where}")
        numbers = [tensor for tensor in self._tensors().values() if tensor.is_floating_point()]
        if not torch.stack([tensor.isfinite().all() for tensor in numbers]).all() or not self.scaler.get_scale() > 0:
            raise Diverged(f"the weights are no longer finite {where}, though the loss was")

    def _finish_epoch(self, epoch: int) -> None:
        self._take_time()
        loss = float(self.loss_sum) / self.steps_per_epoch
        rate = self.step * self.recipe.batch_size / self.seconds  # of all processes: their shares make one batch
        line = {
            "epoch": epoch + 1, "epochs": self.recipe.epochs, "train_loss": loss, "train_seconds": self.seconds,
            "images_per_s": rate,
        }  # fmt: skip
        self.objective.before_step(self.model, 1.0)  # a keep rate that still shrinks is evaluated at its final value
        last, due = epoch + 1 == self.recipe.epochs, (epoch + 1) % self.recipe.evaluate_every == 0
        if self.evaluate is not None and (last or due):
            line |= self.evaluate(self.evaluated)
        self.history.append(line)
        self.loss_sum.zero_()
        if self.world.first:
            append_line(self.run_dir / "log.jsonl", line)
        self.started = time.monotonic()

    def _take_time(self) -> None:
        now = time.monotonic()
        self.seconds, self.started = self.seconds + now - self.started, now

    @property
    def evaluated(self) -> nn.Module:
        """The model whose metrics count: the averaged one, where there is one."""
        return self.model if self.average is None else self.average.module

    def _tensors(self) -> dict[str, Tensor]:
        """All that training changes."""
        tensors = under("model", self.model.state_dict()) | under("optimizer", optimizer_tensors(self.optimizer))
        if self.extra is not None:
            tensors |= under("objective", self.extra.state_dict())
        if self.average is not None:
            tensors |= under("average", self.average.state_dict())
        return tensors

    def save(self) -> None:
        """Replace the state on disk. Raises Diverged, and leaves the last one, where a number is none."""
        self.check()
        self._take_time()
        if self.world.first:
            self._write()
        self.started = self.saved = time.monotonic()

    def _write(self) -> None:
        tensors = self._tensors() | {"loss_sum": self.loss_sum, "random.cpu": torch.get_rng_state()}
        if self.device.startswith("cuda"):
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        write_state(self.state_file, tensors, {
            "step": self.step, "seconds": self.seconds, "history": self.history, "scaler": self.scaler.state_dict()
        })  # fmt: skip

    def _write_log(self) -> None:
        """The log says again what it said when the state was saved: nothing, where none was."""
        write_text(self.run_dir / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))

    def load(self) -> None:
        """Continue where `save` was called."""
        tensors, values = read_state(self.state_file)
        self.model.load_state_dict(below("model", tensors))
        if self.extra is not None:
            self.extra.load_state_dict(below("objective", tensors))
        if self.average is not None:
            self.average.load_state_dict(below("average", tensors))
        load_optimizer(self.optimizer, below("optimizer", tensors))
        self.scaler.load_state_dict(values["scaler"])
        self.step, self.seconds, self.history = values["step"], values["seconds"], values["history"]
        self.loss_sum = tensors["loss_sum"].to(self.device)
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors["random.cuda"])
