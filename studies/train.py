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

from cropr.objective import Counts, weighted_loss
from cropr.vit import ReducedViT
from results.store import append_line, write_text
from studies.config import Recipe
from studies.data import Batch
from studies.state import below, load_optimizer, optimizer_tensors, read_state, under, write_state

__all__ = ["Diverged", "Stopped", "Trainer", "learning_rate", "parameter_groups"]

SAVE_EVERY_S = 60.0  # between two saves; a killed run loses at most this, and an epoch's end always saves


class Diverged(FloatingPointError):
    """The loss, or what it left of the model, is not a number any more."""


class Stopped(Exception):
    """Training was asked to stop. Its exact state is on disk, and the same run continues from there."""


def learning_rate(recipe: Recipe, step: int, steps: int, warmup_steps: float) -> float:
    """Learning rate at `step` of `steps`: warm-up from a share of it, then half a cosine (or poly .9) to `min_lr`."""
    if step < warmup_steps:
        done = step / warmup_steps
        done = (1 - math.cos(math.pi * done)) / 2 if recipe.warmup_shape == "cosine" else done
        return recipe.lr * (recipe.warmup_start + (1 - recipe.warmup_start) * done)
    done = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    left = (1 - done) ** 0.9 if recipe.schedule == "poly" else (1 + math.cos(math.pi * done)) / 2
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * left


def parameter_groups(model: ReducedViT, recipe: Recipe, extra: nn.Module | None = None) -> list[dict[str, Any]]:
    """Groups with `lr_scale` (layer decay, backbone factor) and weight decay: none for biases, norms and embeddings."""
    depth = len(model.vit.blocks)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    named = [*model.named_parameters(), *(extra.named_parameters(prefix="objective") if extra is not None else ())]
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        scale = recipe.reducer_lr
        if name.startswith("vit."):
            layer = _layer(name, depth)
            scale = recipe.backbone_lr * recipe.layer_decay ** (depth + 1 - layer)
        plain = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token", "reg_token", "dist_token"))
        decay = 0.0 if plain else recipe.weight_decay
        key = (scale, decay)
        groups.setdefault(key, {"params": [], "lr_scale": scale, "weight_decay": decay, "vit": name.startswith("vit.")})
        groups[key]["params"].append(parameter)
    return list(groups.values())


def _layer(name: str, depth: int) -> int:
    """0 for the embedding, i + 1 for block i, depth + 1 for what follows."""
    parts = name.split(".")
    if parts[1] == "blocks":
        return int(parts[2]) + 1
    return (
        0 if parts[1] in ("patch_embed", "pos_embed", "cls_token", "reg_token", "dist_token", "norm_pre") else depth + 1
    )


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """`batch` with `change` made to every column that it has."""
    return batch._replace(**{name: change(part) for name, part in batch._asdict().items() if part is not None})


def _rows(begin: int, end: int, column: Tensor) -> Tensor:
    return column[begin:end]


