"""Which kernel `scaled_dot_product_attention` runs on. PyTorch is asked, for the very tensors; nothing is inferred."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

__all__ = ["Call", "attention_calls", "backends_of", "kernel_kept", "sdpa_backend", "sdpa_backends"]


def sdpa_backend(device: str, dtype: torch.dtype, masked: bool, *, num_tokens: int = 197, head_dim: int = 64) -> str:
    """Name of the kernel for queries [1, 2, T, E] without gradients: "flash_attention", "efficient_attention",
    "cudnn_attention" or "math". `masked`: with a float bias [1, 1, 1, T], as proportional attention has."""
    q = torch.zeros(1, 2, num_tokens, head_dim, device=device, dtype=dtype)
    bias = q.new_zeros(1, 1, 1, num_tokens) if masked else None
    return backend_name(torch._fused_sdp_choice(q, q, q, attn_mask=bias))


class Call(NamedTuple):
    """One call for fused attention: the kernel that it runs on, and that of the same call without its mask."""

    backend: str
    masked: bool
    unmasked: str


def attention_calls(model: nn.Module, images: Tensor) -> list[Call]:
    """Every call for fused attention that `model` makes on `images`."""
    with Choices() as choices:
        model(images)
    return choices.calls


def backends_of(calls: Iterable[Call]) -> str:
    """Names of their kernels, joined by " + "; "unfused" where there is none."""
    return " + ".join(sorted({call.backend for call in calls})) or "unfused"


def sdpa_backends(model: nn.Module, images: Tensor) -> str:
    """Names of the kernels that `model` uses on `images`."""
    return backends_of(attention_calls(model, images))


def kernel_kept(own: Sequence[Call], dense: Sequence[Call]) -> dict[str, Any]:
    """Whether a variant runs its attention on the kernels of the dense model, and if not, why: as far as PyTorch tells
    when it is asked for the same call without its mask."""
    known = {call.backend for call in dense}
    lost = [call for call in own if call.backend not in known]
    why = []
    if unfused := len(dense) - len(own):
        why.append(f"{unfused} of {len(dense)} attentions are computed without it")
    for masked, unmasked in sorted({(call.masked, call.unmasked) for call in lost}):
        count = sum((call.masked, call.unmasked) == (masked, unmasked) for call in lost)
        said = f"{count} of {len(own)} calls have a mask" if masked else f"{count} of {len(own)} calls without a mask"
        why.append(said + (f", without which it would be {unmasked}" if masked and unmasked in known else ""))
    return {"backend": backends_of(own), "kept": not why, "why": "; ".join(why) or None}


def backend_name(choice: int) -> str:
    return SDPBackend(choice).name.lower()


class Choices(TorchFunctionMode):
    """Asks for the kernel of every fused attention within it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls.append(asked(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def asked(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Call:
    """What PyTorch chooses for these very tensors."""
    own = torch._fused_sdp_choice(q, k, v, attn_mask, *args, **kwargs)
    bare = own if attn_mask is None else torch._fused_sdp_choice(q, k, v, None, *args, **kwargs)
    return Call(backend_name(own), attn_mask is not None, backend_name(bare))
