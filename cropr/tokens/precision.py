"""Numbers that are ranked, in float32 at least, whatever type the model runs in and whatever autocast makes of it.

bfloat16 has 8 bits: among 196 scores dozens are equal then, and what is equal has no order. Features stay as they are;
only the last product, which is small, is not rounded. In float32 these functions are the plain ones, bit for bit.

Letters: B images, T tokens, K inputs, M outputs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear", "no_autocast", "product", "wide", "wide_type"]


def wide_type(x: Tensor) -> torch.dtype:
    """float32, or the type of `x` where that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """`x` in that type."""
    return x.to(wide_type(x))


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a` [..., T, K] @ `b` [..., K, M] -> [..., T, M]."""
    with no_autocast(a):
        return wide(a) @ wide(b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` [..., K] by `weight` [M, K] and `bias` [M] -> [..., M]."""
    with no_autocast(x):
        return F.linear(wide(x), wide(weight), None if bias is None else wide(bias))


def no_autocast(x: Tensor) -> AbstractContextManager:
    """It would round `x` again. Nothing where there is none: what is exported should not hold it."""
    kind = x.device.type  # the meta device has no autocast to ask for
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()
