"""Tokens that become one: which, and what they are then.

Letters: B images, A: tokens that may leave, B: tokens that may take them, N patches, T tokens, r merges, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cropr.tokens.pooling import sizes
from cropr.tokens.state import Tokens, take

__all__ = ["Matching", "destinations", "matching", "mean", "merge", "merged"]


class Matching(NamedTuple):
    """Which tokens become one, by their places in the sequence before the merge (`stay`, `leave`) and behind it."""

    stay: Tensor  # [B, T - r] tokens that remain, in their new order: prefix, A (by position if P > 0), all of B
    leave: Tensor  # [B, r] tokens of A that are merged
    into: Tensor  # [B, r] places in `stay` of the tokens that take them


Combine = Callable[[Tensor, Tensor, Tensor, Matching], Tensor]


def matching(leave: Tensor, into: Tensor, num_tokens: int) -> Matching:
    """Of merges that are known by place: `leave` [B, r] become part of the tokens at `into` [B, r], which stay. The
    others keep their order."""
    gone = leave.new_zeros(leave.shape[0], num_tokens).scatter(1, leave, 1)
    stay = gone.argsort(dim=1, stable=True)[:, : num_tokens - leave.shape[1]]
    return Matching(stay, leave, ((1 - gone).cumsum(dim=1) - 1).gather(1, into))


def merge(x: Tensor, match: Matching) -> Tensor:
    """Sums over merged tokens: `x` [B, T, ...] -> [B, T - r, ...]."""
    if x.ndim == 2:  # one operation each: at batch 1 their number is what merging costs
        return x.gather(1, match.stay).scatter_add_(1, match.into, x.gather(1, match.leave))
    into = match.into.reshape(*match.into.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    return take(x, match.stay).scatter_add_(1, into, take(x, match.leave))


def destinations(match: Matching, num_patches: int) -> Tensor:
    """[B, N] the live patch that each of `num_patches` patches is, or is part of, after the merge."""
    num_tokens = match.stay.shape[1] + match.leave.shape[1]
    place = torch.arange(match.stay.shape[1], device=match.stay.device).expand_as(match.stay)
    to = place.new_empty(place.shape[0], num_tokens).scatter(1, match.stay, place).scatter(1, match.leave, match.into)
    num_prefix = num_tokens - num_patches
    return to[:, num_prefix:] - num_prefix


def mean(x: Tensor, size: Tensor, total: Tensor, match: Matching) -> Tensor:
    """Merged tokens [B, T - r, D]: means of `x` [B, T, D] by `size` [B, T], whose sums are `total` [B, T - r]."""
    return merge(x * size.to(x.dtype).unsqueeze(-1), match) / total.to(x.dtype).unsqueeze(-1)


def merged(tokens: Tokens, match: Matching, proportional: bool, combine: Combine = mean) -> Tokens:
    """The tokens behind a merge. One that took others keeps its own grid position. `combine(x, size, total, match)`:
    the features, see `mean`."""
    size, prefix = sizes(tokens), tokens.num_prefix
    total = merge(size, match)
    x = combine(tokens.x, size, total, match)
    owner = None if tokens.owner is None else destinations(match, tokens.num_live).gather(1, tokens.owner)
    index = tokens.positions().gather(1, match.stay[:, prefix:] - prefix)
    return replace(tokens, x=x, size=total, proportional=proportional, index=index, owner=owner)
