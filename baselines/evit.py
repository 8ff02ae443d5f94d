"""EViT: the tokens that the class token does not attend to leave, or are fused into one.

Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
arXiv 2202.07800 (release: Apache-2.0). Written from the paper and a description of the release. What differs: models
with several prefix tokens, where all of them stay, and RoPE, where a fused token is not rotated.

Letters: B images, P prefix tokens, N live patches, K kept ones, D width.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from cropr.objective import Criterion, Objective
from cropr.reducer import Dropper
from cropr.schedule import Scale, kept, stages
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT

__all__ = ["EViT", "EViTObjective", "keep_rate_at", "place", "scales"]


class EViT(Dropper):
    """Keeps the share `rate` of the patches that come in (an earlier fused token counts as one), by the attention that
    the class token pays them; `fuse`: the sum of the others, weighted by that attention, not renormalised, is appended.
    """

    inside = True
    taps = ("q", "k")
    class_token = True

    def __init__(self, rate: float, fuse: bool = True):
        super().__init__(keep=1)
        self.base_rate, self.fuse = rate, fuse
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """The share to keep from now on (the rate shrinks while training)."""
        kept(rate, 1)  # refuses what is not a share
        self.rate = rate

    def extra_repr(self) -> str:
        return f"rate={self.rate}, fuse={self.fuse}"

    @property
    def reversible(self) -> bool:
        return not self.fuse

    def count_after(self, num_live: int, num_prefix: int) -> int:
        keep = kept(self.rate, num_live)
        return num_live if keep == num_live else keep + self.fuse

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        if kept(self.rate, num_live) == num_live:
            return 0
        return (num_live + num_prefix) * self.attn_dim + self.fuse * num_live * embed_dim

    attn_dim = 0  # width of the class query, set by `place`

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        assert attended is not None
        return attended.prefix_attention(1).mean(dim=1)[:, 0, tokens.num_prefix :]

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        keep = kept(self.rate, tokens.num_live)
        if keep == tokens.num_live:
            return tokens
        attention = self.score(tokens, attended)
        order = tokens.rank(attention, keep)
        pruned = tokens.select(order, keep)
        if not self.fuse:
            return pruned
        weight = attention.scatter(1, order[:, :keep], 0.0).to(tokens.x.dtype)  # gradient flows through the weights
        return pruned.append((weight.unsqueeze(1) @ tokens.patches).squeeze(1))


def keep_rate_at(base: float, progress: float, start: float, span: float) -> float:
    """Keep rate at `progress` (0 to 1) through the training: 1 until `start`, then half a cosine down to `base`."""
    if progress < start:
        return 1.0
    if progress >= start + span:
        return base
    return base + (1 - base) * (1 + math.cos(math.pi * (progress - start) / span)) / 2


class EViTObjective(Objective):
    """The plain loss while the keep rate shrinks to its final value. `start` and `span` are shares of the training."""

    name = "CE, keep rate shrinking"

    def __init__(self, criterion: Criterion, start: float = 0.0, span: float = 0.0):
        super().__init__(criterion)
        if not (0 <= start <= 1 and 0 <= span <= 1 - start):
            raise ValueError(f"start {start:g} and span {span:g} are shares of the training and must sum to at most 1")
        self.start, self.span = start, span

    def before_step(self, model: ReducedViT, progress: float) -> None:
        for reducer in model.reducers.values():
            reducer.set_rate(keep_rate_at(reducer.base_rate, progress, self.start, self.span))


def place(
    vit: nn.Module, num_patches: int, *, keep: float, fuse: bool = True, blocks: tuple[int, ...] | None = None
) -> dict[int, EViT]:
    """A reducer in blocks 3, 6, 9 of 12 (see `stages`), or in `blocks`."""
    found = {i: EViT(keep, fuse) for i in blocks or stages(len(vit.blocks))}
    for i, reducer in found.items():
        reducer.attn_dim = vit.blocks[i].attn.num_heads * vit.blocks[i].attn.head_dim
    return found


def scales(vit: nn.Module, num_patches: int) -> list[Scale]:
    """A constant keep rate at every stage."""
    return [Scale("staged", "keep", 1 / num_patches, 1.0)]
