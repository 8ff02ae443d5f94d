"""EViT: the tokens that the class token does not attend to leave, or are fused into one.

Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
arXiv 2202.07800 (release: Apache-2.0). Written from the paper and a description of the release. What differs: models
with several prefix tokens, where all of them stay, and RoPE, where a fused token is not rotated.

Letters: B images, P prefix tokens, N live patches, K kept ones, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from cropr.dropping import REST_CHOICES, REST_MEANING, Dropping
from cropr.method import Training, option
from cropr.method.objective import Criterion, Objective
from cropr.reducer import Dropper
from cropr.schedule import kept
from cropr.tokens import Attended, Tokens

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = ["EViT", "EViTMethod", "EViTObjective", "keep_rate_at"]


class EViT(Dropper):
    """Keeps the share `rate` of the patches that come in (an earlier fused token counts as one), by the attention that
    the class token pays them; "fuse": the sum of the others, weighted by that attention, not renormalised, is appended.
    `attn_dim`: width of the class query.
    """

    inside = True
    taps = ("q", "k")
    class_token = True

    def __init__(self, rate: float, rest: str = "fuse", attn_dim: int = 0):
        super().__init__(1, rest)
        self.base_rate, self.attn_dim = rate, attn_dim
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """The share to keep from now on (the rate shrinks while training)."""
        kept(rate, 1)  # refuses what is not a share
        self.rate = rate

    def extra_repr(self) -> str:
        return f"rate={self.rate}, rest={self.rest}"

    def keep_of(self, num_live: int) -> int:
        return kept(self.rate, num_live)

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return (num_live + num_prefix) * self.attn_dim

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        assert attended is not None
        return attended.prefix_attention(1).mean(dim=1)[:, 0, tokens.num_prefix :]

    def fusion_weight(self, scores: Tensor, kept: Tensor) -> Tensor:
        return scores.scatter(1, kept, 0.0)  # gradient flows through the weights


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
        self.start, self.span = start, span
        self.settles = start + span

    def before_step(self, model: ReducedViT, progress: float) -> None:
        for reducer in model.reducers.values():
            reducer.set_rate(keep_rate_at(reducer.base_rate, progress, self.start, self.span))


@dataclass(frozen=True, kw_only=True)
class EViTMethod(Dropping):
    """Patches that the class token ignores leave or are fused."""

    name = "evit"
    label = "EViT"
    paper = "arXiv 2202.07800"
    licence = "Apache-2.0"
    standard = True
    reducer = EViT
    schedules = ("staged",)
    parameters = {**Dropping.parameters, "staged": "keep"}

    keep: float | None = option(
        None, "share of the patches that come in that each stage keeps (staged)", above=0, high=1, sets_cost=True
    )
    rest: str = option(
        "fuse", "what becomes of patches that leave; fuse weighs them by the class token's attention, not "
        "renormalised, as published. " + REST_MEANING, choices=REST_CHOICES, dense="llf",
    )  # fmt: skip
    start: float = option(0.0, "share of the training at which the keep rate begins to shrink from 1", low=0, high=1)
    span: float = option(0.0, "share of the training over which it shrinks", low=0, high=1)

    def own(self, epochs: int) -> tuple[Self, dict[str, Any]]:
        """The keep rate shrinks from 1 at first, as the paper has it; a third of the training is a value of ours."""
        return (self if self.span else replace(self, span=0.33)), {}

    def check(self) -> None:
        super().check()
        if self.start + self.span > 1:
            raise ValueError(
                f"start {self.start:g} and span {self.span:g} are shares of the training and must sum to at most 1"
            )

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Dropper]:
        if self.keep is not None:
            return {block: self.at_rate(vit, block, self.keep) for block in self.blocks(vit)}
        found: dict[int, Dropper] = {}
        live = num_patches
        for block, keep in self.counts(vit, num_patches).items():
            found[block] = self.at_rate(vit, block, min(1.0, keep / live))
            live = found[block].count_after(live, vit.num_prefix_tokens)
        return found

    def at_rate(self, vit: nn.Module, block: int, rate: float) -> EViT:
        attn = vit.blocks[block].attn
        return EViT(rate, self.at_reducer, attn.num_heads * attn.head_dim)

    def objective(self, training: Training) -> Objective:
        return EViTObjective(training.criterion, self.start, self.span)
