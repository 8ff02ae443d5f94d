"""PiToMe: tokens in dense neighbourhoods merge, informative ones are protected.

Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", arXiv 2405.16148. The release is
CC BY-NC; this is written from a description in words. What differs: tokens that stay keep their order, and the cut of a
block is taken in whole patches, at most half of them. The keep ratio has no published default: a budget sets it.

Letters: B images, P prefix tokens, N patches, T = P + N, E head width, r merges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.method import Method, option
from cropr.reducer import Reducer
from cropr.schedule import SLACK, Scale
from cropr.tokens import Attended, Tokens, take
from cropr.tokens.merging import Matching, matching, merged
from cropr.tokens.precision import product, wide_type
from cropr.windows import global_blocks

__all__ = ["EnergyMerging", "PiToMe", "energies"]


def energies(similarity: Tensor, margin: float) -> Tensor:
    """[B, N] mean over patches of ELU(c - margin), of the cosines c [B, N, N]: high in a large cluster."""
    return F.elu(similarity - margin).mean(dim=2, dtype=wide_type(similarity))


class PiToMe(Reducer):
    """Merges `r` pairs of patches between attention and MLP, by the similarity of their keys.

    `protect`: only the 2 r patches of the highest energy may merge, else all may. `margin`: of the energy.
    """

    inside = True
    taps = ("k",)

    @property
    def merges(self) -> bool:
        return True

    def __init__(
        self, r: int, margin: float = 0.75, protect: bool = False, proportional: bool = False, head_dim: int = 64
    ):
        super().__init__()
        if r < 0:
            raise ValueError(f"cannot merge {r} pairs of tokens; r must be 0 or more")
        self.r, self.margin, self.protect = r, margin, protect
        self.proportional, self.head_dim = proportional, head_dim

    def extra_repr(self) -> str:
        return f"r={self.r}, margin={self.margin:g}, protect={self.protect}"

    def pairs(self, num_live: int) -> int:
        """r, or as many as `num_live` patches have."""
        return min(self.r, num_live // 2)

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return num_live - self.pairs(num_live)

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return num_live**2 * self.head_dim if self.pairs(num_live) else 0

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        r = self.pairs(tokens.num_live)
        if r == 0:
            return None
        similarity = self.similarity(tokens, attended)
        energy = energies(similarity, self.margin)
        return (energy, 2 * r) if self.protect else (edges(similarity, energy, tokens.num_live)[0], r)

    def similarity(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        """[B, N, N] cosines of the patches' keys, averaged over heads."""
        assert attended is not None
        metric = F.normalize(attended.mean_keys()[:, tokens.num_prefix :], dim=-1)
        return product(metric, metric.transpose(1, 2))

    @torch.no_grad()
    def match(self, tokens: Tokens, attended: Attended | None) -> Matching:
        r, prefix = self.pairs(tokens.num_live), tokens.num_prefix
        similarity = self.similarity(tokens, attended)
        energy = energies(similarity, self.margin)
        best, source, target = edges(similarity, energy, 2 * r if self.protect else tokens.num_live)
        first = best.argsort(dim=1, descending=True, stable=True)[:, :r]
        return matching(source.gather(1, first) + prefix, target.gather(1, first) + prefix, tokens.x.shape[1])

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if self.pairs(tokens.num_live) == 0:
            return tokens
        return merged(tokens, self.match(tokens, attended), self.proportional)


def edges(similarity: Tensor, energy: Tensor, among: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the `among` patches of the highest energy [B, N], those of even ranks (sources) look for the best of odd ranks
    (targets), by the cosines `similarity` [B, N, N] -> (cosine, source, target), [B, ceil(among / 2)] each."""
    order = energy.argsort(dim=1, descending=True, stable=True)[:, :among]
    source, target = order[:, ::2], order[:, 1::2]
    rows = take(similarity, source)
    best, partner = rows.gather(2, target.unsqueeze(1).expand(-1, rows.shape[1], -1)).max(dim=2)
    return best, source, target.gather(1, partner)


@dataclass(frozen=True, kw_only=True)
class EnergyMerging(Method):
    """Tokens in dense neighbourhoods are merged, informative ones are protected."""

    name = "pitome"
    label = "PiToMe"
    paper = "arXiv 2405.16148"
    licence = "CC BY-NC 4.0"
    reducer = PiToMe

    ratio: float | None = option(
        None, "share of the patches that stay in each block; at most half merge", above=0, high=1, sets_cost=True
    )
    margin: float = option(0.75, "of the energy in the first block; it falls to 0 in a straight line", low=-1, high=1)
    switch: int | None = option(
        None, "block from which informative patches are protected", low=0, unset="half the depth, rounded up"
    )
    proportional: bool = option(False, "attention counts a token by the patches merged into it")

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, PiToMe]:
        """A merge in every block; with windows, in the global ones."""
        if self.ratio is None:
            raise ValueError(f"{self.name} needs a budget, or ratio")
        depth, live, found = len(vit.blocks), num_patches, {}
        switch = (depth + 1) // 2 if self.switch is None else self.switch
        for i in global_blocks(vit):
            r = min(math.floor((1 - self.ratio) * live + SLACK), live // 2)
            margin, head_dim = self.margin * (1 - i / depth), vit.blocks[i].attn.head_dim
            if r:
                found[i] = PiToMe(r, margin, i >= switch, self.proportional, head_dim)
            live -= r
        return found

    def scales(self, vit: nn.Module, num_patches: int) -> list[Scale]:
        """A constant share, down to half of the patches in each block."""
        return [Scale("geometric", "ratio", 0.5, 1.0)]
