"""DPC-KNN: patches are clustered around those that lie densely and far from denser ones; each cluster becomes one.

The clustering of Zeng et al., "Not All Tokens Are Equal" (TCFormer), arXiv 2204.08680, as a token reducer in
Haurum et al., "Which Tokens to Use?", arXiv 2308.04657 (release: MIT). Written from a description in words.
What differs: equal densities go by the order of patches, where the release adds noise; the order is that of logarithms,
which do not vanish; learned pooling weights are left out. Ours: three stages, inside their blocks, and means by size.

Letters: B images, P prefix tokens, N patches, K clusters, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropr.dropping import Scheduled
from cropr.method import option
from cropr.nearest import one_of
from cropr.reducer import Reducer
from cropr.tokens import Attended, Tokens
from cropr.tokens.pooling import pool
from cropr.tokens.precision import product, wide

__all__ = ["Clustering", "DPCKNN", "DensityPeaks", "nearest_centre", "squared_distances"]


def squared_distances(x: Tensor) -> Tensor:
    """[B, N, N] of patches [B, N, D], divided by D; symmetric, and 0 of a patch to itself, bit for bit."""
    x = wide(x)
    x = x - x.mean(dim=1, keepdim=True)  # differences of large squares lose digits
    dots = product(x, x.transpose(1, 2))
    length = dots.diagonal(dim1=1, dim2=2)
    squared = length.unsqueeze(2) + length.unsqueeze(1) - (dots + dots.transpose(1, 2))
    return squared.clamp(min=0) / x.shape[-1]


def nearest_centre(distance: Tensor, centres: Tensor) -> Tensor:
    """[B, N] the cluster of each patch, by distances [B, N, N] to `centres` [B, K]; centres are in their own."""
    to_centres = distance.gather(2, centres.unsqueeze(1).expand(-1, distance.shape[1], -1))
    own = torch.arange(centres.shape[1], device=centres.device).expand_as(centres)
    return to_centres.argmin(dim=2).scatter(1, centres, own)


def peaks(squared: Tensor, neighbours: int) -> Tensor:
    """[B, N] log(density x distance to the nearest denser patch), of squared distances [B, N, N]: the centres' score.
    The density is exp(-mean of the smallest squared distances), that to itself included."""
    sparse = squared.topk(min(neighbours, squared.shape[2]), dim=2, largest=False).values.mean(dim=2)
    rank = sparse.argsort(dim=1, stable=True).argsort(dim=1)  # 0: the densest
    denser = rank.unsqueeze(1) < rank.unsqueeze(2)
    apart = squared.masked_fill(~denser, torch.inf).amin(dim=2)
    apart = torch.where(rank == 0, squared.amax(dim=2), apart)
    return 0.5 * apart.log() - sparse


class Clustering(Reducer):
    """Makes `keep` clusters of the patches between attention and MLP, each of which becomes the mean of its patches.
    Subclasses say which."""

    inside = True

    @property
    def merges(self) -> bool:
        return True

    def __init__(self, keep: int):
        super().__init__()
        if keep < 1:
            raise ValueError(f"cannot make {keep} clusters; at least 1 must be left")
        self.keep = keep

    def extra_repr(self) -> str:
        return f"keep={self.keep}"

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return min(self.keep, num_live)

    def partition(self, tokens: Tokens, attended: Attended | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The cluster of each patch [B, N], the patch that is the centre of each [B, K], and weights of the mean [B, N]
        (None: sizes)."""
        raise NotImplementedError

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if self.idle(tokens.num_live, tokens.num_prefix):
            return tokens
        with torch.no_grad():
            cluster, centres, weight = self.partition(tokens, attended)
        return pool(tokens, cluster, centres, weight)


class DPCKNN(Clustering):
    """Centres are the patches of the highest density x distance to the nearest denser one. `neighbours`: of whose
    distances the density is made. `weight`: of the mean, "size" or "one"."""

    def __init__(self, keep: int, neighbours: int = 5, weight: str = "size"):
        super().__init__(keep)
        one_of("weight", weight, ("size", "one"))
        self.neighbours, self.weight = neighbours, weight

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return 0 if self.idle(num_live, num_prefix) else num_live**2 * embed_dim

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        if self.idle(tokens.num_live, tokens.num_prefix):
            return None
        return peaks(squared_distances(tokens.patches), self.neighbours), self.keep

    def partition(self, tokens: Tokens, attended: Attended | None) -> tuple[Tensor, Tensor, Tensor | None]:
        squared = squared_distances(tokens.patches)
        order = peaks(squared, self.neighbours).argsort(dim=1, descending=True, stable=True)
        centres = order[:, : self.keep].sort(dim=1).values
        weight = None if self.weight == "size" else torch.ones_like(squared[:, 0])
        return nearest_centre(squared, centres), centres, weight


@dataclass(frozen=True, kw_only=True)
class DensityPeaks(Scheduled):
    """Patches are clustered by density peaks, and each cluster becomes one token."""

    name = "dpcknn"
    label = "DPC-KNN"
    paper = "arXiv 2204.08680"
    licence = "MIT (Haurum et al.)"
    schedules = ("staged",)
    reducer = DPCKNN

    neighbours: int = option(5, "nearest patches of which the density is made, the patch itself included", low=2)
    weight: str = option("size", "of patches in the mean of their cluster", choices=("size", "one"))

    def make(self, vit: nn.Module, block: int, keep: int) -> DPCKNN:
        return DPCKNN(keep, self.neighbours, self.weight)