class Trainer:
    """Trains `model` for `objective` on `data` by `recipe`, in `run_dir`.

    `evaluate(model)` returns the metrics of an epoch; log.jsonl gets one line each.
    """

    def __init__(
        self,
        model: ReducedViT,
        objective: Any,
        data: Any,
        recipe: Recipe,
        run_dir: Path,
        *,
        device: str = "cpu",
        seed: int = 0,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    ):
        self.model, self.objective, self.data, self.recipe = model.to(device), objective, data, recipe
        self.run_dir, self.device, self.seed, self.evaluate = run_dir, device, seed, evaluate
        extra = objective if isinstance(objective, nn.Module) else None
        self.extra = extra.to(device) if extra is not None else None
        groups = parameter_groups(model, recipe, extra)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        self.steps_per_epoch = data.num_train // recipe.batch_size
        self.steps = recipe.epochs * self.steps_per_epoch
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.loss_sum = torch.zeros((), device=device)  # since the epoch began
        self.started = self.saved = time.monotonic()
        self.stopping = False
        self.amp = getattr(torch, recipe.amp) if recipe.amp else None
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp is torch.float16)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        model.vit.set_grad_checkpointing(recipe.checkpointing)
        if recipe.accumulate > 1 and not objective.separable:
            raise ValueError(
                f"accumulate={recipe.accumulate} splits a batch whose loss squares a mean over all of it "
                "(batch_mean=true); use accumulate=1, or batch_mean=false"
            )
        self.mixup = self._mixup()

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

    def run(self) -> list[dict[str, float]]:
        """Train from the last saved state, if there is one, to the end. Returns the log of all epochs.

        Raises Diverged (the last good state stays on disk), and Stopped behind a call of `stop`.
        """
        torch.manual_seed(self.seed)
        if self.state_file.exists():
            self.load()
        self.started = self.saved = time.monotonic()
        while len(self.history) < self.recipe.epochs:
            epoch = len(self.history)
            self.model.train()
            for batch in self._batches(epoch, self.step - epoch * self.steps_per_epoch):
                self.loss_sum += self._step(batch)
                if self.stopping or time.monotonic() - self.saved > SAVE_EVERY_S:
                    self.save()
                if self.stopping:
                    raise Stopped(f"stopped at step {self.step} of {self.steps}; the same run continues from there")
            self.check()
            self._finish_epoch(epoch)
            self.save()
        return self.history

    def stop(self) -> None:
        """Save and raise Stopped at the end of the step at hand. May be called by a signal handler, or a thread."""
        self.stopping = True

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        rest = self.data.train_batches(epoch + self.recipe.epoch_offset, self.recipe.batch_size, start)
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
        if recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(params, recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return total

    def _prepared(self, batch: Batch) -> Batch:
        batch = mapped(batch, lambda column: column.to(self.device, non_blocking=True))
        if self.mixup is None:
            return batch
        np.random.seed((self.seed * 1_000_003 + self.step) % 2**32)  # timm's Mixup draws from numpy's global state
        images, target = self.mixup(batch.images, batch.target)
        return batch._replace(images=images, target=target)

    def _backward(self, batch: Batch) -> Tensor:
        """Adds up the gradient of `batch`, part by part; returns its loss."""
        shares, size = self.recipe.accumulate, len(batch.images)
        parts = [mapped(batch, partial(_rows, size * i // shares, size * (i + 1) // shares)) for i in range(shares)]
        counts: Counts | None = None
        if shares > 1:
            each = []
            for i, part in enumerate(parts):
                self._draw(i)  # as again below: what a method decides at random is the same both times
                with self._autocast():
                    each.append(self.objective.counts(self.model, part))
            counts = {name: torch.stack([own[name] for own in each]).sum() for name in each[0]}
        total = torch.zeros((), device=self.device)
        for i, part in enumerate(parts):
            self._draw(i)
            with self._autocast():
                terms, own = self.objective(self.model, part)
                loss = weighted_loss(terms, counts or own)
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self.amp, enabled=self.amp is not None)

    def _draw(self, share: int) -> None:
        """Random numbers of a share of the batch (drop path, decisions) are a function of seed, step and share. A batch
        that is one share goes on with those of the step before."""
        if (shares := self.recipe.accumulate) > 1:
            torch.manual_seed((self.seed * 1_000_003 + self.step) * shares + share)

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
        line = {"epoch": epoch + 1, "epochs": self.recipe.epochs, "train_loss": loss, "train_seconds": self.seconds}
        self.objective.before_step(self.model, 1.0)  # a keep rate that still shrinks is evaluated at its final value
        if self.evaluate is not None:
            line |= self.evaluate(self.evaluated)
        self.history.append(line)
        self.loss_sum.zero_()
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
        tensors = self._tensors() | {"loss_sum": self.loss_sum, "random.cpu": torch.get_rng_state()}
        if self.device.startswith("cuda"):
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        write_state(self.state_file, tensors, {
            "step": self.step, "seconds": self.seconds, "history": self.history, "scaler": self.scaler.state_dict()
        })  # fmt: skip
        self.started = self.saved = time.monotonic()

    def load(self) -> None:
        """Continue where `save` was called; the log says again what it said then."""
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
        write_text(self.run_dir / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors["random.cuda"])
