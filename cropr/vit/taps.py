"""What a reducer reads of its block, off timm's own modules.

Letters: B images, H heads, T tokens, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cropr.reducer import Reducer

__all__ = ["Tap", "Values", "check_taps"]

INSIDE, BEHIND = ("q", "k", "v", "normed"), ("mlp",)  # of a block


def check_taps(reducer: Reducer) -> None:
    """Raise ValueError for a tap that there is not at the reducer's place."""
    place, valid = ("inside", INSIDE) if reducer.inside else ("behind", BEHIND)
    if wrong := [tap for tap in reducer.taps if tap not in valid]:
        raise ValueError(f"{type(reducer).__name__} taps {wrong[0]!r}; {place} a block there is: {', '.join(valid)}")


class Tap:
    """Holds q, k and the input of one attention module within `with tap:`: a plain use of the same timm model must not
    keep them alive."""

    def __init__(self, attn: nn.Module, names: tuple[str, ...]):
        self.armed = False
        self.held: dict[str, Tensor] = {}
        # q_norm and k_norm are called by all three kinds of attention; attn.qkv is bypassed by EvaAttention.
        for name in {"q", "k"} & set(names):
            getattr(attn, f"{name}_norm").register_forward_hook(partial(self.hold, name))
        if "normed" in names:
            attn.register_forward_pre_hook(self.hold_input)

    def __enter__(self) -> None:
        self.armed = True

    def __exit__(self, *exception: object) -> None:
        self.armed = False
        self.held = {}

    def hold(self, name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self.armed:
            self.held[name] = output

    def hold_input(self, module: nn.Module, args: tuple) -> None:
        if self.armed:
            self.held["normed"] = args[0]

    def take(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """q and k [B, H, T, E] before RoPE, and the input [B, T, D]; None where nobody reads them."""
        return self.held.get("q"), self.held.get("k"), self.held.get("normed")


class Values(TorchFunctionMode):
    """Holds the values [B, H, T, E] of the attention that runs within it, grouped ones repeated: no module of timm's
    attention hands them out."""

    held: Tensor | None = None

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.held = args[2]
        return func(*args, **(kwargs or {}))

    def take(self) -> Tensor:
        """Raises RuntimeError when none came by, as with timm's fused attention switched off."""
        held, self.held = self.held, None
        if held is None:
            raise RuntimeError("the values of attention are read off timm's fused attention; unset TIMM_FUSED_ATTN")
        return held
