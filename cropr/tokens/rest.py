"""What becomes of patches that leave at a reducer: nothing more, one token of their weighted sum, or part of the most
similar patch that stays. (Last-layer fusion is a matter of the model, see vit.py and dense.py.)

Fusing: EViT, arXiv 2202.07800 (release: Apache-2.0), generalised to any score. Squeezing: TPS, Wei et al., "Joint Token
Pruning and Squeezing", arXiv 2304.10716 (release: Apache-2.0). Written from descriptions in words.

Letters: B images, N live patches, K kept ones, M dropped ones, D width.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr.tokens.state import Tokens, take

__all__ = ["REST", "fuse", "softmax_of_dropped", "squeeze", "squeeze_masked"]

REST = ("drop", "fuse", "squeeze")


def softmax_of_dropped(scores: Tensor, kept: Tensor) -> Tensor:
    """[B, N] weights of the patches that leave, which sum to 1: the softmax of their scores [B, N]; 0 for those in
    `kept` [B, K]."""
    return scores.scatter(1, kept, -math.inf).softmax(dim=1)


def fuse(tokens: Tokens, order: Tensor, keep: int, weight: Tensor) -> Tokens:
    """Keep the first `keep` of `order` [B, keep or more] and append sum_i weight_i x_i, `weight` [B, N]."""
    fused = (weight.to(tokens.x.dtype).unsqueeze(1) @ tokens.patches).squeeze(1)
    return tokens.select(order, keep).append(fused)


def squeeze(tokens: Tokens, order: Tensor, keep: int) -> Tokens:
    """Keep the first `keep` of all patches in `order` [B, N]. Each of the others i goes to its host, the kept patch j
    of the largest cosine c_ij: y_j = (e x_j + sum_i e^c_ij x_i) / (e + sum_i e^c_ij). Hosts own what they took."""
    kept, gone = order[:, :keep], order[:, keep:]
    host_x, gone_x = take(tokens.patches, kept), take(tokens.patches, gone)
    similarity = F.normalize(gone_x, dim=-1) @ F.normalize(host_x, dim=-1).transpose(1, 2)  # [B, M, K]
    best, host = similarity.max(dim=2)
    squeezed = _squeezed(host_x, gone_x, best, host)
    pruned = replace(tokens, owner=None, track=False).select(order, keep)
    x = torch.cat([pruned.x[:, : tokens.num_prefix], squeezed], dim=1)
    return replace(pruned, x=x, track=tokens.track, owner=_owner(tokens, kept, gone, host))


def squeeze_masked(x: Tensor, before: Tensor, keep: Tensor) -> Tensor:
    """The same where patches are marked instead of removed: `x` [B, N, D], decisions so far `before` and now `keep`
    [B, N] (1: stays), whose gradient flows through the weights. -> [B, N, D]"""
    directions = F.normalize(x, dim=-1)
    similarity = (directions @ directions.transpose(1, 2)).masked_fill(keep.unsqueeze(1) < 0.5, -math.inf)
    best, host = similarity.max(dim=2)
    # An image may have lost all its patches in training: then there is no host, and e^-inf is 0.
    return _squeezed(x, x, best, host, gone=before - keep)


def _squeezed(hosts: Tensor, x: Tensor, best: Tensor, host: Tensor, gone: Tensor | None = None) -> Tensor:
    """[B, K, D] hosts with what each of `x` [B, M, D] adds to its `host` [B, M] by the similarity `best` [B, M]."""
    weight = best.float().exp() if gone is None else best.float().exp() * gone.float()
    total = torch.full(hosts.shape[:2], math.e, device=x.device).scatter_add(1, host, weight)
    added = (weight.unsqueeze(-1) * x).to(hosts.dtype)
    summed = (math.e * hosts).scatter_add(1, host.unsqueeze(-1).expand_as(x), added)
    return (summed / total.unsqueeze(-1)).to(hosts.dtype)


def _owner(tokens: Tokens, kept: Tensor, gone: Tensor, host: Tensor) -> Tensor | None:
    """[B, L] the live patch that holds each grid position, where that is followed."""
    if tokens.owner is None:
        return None
    place = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    to = torch.empty_like(tokens.owner[:, : tokens.num_live]).scatter(1, kept, place).scatter(1, gone, host)
    return to.gather(1, tokens.owner)
