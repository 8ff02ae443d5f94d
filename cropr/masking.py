"""Attention in which dropped tokens are masked instead of removed, so that the decision can be learned.

The one place where attention leaves the fused kernel: with P = p_key + (1 - p_key) I (a token always sees itself),

    a = (exp(s - max s) P + eps / T) / (sum exp(s - max s) P + eps),   eps = 1e-6, in float32, max over all keys

(DynamicViT, arXiv 2106.02034; algorithm described from the paper and release, MIT). "sdpa" adds log(P + eps) to the
logits of the fused kernel instead: close on ordinary logits (6e-5), off by 1e-2 and more on sharp ones.

Letters: B images, P prefix tokens, N patches, T = P + N, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["POLICIES", "policy_attention", "policy_softmax"]

POLICIES = ("exact", "sdpa")
EPS = 1e-6


def policy_softmax(logits: Tensor, policy: Tensor, eps: float = EPS) -> Tensor:
    """Attention weights out of `logits` [B, H, T, T] and `policy` [B, T] (1: the key is seen), [B, H, T, T] float32."""
    logits = logits.float()
    weight = (logits - logits.amax(dim=-1, keepdim=True)).exp() * _visible(policy)
    return (weight + eps / logits.shape[-1]) / (weight.sum(dim=-1, keepdim=True) + eps)


def _visible(policy: Tensor) -> Tensor:
    """[B, 1, T, T] how far each query sees each key."""
    key = policy.float()[:, None, None, :]
    return key + (1 - key) * torch.eye(policy.shape[1], device=policy.device)


class policy_attention(TorchFunctionMode):
    """Within this context `scaled_dot_product_attention` heeds a policy, so that timm's own attention (with its
    normalisation, RoPE and gates) runs unchanged. `patches` [B, N]; prefix tokens are always seen. Keys that a mask of
    -inf hides, as those of other windows, count like dropped ones.

    Raises RuntimeError on leaving when no attention came by, as with timm's fused attention switched off.
    """

    def __init__(self, patches: Tensor, num_prefix: int, kind: str):
        super().__init__()
        self.policy = torch.cat([patches.new_ones(patches.shape[0], num_prefix), patches], dim=1)
        self.kind = kind
        self.used = False

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.used = True
            return self.attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
    ) -> Tensor:
        if self.kind == "sdpa":
            bias = (_visible(self.policy) + EPS).log().to(q.dtype)
            bias = bias if attn_mask is None else bias + attn_mask
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)
        logits = (q.float() @ k.float().transpose(-2, -1)) * q.shape[-1] ** -0.5
        logits = logits if attn_mask is None else logits + attn_mask
        return F.dropout(policy_softmax(logits, self.policy), dropout_p).to(v.dtype) @ v

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        if exc_type is None and not self.used:
            raise RuntimeError("masked training needs timm's fused attention; unset TIMM_FUSED_ATTN")
