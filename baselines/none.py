"""No reduction: the dense model, with which all others are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from cropr.method import Method
from cropr.reducer import Reducer

__all__ = ["Dense"]


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """The dense model, fine-tuned like the others."""

    name = "none"
    label = "Dense"
    role = "dense"
    standard = True

    def place(self, vit: nn.Module, num_patches: int) -> Mapping[int, Reducer]:
        return {}
