"""timm's transforms of images, made repeatable.

Letters: S image side in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from cropr.nearest import did_you_mean, nearest

__all__ = ["AUGMENTS", "eval_transform", "patch_size_at", "patch_size_of", "seeded", "train_transform", "vit_config_of"]

AUGMENTS = (
    "auto_augment", "color_jitter", "color_jitter_prob", "gaussian_blur_prob", "grayscale_prob", "hflip",
    "interpolation", "no_aug", "ratio", "re_count", "re_mode", "re_prob", "scale", "train_crop_mode", "vflip",
)  # fmt: skip


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """timm's augmentations draw from three global generators: seed them, and give them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second = np.random.SeedSequence(key).generate_state(2).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(first << 32 | second)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def vit_config_of(backbone: str) -> dict[str, Any]:
    """How images are prepared for a backbone by timm's name: size, mean, std, crop, interpolation. Raises ValueError
    for a model that is not timm's: nothing says how images are prepared for it."""
    import timm
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(backbone)
    if config is None:
        near = did_you_mean(backbone, timm.list_models(), 3)
        raise ValueError(
            f"backbone {backbone} is not of timm, which says how images of a folder are prepared for a model (such as "
            f"vit_small_patch16_224){near}"
        )
    return resolve_data_config(pretrained_cfg=config.to_dict())


def patch_size_at(image_size: int, own: int) -> int:
    """Pixels of a patch, of a backbone with patches of `own` pixels on images of `image_size`: 16 where its own do not
    divide them, as in Cropr's recipe for ADE20k."""
    return own if image_size % own == 0 else 16


def patch_size_of(backbone: str, image_size: int) -> int:
    """The same of a backbone by timm's name. Raises ValueError where images are no whole number of them."""
    import timm

    with torch.device("meta"):
        patch_size = patch_size_at(image_size, timm.create_model(backbone).patch_embed.patch_size[0])
    if image_size % patch_size:
        raise ValueError(
            f"{backbone}: images of {image_size} px are no whole number of patches of {patch_size} px; nearest: "
            f"{max(1, round(image_size / patch_size)) * patch_size} px"
        )
    return patch_size


def eval_transform(config: dict[str, Any]) -> Any:
    """PIL image -> [3, S, S], as the backbone was evaluated by those who trained it."""
    from timm.data import create_transform

    names = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return create_transform(config["input_size"], **{name: config[name] for name in names if name in config})


def train_transform(config: dict[str, Any], augment: dict[str, Any] | None) -> Any:
    """PIL image -> [3, S, S] with random augmentation by timm."""
    from timm.data import create_transform

    augment = augment or {}
    for name in augment:
        if name not in AUGMENTS:
            raise ValueError(nearest("augmentation", name, AUGMENTS))
    options = {"mean": config["mean"], "std": config["std"], "interpolation": config["interpolation"], **augment}
    try:
        return create_transform(config["input_size"], is_training=True, **options)
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"timm makes no augmentation of {augment} ({type(error).__name__}: {error})") from error
