"""Learning rates: over the steps of a training, and of each part of a model. Weight decay stands beside them."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from cropr.vit import ReducedViT
from studies.config import Recipe

__all__ = ["learning_rate", "parameter_groups"]


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
