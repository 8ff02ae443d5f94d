"""One training loop for every task and reducer, which can be stopped at any step and continued.

The state is one safetensors file, replaced atomically: model, averaged weights, optimiser, scaler, random numbers and
step.
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
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cropr.vit import ReducedViT
from results.store import append_line, write_bytes
from studies.config import Recipe
from studies.data import Batch

__all__ = ["Diverged", "Trainer", "learning_rate", "parameter_groups"]

SAVE_EVERY_S = 60.0  # between two saves; a killed run loses at most this, and an epoch's end always saves


class Diverged(FloatingPointError):
    """The loss is not a number any more."""


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
        self.amp = getattr(torch, recipe.amp) if recipe.amp else None
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp is torch.float16)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        model.vit.set_grad_checkpointing(recipe.checkpointing)
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

        Raises Diverged; the last good state stays on disk.
        """
        torch.manual_seed(self.seed)
        if self.state_file.exists():
            self.load()
        started = saved = time.monotonic()
        while self.step < self.steps:
            epoch, within = divmod(self.step, self.steps_per_epoch)
            total, count = torch.zeros((), device=self.device), 0
            self.model.train()
            for batch in self._batches(epoch, within):
                total += self._step(batch)
                count += 1
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self._check(total, epoch)
                    self.seconds += time.monotonic() - started
                    self.save()
                    started = saved = time.monotonic()
            loss = self._check(total, epoch) / count
            self.seconds += time.monotonic() - started
            started = time.monotonic()
            self._finish_epoch(epoch, loss)
            self.save()
            started = saved = time.monotonic()
        return self.history

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
        batch = mapped(batch, lambda column: column.to(self.device, non_blocking=True))
        if self.mixup is not None:
            np.random.seed((self.seed * 1_000_003 + self.step) % 2**32)  # timm's Mixup draws from numpy's global state
            images, target = self.mixup(batch.images, batch.target)
            batch = batch._replace(images=images, target=target)
        total = torch.zeros((), device=self.device)
        size = math.ceil(recipe.batch_size / recipe.accumulate)
        for begin in range(0, len(batch.images), size):
            part = mapped(batch, partial(_rows, begin, begin + size))
            share = len(part.images) / len(batch.images)
            with torch.autocast(self.device, dtype=self.amp, enabled=self.amp is not None):
                loss = self._loss(part) * share
            self.scaler.scale(loss).backward()
            total += loss.detach()
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

    def _loss(self, batch: Batch) -> Tensor:
        if hasattr(self.objective, "loss"):
            return self.objective.loss(self.model, batch)[0]
        return self.objective(self.model, batch.images, batch.target)[0]

    def _check(self, total: Tensor, epoch: int) -> float:
        value = float(total)
        if not math.isfinite(value):
            raise Diverged(f"the loss became {value} in epoch {epoch + 1}, at step {self.step} of {self.steps}")
        return value

    def _finish_epoch(self, epoch: int, loss: float) -> None:
        line = {"epoch": epoch + 1, "epochs": self.recipe.epochs, "train_loss": loss, "train_seconds": self.seconds}
        self.objective.before_step(self.model, 1.0)  # a keep rate that still shrinks is evaluated at its final value
        if self.evaluate is not None:
            line |= self.evaluate(self.evaluated)
        self.history.append(line)
        append_line(self.run_dir / "log.jsonl", line)

    @property
    def evaluated(self) -> nn.Module:
        """The model whose metrics count: the averaged one, where there is one."""
        return self.model if self.average is None else self.average.module

    def save(self) -> None:
        """The whole state in one file, replaced in one move."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.extra is not None:
            tensors |= {f"objective.{name}": tensor for name, tensor in self.extra.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.startswith("cuda"):
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        scalars = {
            "step": self.step, "seconds": self.seconds, "history": self.history, "scaler": self.scaler.state_dict()
        }  # fmt: skip
        metadata = {"state": json.dumps(scalars)}
        write_bytes(self.state_file, to_bytes({n: t.contiguous().clone() for n, t in tensors.items()}, metadata))

    def load(self) -> None:
        """Continue where `save` was called."""
        with safe_open(self.state_file, "pt") as file:
            scalars = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        if self.extra is not None:
            self.extra.load_state_dict(part("objective."))
        if self.average is not None:
            self.average.load_state_dict(part("average."))
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part("optimizer.").items():
            index, name = key.split(".")
            states.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.scaler.load_state_dict(scalars["scaler"])
        self.step, self.seconds, self.history = scalars["step"], scalars["seconds"], scalars["history"]
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors["random.cuda"])
