"""Backbones by name: those embedded in the project, and all of timm's that a reduced model can be made of; pretrained
weights by name or out of a local file.

Nothing heavy is imported before a function runs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropr.nearest import did_you_mean
from studies.models.checkpoints import SUFFIXES, head_classes, is_checkpoint, load_into, read_checkpoint
from studies.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn

    from studies.config import RunConfig

__all__ = [
    "EMBEDDED", "POOLS", "SUFFIXES", "check_name", "create_backbone", "describe", "described_by", "options_of",
    "sized_for",
]  # fmt: skip

_SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_ratio": 4.0, "num_classes": 10,
    "global_pool": "token",
}  # fmt: skip
# "class" is of timm, and "sincos_amplitude" ours (see _start_with_sines); the others are arguments of its constructor.
EMBEDDED: dict[str, dict[str, Any]] = {
    "scenes_vit": {"class": "vit", **_SMALL},
    "scenes_vit_sincos": {"class": "vit", **_SMALL, "sincos_amplitude": 0.5},
    "scenes_vit_shallow": {"class": "vit", **_SMALL, "depth": 3},
    "scenes_vit_deep": {"class": "vit", **_SMALL, "depth": 12},
    "scenes_vit_narrow": {"class": "vit", **_SMALL, "embed_dim": 48},
    "scenes_vit_wide": {"class": "vit", **_SMALL, "embed_dim": 192, "num_heads": 6},
    "scenes_eva": {"class": "eva", **_SMALL, "use_rot_pos_emb": True, "swiglu_mlp": False, "qkv_fused": True},
}
# What the classifier sees. Cropr's release and MAE average over the class token too ("avg+prefix").
POOLS: dict[str, dict[str, Any]] = {
    "token": {"global_pool": "token"},
    "avg": {"global_pool": "avg"},
    "avg+prefix": {"global_pool": "avg", "pool_include_prefix": True},
}
SINCOS_TEMPERATURE = 100.0  # wavelengths of 6 to 519 patches at this width
SCENES_DATA = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 1.0, "interpolation": "bicubic"}

_logger = logging.getLogger(__name__)


def create_backbone(
    name_or_file: str,
    *,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pretrained: bool,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    pool_include_prefix: bool | None = None,
    dynamic_img_size: bool | None = None,
    checkpoint: str | Path | None = None,
    detector: bool = False,
    window: str | None = None,
    masks: bool = True,
) -> nn.Module:
    """A timm model with random weights, those of timm (`pretrained`), or those of the file `checkpoint` (which goes
    before `pretrained`). None: the model's own value, and for `num_classes` that of the checkpoint.

    `name_or_file` may be a checkpoint itself, if it says which model it is of. Position embeddings and patch kernels
    are resampled by timm. A classifier of other classes than asked for is replaced, with a warning in the log. The
    configuration that `timm.data.resolve_model_data_config` reads follows `img_size`. `detector`: with the pyramid and
    the heads of a detector in the place of the classifier (see detector.py), with a head of `masks` or of boxes alone.
    `window`: attention within windows, as `cropr.windows.Windows.parse` reads it.

    Raises ValueError: unknown name, a model that is not supported, a missing, truncated or foreign checkpoint.
    """
    if checkpoint is None and is_checkpoint(name_or_file):
        name_or_file, checkpoint = described_by(name_or_file), name_or_file
    check_name(name_or_file)
    state = None if checkpoint is None else read_checkpoint(checkpoint)[0]
    if state is not None and num_classes is None:
        num_classes = head_classes(state)
    given = {
        "num_classes": num_classes, "img_size": img_size, "patch_size": patch_size, "global_pool": global_pool,
        "pool_include_prefix": pool_include_prefix, "dynamic_img_size": dynamic_img_size,
        "drop_path_rate": drop_path_rate or None,
    }  # fmt: skip
    options = {key: value for key, value in given.items() if value is not None}
    model = _build(name_or_file, options, pretrained and state is None)
    if state is not None:
        for note in load_into(model, state, str(checkpoint)):
            _logger.warning("%s: %s", checkpoint, note)
    if detector:
        from studies.tasks.detector import attach

        attach(model, model.num_classes, masks=masks)
    if window is not None:
        from cropr.windows import Windows

        model.windows = Windows.parse(window)
        model.windows.global_of(len(model.blocks))  # refused now, if at all
    if img_size is not None:
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, *model.patch_embed.img_size)}
    return model


def described_by(checkpoint: str | Path) -> str:
    """The model that a checkpoint says it is of. Raises ValueError where it does not say."""
    _, architecture = read_checkpoint(checkpoint)
    if architecture is None:
        raise ValueError(
            f"{checkpoint} does not say which model it is of; give the name as backbone, and the file as checkpoint"
        )
    return architecture


def options_of(config: RunConfig, image_size: int) -> dict[str, Any]:
    """Options of `create_backbone` for the backbone of a run on images of `image_size` pixels."""
    options: dict[str, Any] = {"window": config.window} if config.window else {}
    if TASKS[config.task].dense:
        detector = TASKS[config.task].detector
        return options | sized_for(config.backbone, image_size) | {"detector": detector, "masks": config.masks}
    return options | POOLS[config.pool] if config.pool else options


def sized_for(name: str, image_size: int) -> dict[str, Any]:
    """Options of `create_backbone` that make the model `name` one for images of `image_size` pixels."""
    from studies.data.transforms import patch_size_at

    own = describe(name)
    options = {} if own["img_size"] == image_size else {"img_size": image_size}
    patch_size = patch_size_at(image_size, own["patch_size"])
    return options if patch_size == own["patch_size"] else options | {"patch_size": patch_size}


def check_name(name: str) -> None:
    """Raise ValueError with the nearest names if there is no backbone `name`; a tag of pretrained weights may follow
    behind a dot. Imports timm for names that are not embedded."""
    if name in EMBEDDED:
        return
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = did_you_mean(base, [*EMBEDDED, *timm.list_models()], 3) or "."
        raise ValueError(
            f"unknown backbone {name!r}{near} Available: {', '.join(EMBEDDED)}, every VisionTransformer and Eva of "
            f"timm {timm.__version__}, and checkpoints ({', '.join(SUFFIXES)})"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}*") if full.partition(".")[0] == base]
    if tag and tag not in tags:
        near = did_you_mean(tag, tags, 3) or "."
        raise ValueError(f"{base} has no pretrained weights {tag!r}{near} Available: {', '.join(tags) or 'none'}")


def describe(name: str) -> dict[str, Any]:
    """What `list backbones --json` says of a backbone: plain values. Embedded ones need no import of torch."""
    if name in EMBEDDED:
        return {"name": name, "kind": "embedded", "pretrained": False, **EMBEDDED[name]}
    check_name(name)
    import torch

    with torch.device("meta"):
        model = _build(name, {}, pretrained=False)
    return {
        "name": name,
        "kind": "timm",
        "pretrained": _has_weights(name),
        "class": type(model).__name__,
        "img_size": model.patch_embed.img_size[0],
        "patch_size": model.patch_embed.patch_size[0],
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": model.blocks[0].attn.num_heads,
        "num_prefix_tokens": model.num_prefix_tokens,
        "class_token": model.cls_token is not None,
        "num_classes": model.num_classes,
        "global_pool": model.global_pool,
        "params_m": sum(p.numel() for p in model.parameters()) / 1e6,
    }


def _has_weights(name: str) -> bool:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    return config is not None and bool(config.has_weights)  # timm returns the address itself


def _build(name: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    """The model on the current default device, after a look at its shape alone: no download of what is refused."""
    from cropr.vit import check_backbone

    if name in EMBEDDED:
        if pretrained:
            raise ValueError(f"{name} has no pretrained weights: the project trains it itself; or give a checkpoint")
        model = _build_embedded(name, options)
        check_backbone(model)
        return model
    import timm
    import torch

    with torch.device("meta"):
        check_backbone(timm.create_model(name))
    if pretrained and not _has_weights(name):
        raise ValueError(f"timm has no pretrained weights for {name}; use pretrained=False or give a checkpoint")
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise ValueError(f"{name} does not take these options: {options} ({error})") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"cannot load the pretrained weights of {name} with {options}: {reason}") from error
    check_backbone(model)
    return model


def _build_embedded(name: str, options: dict[str, Any]) -> nn.Module:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    values = {**EMBEDDED[name], **options}
    amplitude = values.pop("sincos_amplitude", None)
    kind = {"vit": VisionTransformer, "eva": Eva}[values.pop("class")]
    try:
        model = kind(**values)
    except TypeError as error:
        raise ValueError(f"{name} does not take these options: {options} ({error})") from error
    if amplitude is not None:
        _start_with_sines(model, amplitude)
    size = EMBEDDED[name]["img_size"]
    model.pretrained_cfg = {
        "architecture": name, "input_size": (3, size, size), "classifier": "head",
        "num_classes": EMBEDDED[name]["num_classes"], **SCENES_DATA,
    }  # fmt: skip
    return model


def _start_with_sines(vit: nn.Module, amplitude: float) -> None:
    """Position embeddings of the patches start as sines and cosines of row and column (MoCo v3, arXiv 2104.02057,
    where they stay so) and are learned from there. Why: see catalogue/segmentation.py."""
    import torch
    from timm.layers import build_sincos2d_pos_embed

    grid = list(vit.patch_embed.grid_size)
    sines = build_sincos2d_pos_embed(grid, dim=vit.embed_dim, temperature=SINCOS_TEMPERATURE, interleave_sin_cos=False)
    with torch.no_grad():
        vit.pos_embed[:, vit.num_prefix_tokens :] = amplitude * sines
