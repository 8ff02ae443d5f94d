"""MCTF: tokens that are similar, little attended to and small merge, in both directions of a bipartite matching.

Lee et al., "Multi-criteria Token Fusion with One-step-ahead Attention", arXiv 2403.10030 (release: MIT, derived from
ToMe's). Written from a description in words. What differs: no one-step-ahead attention: all criteria are read off the
block's own attention, and merging follows it; similarity is that of keys averaged over heads, as in ToMe; the loss for
consistency between rates is left out, training is that of the task. Prefix tokens are protected.

Letters: B images, P prefix tokens, N patches (a: at even ranks, b: at odd ones), T = P + N, E head width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.tome import TokenMerging
from cropr.method import option
from cropr.reducer import Reducer
from cropr.schedule import Scale
from cropr.tokens import Attended, Tokens
from cropr.tokens.merging import Matching, matching, mean, merge, merged
from cropr.tokens.pooling import sizes
from cropr.tokens.precision import product, wide
from cropr.windows import global_blocks

__all__ = ["MCTF", "MultiCriteriaFusion", "both_ways", "desire"]

LEFT = 10  # patches that stay at least
NOTHING = 1e-12  # attention of a patch that no query sees, whose criterion would be infinite


def desire(keys: Tensor, attention: Tensor, size: Tensor, tau: tuple[float, float, float]) -> Tensor:
    """[B, |a|, |b|] how much each pair should merge: ((c + 1) / 2)^(1 / tau_0) (u_a u_b), of cosines c of `keys`
    [B, N, E] and u = (least attention / attention)^(1 / tau_1) (least size / size)^(1 / tau_2), [B, N] each."""
    keys = F.normalize(keys, dim=-1)
    similar = (product(keys[:, ::2], keys[:, 1::2].transpose(1, 2)) + 1) / 2
    unseen, small = attention.amin(dim=1, keepdim=True) / attention, size.amin(dim=1, keepdim=True) / size
    alone = unseen.pow(1 / tau[1]) * small.pow(1 / tau[2])
    return similar.clamp(min=0).pow(1 / tau[0]) * alone[:, ::2].unsqueeze(2) * alone[:, 1::2].unsqueeze(1)


def both_ways(weight: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Patches that leave and those that take them, [B, r] each, by `weight` [B, |a|, |b|]: half of them, rounded up,
    are of a and go to their best b; the others are of b, and go with all they took to their best a of those left."""
    forth, back = (r + 1) // 2, r // 2
    best, partner = weight.max(dim=2)
    a = best.argsort(dim=1, descending=True, stable=True)[:, :forth]
    gone = torch.zeros_like(best).scatter(1, a, 1.0) > 0
    best, returned = weight.masked_fill(gone.unsqueeze(2), -torch.inf).max(dim=1)
    b = best.argsort(dim=1, descending=True, stable=True)[:, :back]
    to_a = 2 * returned.gather(1, b)
    own = 2 * torch.arange(weight.shape[2], device=weight.device).expand_as(best) + 1
    to_b = own.scatter(1, b, to_a).gather(1, partner.gather(1, a))
    return torch.cat([2 * a, 2 * b + 1], dim=1), torch.cat([to_b, to_a], dim=1)


class MCTF(Reducer):
    """Merges `r` patches into others between attention and MLP, as long as 10 are left. Means are weighted by attention
    received x size. Temperatures `tau_...`: a high one makes a criterion count less."""

    inside = True
    taps = ("q", "k")

    @property
    def merges(self) -> bool:
        return True

    def __init__(
        self,
        r: int,
        tau_similarity: float = 1.0,
        tau_attention: float = 20.0,
        tau_size: float = 40.0,
        proportional: bool = True,
        head_dim: int = 64,
    ):
        super().__init__()
        if r < 0:
            raise ValueError(f"cannot merge {r} patches; r must be 0 or more")
        self.tau_similarity, self.tau_attention, self.tau_size = tau_similarity, tau_attention, tau_size
        self.r, self.proportional, self.head_dim = r, proportional, head_dim

    def extra_repr(self) -> str:
        tau = f"{self.tau_similarity:g}/{self.tau_attention:g}/{self.tau_size:g}"
        return f"r={self.r}, tau={tau}, proportional={self.proportional}"

    def merged_of(self, num_live: int) -> int:
        """How many of `num_live` patches are merged into others."""
        return min(self.r, max(0, num_live - LEFT))

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return num_live - self.merged_of(num_live)

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        if self.merged_of(num_live) == 0:
            return 0
        received = (num_live + num_prefix) ** 2 * embed_dim
        return received + (num_live + 1) // 2 * (num_live // 2) * self.head_dim

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        """The first of the two directions."""
        if (r := self.merged_of(tokens.num_live)) == 0:
            return None
        return self.weights(tokens, attended)[0].amax(dim=2), (r + 1) // 2

    def weights(self, tokens: Tokens, attended: Attended | None) -> tuple[Tensor, Tensor]:
        """Of pairs [B, |a|, |b|], and attention received by each patch [B, N], the mean over queries and heads."""
        assert attended is not None
        prefix = tokens.num_prefix
        attention = attended.received().mean(dim=1)[:, prefix:].clamp(min=NOTHING)
        keys, size = attended.mean_keys()[:, prefix:], sizes(tokens)[:, prefix:]
        return desire(keys, attention, size, (self.tau_similarity, self.tau_attention, self.tau_size)), attention

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        r, prefix = self.merged_of(tokens.num_live), tokens.num_prefix
        if r == 0:
            return tokens
        with torch.no_grad():
            weight, attention = self.weights(tokens, attended)
            leave, into = both_ways(weight, r)
            match = matching(leave + prefix, into + prefix, tokens.x.shape[1])
            important = F.pad(attention, (prefix, 0), value=1.0) * sizes(tokens)

        def combine(x: Tensor, size: Tensor, total: Tensor, match: Matching) -> Tensor:
            # Weights are too small for float16.
            return mean(wide(x), important, merge(important, match), match).to(x.dtype)

        return merged(tokens, match, self.proportional, combine)


@dataclass(frozen=True, kw_only=True)
class MultiCriteriaFusion(TokenMerging):
    """Tokens that are similar, little attended to and small are merged."""

    name = "mctf"
    label = "MCTF"
    paper = "arXiv 2403.10030"
    licence = "MIT"
    standard = False
    reducer = MCTF

    tau_similarity: float = option(1.0, "temperature of the similarity of a pair", above=0)
    tau_attention: float = option(20.0, "temperature of how little attention both receive", above=0)
    tau_size: float = option(40.0, "temperature of how small both are", above=0)

    def blocks(self, vit: nn.Module) -> tuple[int, ...]:
        """All but the first."""
        return tuple(block for block in global_blocks(vit) if block > 0)

    def make(self, vit: nn.Module, block: int, r: int) -> MCTF:
        head_dim = vit.blocks[block].attn.head_dim
        return MCTF(r, self.tau_similarity, self.tau_attention, self.tau_size, self.proportional, head_dim)

    def scales(self, vit: nn.Module, num_patches: int) -> list[Scale]:
        """A constant r, up to one that merges all it may in the first place."""
        return [Scale("constant", "r", float(max(0, num_patches - LEFT)), 0.0)]
