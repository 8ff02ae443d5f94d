"""The timm models that a reduced model can be made of, and the grid of their patches."""

from __future__ import annotations

from timm.layers import AttentionRope
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

# By exact class: look-alikes (post-norm, parallel and differential blocks) have the same attributes in another order.
MODELS = (VisionTransformer, VisionTransformerDistilled, Eva)
BLOCKS = (Block, EvaBlock)
ATTENTIONS = (Attention, AttentionRope, EvaAttention)


def check_backbone(vit: nn.Module) -> None:
    """Raise ValueError naming the part of `vit` that a reduced model cannot be made of."""

    def refuse(part: object, valid: tuple[type, ...]) -> None:
        names = ", ".join(cls.__name__ for cls in valid)
        raise ValueError(f"token reduction is not defined for {type(part).__name__}; valid: {names}")

    if type(vit) not in MODELS:
        refuse(vit, MODELS)
    for block in vit.blocks:
        if type(block) not in BLOCKS:
            refuse(block, BLOCKS)
        if type(block.attn) not in ATTENTIONS:
            refuse(block.attn, ATTENTIONS)
    if not isinstance(vit.patch_drop, nn.Identity | None):
        raise ValueError("the model drops patches at random itself; make it with patch_drop_rate=0")
    if vit.global_pool not in ("", "token", "avg", "avgmax", "max", "map"):
        raise ValueError(f"unknown pooling {vit.global_pool!r}; valid: token, avg, avgmax, max, map")


def grid_of(vit: nn.Module, img_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of the patch grid for images of `img_size` (None: the model's own)."""
    if img_size is None:
        return tuple(vit.patch_embed.grid_size)
    height, width = img_size if isinstance(img_size, tuple) else (img_size, img_size)
    if not vit.dynamic_img_size and (height, width) != tuple(vit.patch_embed.img_size):
        raise ValueError(f"the model takes images of {vit.patch_embed.img_size}, not {(height, width)}")
    return vit.patch_embed.dynamic_feat_size((height, width))
