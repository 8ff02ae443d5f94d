"""A block of timm in two halves: what it adds by attention, and what by its MLP."""

from __future__ import annotations

from collections.abc import Callable

from timm.models.eva import EvaBlock
from torch import Tensor, nn

__all__ = ["attention_half", "mlp_branch", "mlp_half"]


def attention_half(block: nn.Module, x: Tensor, kwargs: dict, attend: Callable[..., Tensor] | None = None) -> Tensor:
    """The first residual of a timm block, in timm's own order of operations. `attend` takes its attention's place."""
    branch = (attend or block.attn)(block.norm1(x), **kwargs)
    return x + block.drop_path1(_scaled(block, branch, "ls1", "gamma_1"))


def mlp_half(block: nn.Module, x: Tensor) -> Tensor:
    """The second residual of a timm block."""
    return x + block.drop_path2(mlp_branch(block, x))


def mlp_branch(block: nn.Module, x: Tensor) -> Tensor:
    """What the MLP of a timm block adds to `x`, in evaluation."""
    return _scaled(block, block.mlp(block.norm2(x)), "ls2", "gamma_2")


def _scaled(block: nn.Module, branch: Tensor, layer_scale: str, gamma: str) -> Tensor:
    if not isinstance(block, EvaBlock):
        return getattr(block, layer_scale)(branch)
    return branch if getattr(block, gamma) is None else getattr(block, gamma) * branch
