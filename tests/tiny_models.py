"""Tiny timm models of every kind that can be reduced, with weights that do not hide errors."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from baselines.dynamicvit import DynamicViT
from baselines.evit import EViT
from baselines.random_pruning import RandomPruning
from baselines.tome import ToMe
from cropr.cropr import CroprModule
from cropr.reducer import Reducer
from cropr.vit import ReducedViT
from studies.models.methods import builtin

NUM_PATCHES, DEPTH, HEADS, WIDTH = 36, 5, 4, 32
SMALL = {"img_size": 48, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 7}
ROPE = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}

MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "token": (VisionTransformer, {}),
    "avg": (VisionTransformer, {"global_pool": "avg"}),
    "avg_prefix": (VisionTransformer, {"global_pool": "avg", "pool_include_prefix": True}),
    "avgmax": (VisionTransformer, {"global_pool": "avgmax"}),
    "map": (VisionTransformer, {"global_pool": "map", "class_token": False}),
    "map_class": (VisionTransformer, {"global_pool": "map"}),
    "distilled": (VisionTransformerDistilled, {}),
    "registers": (VisionTransformer, {"reg_tokens": 3, "no_embed_class": True}),
    "registers_only": (VisionTransformer, {"reg_tokens": 4, "class_token": False, "global_pool": "avg"}),
    "layer_scale": (VisionTransformer, {"init_values": 0.5, "pre_norm": True}),
    "qk_norm": (VisionTransformer, {"qk_norm": True, "scale_attn_norm": True}),
    "gated": (VisionTransformer, {"global_pool": "avg"}),
    "eva_fused": (Eva, {**ROPE, "init_values": 0.5}),
    "eva_swiglu": (Eva, {**ROPE, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "global_pool": "token"}),
    "eva_map": (Eva, {**ROPE, "global_pool": "map"}),
    "eva_mixed": (Eva, {**ROPE, "rope_type": "mixed", "attn_type": "rope"}),
    "dinov3": (
        Eva,
        {**ROPE, "rope_type": "dinov3", "attn_type": "rope", "rope_rotate_half": True, "num_reg_tokens": 4}
        | {"use_abs_pos_emb": False, "no_embed_class": True, "qk_norm": True, "global_pool": "token"},
    ),
    "grouped_kv": (Eva, {**ROPE, "attn_type": "rope", "qkv_fused": False, "num_kv_heads": 2}),
}


def tiny(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """The model, in evaluation mode, with attention that is sharp and norms, biases and tokens that differ."""
    torch.manual_seed(seed)
    kind, settings = MODELS[name]
    vit = kind(**{**SMALL, **settings, **options})
    if name == "gated":  # timm's models have no switch for it
        for block in vit.blocks:
            block.attn = Attention(WIDTH, HEADS, qkv_bias=True, gated=True)
    return randomize(vit).eval()


@torch.no_grad()
def randomize(vit: nn.Module) -> nn.Module:
    """Random initialisation leaves attention nearly uniform and norms the identity, and so hides most errors."""
    for name, parameter in vit.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in ("cls_token", "dist_token", "reg_token", "pos_embed", "latent"):
            parameter.normal_()
        elif "freqs" in last:
            continue
        elif parameter.ndim == 1:
            parameter.normal_(1.0 if last in ("weight", "gamma", "gamma_1", "gamma_2") else 0.0, 0.3)
        else:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5)
    for block in vit.blocks:
        attn = block.attn
        if attn.qkv is not None:
            attn.qkv.weight[: 2 * attn.num_heads * attn.head_dim] *= 1.5
        else:
            attn.q_proj.weight *= 1.5
            attn.k_proj.weight *= 1.5
    return vit


def images(batch: int = 3, size: int = 48) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(7))


def place(name: str, vit: nn.Module, num_patches: int, **options: Any) -> dict[int, Reducer]:
    """The reducers of a method of the project with these options, by block."""
    return dict(builtin()[name](**options).place(vit, num_patches))


METHODS = ("cropr", "random", "tome", "evit", "evit_fused", "dynamicvit")
DROPPERS = ("cropr", "random", "evit", "dynamicvit")


def reducers(method: str, vit: nn.Module, llf: bool = False) -> dict[int, Reducer]:
    """The method as it is published, on a tiny model."""
    torch.manual_seed(1)
    if method in ("cropr", "random"):
        return place(method, vit, NUM_PATCHES, rate=5, rest="llf" if llf else "drop")
    if method == "tome":
        return place("tome", vit, NUM_PATCHES, r=5)
    if method == "dynamicvit":
        found = place("dynamicvit", vit, NUM_PATCHES, ratio=0.7)
        for reducer in found.values():
            for parameter in reducer.parameters():
                nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
            nn.init.ones_(reducer.predictor.in_norm.weight)
        return found
    return place("evit", vit, NUM_PATCHES, keep=0.7, rest="fuse" if method == "evit_fused" else "drop")


def idle(method: str, llf: bool = False) -> dict[int, Reducer]:
    """A reducer of the method at every block, with nothing to do."""
    made = {
        "cropr": lambda: CroprModule(NUM_PATCHES, WIDTH, 7),
        "random": lambda: RandomPruning(NUM_PATCHES, 0),
        "tome": lambda: ToMe(0),
        "evit": lambda: EViT(1.0, rest="drop"),
        "evit_fused": lambda: EViT(1.0),
        "dynamicvit": lambda: DynamicViT(NUM_PATCHES, WIDTH),
    }[method]
    return {i: made() for i in range(DEPTH - llf)}


def reduced(method: str, name: str, llf: bool = False, **options: Any) -> ReducedViT:
    vit = tiny(name)
    return ReducedViT(vit, reducers(method, vit, llf), llf=llf, **options).eval()


def possible(method: str, name: str) -> bool:
    """EViT reads the class token."""
    return not method.startswith("evit") or MODELS[name][1].get("class_token", True)


PAIRS = [(method, name) for method in METHODS for name in MODELS if possible(method, name)]
FUSIBLE = [(method, name) for method, name in PAIRS if method in DROPPERS]
