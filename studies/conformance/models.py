"""Tiny timm models of every kind that can be reduced, with weights that do not hide errors.

Letters: B images.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

__all__ = [
    "DEPTH",
    "HEADS",
    "IMG_SIZE",
    "KINDS",
    "MODELS",
    "NUM_PATCHES",
    "SMALL",
    "WIDTH",
    "images",
    "sharpen",
    "tiny",
]

NUM_PATCHES, DEPTH, HEADS, WIDTH, IMG_SIZE = 36, 5, 4, 32, 48
SMALL: dict[str, Any] = {
    "img_size": IMG_SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 7,
}  # fmt: skip
ROPE: dict[str, Any] = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}

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
KINDS = (  # those that differ in prefix tokens, pooling or attention: what a reducer can get wrong
    "token", "avg", "map", "distilled", "registers", "registers_only", "eva_fused", "eva_swiglu", "eva_mixed", "dinov3",
)  # fmt: skip


def tiny(kind: str, seed: int = 0, **options: Any) -> nn.Module:
    """The model, in evaluation mode, with attention that is sharp and norms, biases and tokens that differ."""
    torch.manual_seed(seed)
    cls, settings = MODELS[kind]
    vit = cls(**{**SMALL, **settings, **options})
    if kind == "gated":  # timm's models have no switch for it
        for block in vit.blocks:
            block.attn = Attention(WIDTH, HEADS, qkv_bias=True, gated=True)
    return sharpen(vit).eval()


@torch.no_grad()
def sharpen(vit: nn.Module) -> nn.Module:
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


def images(batch: int = 3, size: int = IMG_SIZE) -> Tensor:
    """[B, 3, size, size]"""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(7))
