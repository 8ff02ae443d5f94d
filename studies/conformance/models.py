"""Tiny timm models of every kind, with weights that do not hide errors.

Random initialisation leaves attention nearly uniform and norms the identity: queries and keys are scaled up here, norms,
biases, class tokens and position embeddings drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

__all__ = ["KINDS", "NUM_PATCHES", "images", "tiny"]

NUM_PATCHES, NUM_CLASSES, SIDE = 36, 7, 48
SMALL = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 4, "num_classes": NUM_CLASSES}
ROPE = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}

KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "class token": (VisionTransformer, {}),
    "average": (VisionTransformer, {"global_pool": "avg"}),
    "attention pooling": (VisionTransformer, {"global_pool": "map", "class_token": False}),
    "registers": (VisionTransformer, {"reg_tokens": 3, "no_embed_class": True}),
    "registers only": (VisionTransformer, {"reg_tokens": 4, "class_token": False, "global_pool": "avg"}),
    "distilled": (VisionTransformerDistilled, {}),
    "Eva": (Eva, {**ROPE, "init_values": 0.5, "qkv_fused": False, "swiglu_mlp": True, "global_pool": "token"}),
    "mixed RoPE": (Eva, {**ROPE, "rope_type": "mixed", "attn_type": "rope"}),
    "DINOv3": (
        Eva,
        {**ROPE, "rope_type": "dinov3", "attn_type": "rope", "rope_rotate_half": True, "num_reg_tokens": 4}
        | {"use_abs_pos_emb": False, "no_embed_class": True, "qk_norm": True, "global_pool": "token"},
    ),
}


def tiny(kind: str, seed: int = 0) -> nn.Module:
    """The model, in evaluation mode; the same weights for the same `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make, options = KINDS[kind]
        return randomize(make(**{**SMALL, **options})).eval()


@torch.no_grad()
def randomize(vit: nn.Module) -> nn.Module:
    for name, parameter in vit.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in ("cls_token", "dist_token", "reg_token", "pos_embed", "latent"):
            parameter.normal_()
        elif "freqs" not in last and parameter.ndim == 1:
            parameter.normal_(1.0 if last.startswith(("weight", "gamma")) else 0.0, 0.3)
        elif "freqs" not in last:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5)
    for block in vit.blocks:
        parts = [block.attn.qkv] if block.attn.qkv is not None else [block.attn.q_proj, block.attn.k_proj]
        for part in parts:
            part.weight[: 2 * part.weight.shape[1]] *= 1.5  # of a fused one the queries and keys
    return vit


def images(batch: int = 3) -> Tensor:
    """[B, 3, 48, 48], the same ones every time."""
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
