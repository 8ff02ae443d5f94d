"""Pooling of tokens that stand for more, or less, than one patch each, and of patches into clusters.

Letters: B images, P prefix tokens, N live patches, T = P + N, K clusters, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cropr.tokens.state import Tokens

__all__ = ["pool", "pool_weight", "sizes", "weighted_pool"]


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


def sizes(tokens: Tokens) -> Tensor:
    """[B, T] patches in each token, in float32: bfloat16 cannot count beyond 256."""
    return torch.ones_like(tokens.x[..., 0], dtype=torch.float32) if tokens.size is None else tokens.size.float()


def pool(tokens: Tokens, cluster: Tensor, centres: Tensor, weight: Tensor | None = None) -> Tokens:
    """The patches of each cluster become one, their mean weighted by `weight` [B, N] (None: by size); sizes add.
    `cluster` [B, N]: that of each patch, 0 to K - 1. `centres` [B, K]: of each cluster the patch, one of its own, whose
    grid position the new one has. Prefix tokens stay as they are."""
    prefix, size = tokens.num_prefix, sizes(tokens)
    weight = size[:, prefix:] if weight is None else weight
    total = weight.new_zeros(centres.shape).scatter_add(1, cluster, weight)
    weighted = weight.unsqueeze(-1) * tokens.patches  # sums are of the wider of the two types
    to = cluster.unsqueeze(-1).expand_as(weighted)
    summed = weighted.new_zeros(*centres.shape, weighted.shape[-1]).scatter_add(1, to, weighted)
    x = (summed / total.unsqueeze(-1)).to(tokens.x.dtype)
    held = size.new_zeros(centres.shape).scatter_add(1, cluster, size[:, prefix:])
    return replace(
        tokens,
        x=torch.cat([tokens.x[:, :prefix], x], dim=1),
        size=torch.cat([size[:, :prefix], held], dim=1),
        index=tokens.positions().gather(1, centres),
        owner=None if tokens.owner is None else cluster.gather(1, tokens.owner),
    )
