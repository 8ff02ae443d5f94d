"""Which kernel `scaled_dot_product_attention` runs on. PyTorch is asked, for the very tensors; nothing is inferred."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

__all__ = ["sdpa_backend", "sdpa_backends"]


def sdpa_backend(device: str, dtype: torch.dtype, masked: bool, *, num_tokens: int = 197, head_dim: int = 64) -> str:
    """Name of the kernel for queries [1, 2, T, E] without gradients: "flash_attention", "efficient_attention",
    "cudnn_attention" or "math". `masked`: with a float bias [1, 1, 1, T], as proportional attention has."""
    q = torch.zeros(1, 2, num_tokens, head_dim, device=device, dtype=dtype)
    bias = q.new_zeros(1, 1, 1, num_tokens) if masked else None
    return backend_name(torch._fused_sdp_choice(q, q, q, attn_mask=bias))


def sdpa_backends(model: nn.Module, images: Tensor) -> str:
    """Names of the kernels that `model` uses on `images`, joined by " + "; "unfused" if it never calls for one."""
    with Choices() as choices:
        model(images)
    return " + ".join(sorted(choices.names)) or "unfused"


def backend_name(choice: int) -> str:
    return SDPBackend(choice).name.lower()


class Choices(TorchFunctionMode):
    """Asks for the kernel of every fused attention within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.names.add(backend_name(torch._fused_sdp_choice(*args, **(kwargs or {}))))
        return func(*args, **(kwargs or {}))
