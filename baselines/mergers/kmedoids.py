"""K-medoids: patches are clustered around patches that are nearest to all of their cluster; each cluster becomes one.

The weighted clustering of Marin et al., "Token Pooling in Vision Transformers", arXiv 2110.03860, as a token reducer in
Haurum et al., "Which Tokens to Use?", arXiv 2308.04657 (release: MIT). Written from a description in words. What
differs: always as many rounds (a test whether one still changes anything would wait for the device), and a cluster
becomes the mean of its patches. Ours: three stages, inside their blocks, and means by the weights that choose medoids.

Letters: B images, P prefix tokens, N patches, T = P + N, K clusters, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.mergers.dpcknn import Clustering, nearest_centre, squared_distances
from cropr.dropping import Scheduled
from cropr.method import option
from cropr.nearest import one_of
from cropr.tokens import Attended, Tokens
from cropr.tokens.pooling import sizes

__all__ = ["KMedoids", "Medoids", "medoids"]

WEIGHTS = ("attention", "size", "one")


def medoids(distance: Tensor, cluster: Tensor, weight: Tensor, num: int) -> Tensor:
    """[B, K] of each of `num` clusters the patch i with the smallest sum_j w_j d_ij over its patches j: `distance` d
    [B, N, N], `cluster` [B, N], `weight` w [B, N]; none may be empty."""
    together = cluster.unsqueeze(2) == cluster.unsqueeze(1)
    cost = (distance * weight.unsqueeze(1)).masked_fill(~together, 0).sum(dim=2)
    order = cost.argsort(dim=1, stable=True)
    order = order.gather(1, cluster.gather(1, order).argsort(dim=1, stable=True))  # by cluster, the cheapest first
    count = torch.zeros_like(cluster[:, :num]).scatter_add(1, cluster, torch.ones_like(cluster))
    return order.gather(1, count.cumsum(dim=1) - count)


class KMedoids(Clustering):
    """Starts from the patches that are attended to most, and assigns and chooses anew `rounds` times. `weight` of a
    patch, in that choice and in the mean: "attention" that it receives, "size" or "one"."""

    taps = ("q", "k")

    def __init__(self, keep: int, rounds: int = 5, weight: str = "attention"):
        super().__init__(keep)
        one_of("weight", weight, WEIGHTS)
        self.rounds, self.weight = rounds, weight

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        squares = num_live**2 + (num_live + num_prefix) ** 2  # of distances, and of attention
        return 0 if self.idle(num_live, num_prefix) else squares * embed_dim

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        """Where it starts."""
        return None if self.idle(tokens.num_live, tokens.num_prefix) else (self.received(tokens, attended), self.keep)

    def received(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        """[B, N] attention that each patch receives, the mean over queries and heads."""
        assert attended is not None
        return attended.received().mean(dim=1)[:, tokens.num_prefix :]

    def partition(self, tokens: Tokens, attended: Attended | None) -> tuple[Tensor, Tensor, Tensor | None]:
        received, distance = self.received(tokens, attended), squared_distances(tokens.patches).sqrt()
        weight = {
            "attention": received.clamp(min=1e-12),  # where a cluster receives none its patches count the same
            "size": sizes(tokens)[:, tokens.num_prefix :],
            "one": torch.ones_like(received),
        }[self.weight]
        centres = received.argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        for _ in range(self.rounds):
            centres = medoids(distance, nearest_centre(distance, centres), weight, self.keep)
        centres = centres.sort(dim=1).values
        return nearest_centre(distance, centres), centres, weight


@dataclass(frozen=True, kw_only=True)
class Medoids(Scheduled):
    """Patches are clustered by K-medoids, weighted by attention, and each cluster becomes one token."""

    name = "kmedoids"
    label = "K-medoids"
    paper = "arXiv 2110.03860"
    licence = "MIT (Haurum et al.)"
    schedules = ("staged",)
    reducer = KMedoids

    rounds: int = option(5, "of assigning patches and choosing medoids anew", low=0, high=100)
    weight: str = option(
        "attention", "of patches in the choice of medoids and in the mean of a cluster: attention that they receive, "
        "size, one", choices=WEIGHTS,
    )  # fmt: skip

    def make(self, vit: nn.Module, block: int, keep: int) -> KMedoids:
        return KMedoids(keep, self.rounds, self.weight)
