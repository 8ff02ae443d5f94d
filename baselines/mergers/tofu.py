"""ToFu: ToMe's matching; early blocks only drop what is matched, later ones merge it and keep its norm.

Kim et al., "Token Fusion: Bridging the Gap between Token Pruning and Token Merging", arXiv 2312.01026. No release is
known; written from a description in words. What differs: the mean in front of the norm is weighted by size as in ToMe,
a dropped token counts on in the size of the one that it was matched with, and prefix tokens are protected.

Letters: B images, r merges, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.tome import Matching, TokenMerging, ToMe, mean
from cropr.method import option
from cropr.nearest import one_of
from cropr.tokens import take

__all__ = ["ToFu", "TokenFusion", "mlerp"]

MERGE = ("mlerp", "mean", "drop")


def mlerp(x: Tensor, size: Tensor, total: Tensor, match: Matching) -> Tensor:
    """Merged tokens [B, T - r, D]: the direction of the mean of `x` [B, T, D], with the largest norm of its group. What
    took nothing stays as it is, bit for bit. For `size` and `total` see `mean`."""
    norm = x.norm(dim=-1)
    longest = norm.gather(1, match.stay).scatter_reduce(1, match.into, norm.gather(1, match.leave), "amax")
    alone = total == size.gather(1, match.stay)
    fused = F.normalize(mean(x, size, total, match), dim=-1) * longest.unsqueeze(-1)
    return torch.where(alone.unsqueeze(-1), take(x, match.stay), fused)


class ToFu(ToMe):
    """ToMe whose `merge` of matched tokens is "mlerp", "mean" (ToMe's own), or "drop": one stays as it is."""

    def __init__(self, r: int, merge: str = "mlerp", proportional: bool = True, head_dim: int = 64):
        super().__init__(r, proportional, head_dim)
        one_of("merge", merge, MERGE)
        self.merge = merge

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, merge={self.merge}"

    def combine(self, x: Tensor, size: Tensor, total: Tensor, match: Matching) -> Tensor:
        if self.merge == "drop":
            return take(x, match.stay)
        return (mlerp if self.merge == "mlerp" else mean)(x, size, total, match)


@dataclass(frozen=True, kw_only=True)
class TokenFusion(TokenMerging):
    """Similar tokens are dropped in early blocks, and merged with their norm kept in later ones."""

    name = "tofu"
    label = "ToFu"
    paper = "arXiv 2312.01026"
    licence = "unknown"
    standard = False
    reducer = ToFu

    merge: str = option(
        "mlerp", "of matched tokens, from block `switch` on: mlerp, their mean with the largest of their norms; mean; "
        "drop, one of them stays as it is", choices=MERGE,
    )  # fmt: skip
    switch: int | None = option(
        None, "block from which tokens merge; before it they drop", low=0, unset="half the depth"
    )

    def make(self, vit: nn.Module, block: int, r: int) -> ToFu:
        switch = len(vit.blocks) // 2 if self.switch is None else self.switch
        return ToFu(r, self.merge if block >= switch else "drop", self.proportional, vit.blocks[block].attn.head_dim)
