"""Attention in which dropped tokens are masked instead of removed, so that the decision can be learned.

The one place where attention leaves the fused kernel: with P = p_key + (1 - p_key) I (a token always sees itself),

    a = (exp(s - max s) P + eps / T) / (sum exp(s - max s) P + eps),   eps = 1e-6, in float32, max over all keys

(DynamicViT, arXiv 2106.02034; algorithm described from the paper and release, MIT). "exact" computes that without a
mask of size T x T: with b the plain softmax of s, whose maximum is 1 / sum exp(s - max s), both sums are b times values
and ones that are scaled by p, and the diagonal is added apart. It costs what unfused attention costs. "sdpa" adds
log(P + eps) to the logits of the fused kernel instead: close on ordinary logits (6e-5), off by 1e-2 and more on sharp
ones.

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

from cropr.tokens.precision import no_autocast, wide

__all__ = ["POLICIES", "MaskedAttention", "policy_attention", "policy_softmax"]

POLICIES = ("exact", "sdpa")
EPS = 1e-6


def policy_softmax(logits: Tensor, policy: Tensor, eps: float = EPS) -> Tensor:
    """Attention weights out of `logits` [B, H, T, T] and `policy` [B, T] (1: the key is seen), [B, H, T, T] float32."""
    logits = logits.float()
    weight = (logits - logits.amax(dim=-1, keepdim=True)).exp() * _visible(policy)
    return (weight + eps / logits.shape[-1]) / (weight.sum(dim=-1, keepdim=True) + eps)


def _visible(policy: Tensor) -> Tensor:
    """[B, 1, T, T] how far each query sees each key."""
    own = torch.eye(policy.shape[1], dtype=torch.bool, device=policy.device)
    return policy.float()[:, None, None, :].expand(-1, 1, len(own), -1).masked_fill(own, 1.0)


class MaskedAttention(torch.autograd.Function):
    """`policy_softmax(q @ k^T + mask, policy) @ v` for scaled q, k, v [B, H, T, E], policy p [B, T] and a mask without
    a gradient, or None. Of the squares only the plain softmax b is kept, and gone through once each way."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, policy: Tensor, mask: Tensor | None) -> Tensor:
        logits = q @ k.transpose(-2, -1)
        b = (logits if mask is None else logits.add_(mask)).softmax(dim=-1)
        own, seen = b.diagonal(dim1=-2, dim2=-1).unsqueeze(-1), policy[:, None, :, None]
        values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)  # the ones count: their sum is the denominator
        summed = b @ (seen * values) + own * (1 - seen) * values
        floor = EPS * b.amax(dim=-1, keepdim=True)  # eps in units of b
        total = summed[..., -1:] + floor
        out = (summed[..., :-1] + floor * v.mean(dim=-2, keepdim=True)) / total
        ctx.save_for_backward(q, k, values, policy, b, floor, total, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, values, policy, b, floor, total, out = ctx.saved_tensors
        own, seen = b.diagonal(dim1=-2, dim2=-1).unsqueeze(-1), policy[:, None, :, None]
        v = values[..., :-1]
        grad = grad / total
        at_sums = torch.cat([grad, -(grad * out).sum(dim=-1, keepdim=True)], dim=-1)  # of `summed`
        to_values = b.transpose(-2, -1) @ at_sums
        to_own = (at_sums * values).sum(dim=-1, keepdim=True)
        grad_v = (seen * to_values + own * (1 - seen) * at_sums)[..., :-1]
        grad_v = grad_v + (floor * grad).mean(dim=-2, keepdim=True)
        grad_policy = ((to_values * values).sum(dim=-1) - (own * to_own).squeeze(-1)).sum(dim=1)
        grad_b = at_sums @ (seen * values).transpose(-2, -1)
        grad_b.diagonal(dim1=-2, dim2=-1).add_((to_own * (1 - seen)).squeeze(-1))
        at_peak = EPS * (grad * (v.mean(dim=-2, keepdim=True) - out)).sum(dim=-1, keepdim=True)
        grad_b.scatter_add_(-1, b.argmax(dim=-1, keepdim=True), at_peak)
        grad_s = torch._softmax_backward_data(grad_b, b, -1, b.dtype)
        return grad_s @ k, grad_s.transpose(-2, -1) @ q, grad_v, grad_policy, None


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
        with no_autocast(q):
            q, k, wide_v = wide(q) * q.shape[-1] ** -0.5, wide(k), wide(v)
            if dropout_p == 0:
                return MaskedAttention.apply(q, k, wide_v, self.policy.to(q.dtype), attn_mask).to(v.dtype)
            logits = q @ k.transpose(-2, -1)
            logits = logits if attn_mask is None else logits + attn_mask
            return (F.dropout(policy_softmax(logits, self.policy), dropout_p).to(q.dtype) @ wide_v).to(v.dtype)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        if exc_type is None and not self.used:
            raise RuntimeError("masked training needs timm's fused attention; unset TIMM_FUSED_ATTN")
