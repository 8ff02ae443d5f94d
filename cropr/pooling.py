"""Pooling of tokens that stand for more, or less, than one patch each.

Letters: B images, P prefix tokens, T tokens in all, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropr.tokens import Tokens

__all__ = ["pool_weight", "weighted_pool"]


def pool_weight(tokens: Tokens) -> Tensor | None:
    """[B, T] how much each token counts in pooling: its size, or its policy; None: all the same."""
    if tokens.policy is not None:
        prefix = tokens.policy.new_ones(tokens.policy.shape[0], tokens.num_prefix)
        return torch.cat([prefix, tokens.policy], dim=1)
    return None if tokens.size is None else tokens.size.float()


def weighted_pool(vit: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """`vit.pool` over `x` [B, T, D] in which token t counts `weight` [B, T] times -> [B, D].

    Attention pooling adds log(weight) to the logits; a maximum only leaves out tokens of weight 0.
    """
    prefix = 0 if getattr(vit, "pool_include_prefix", False) else vit.num_prefix_tokens
    if vit.attn_pool is not None:
        prefix = prefix if hasattr(vit, "pool_include_prefix") else 0  # Eva pools its prefix tokens as well
        bias = weight[:, None, None, prefix:].clamp(min=1e-6).log().to(x.dtype)
        return vit.attn_pool(x[:, prefix:], attn_mask=bias)
    x, weight = x[:, prefix:], weight[:, prefix:, None]
    mean = ((x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)).to(x.dtype)
    if vit.global_pool == "avg":
        return mean
    largest = x.masked_fill(weight == 0, float("-inf")).amax(dim=1)
    return largest if vit.global_pool == "max" else 0.5 * (largest + mean)
