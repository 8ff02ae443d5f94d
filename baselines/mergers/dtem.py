"""DTEM: tokens merge by an embedding of their own, learned through a soft merge.

Lee and Hong, "Learning to Merge Tokens via Decoupled Embedding for Efficient Vision Transformers", arXiv 2412.10569; a
licence of the release is not known. Written from a description in words. At inference: ToMe with the cosines of that
embedding. What differs in training: which of two halves a token is in goes by its place among those that take part,
prefix tokens are protected, and backbone and embedding learn together, or (`own`) the embedding alone, never in turns.
Both temperatures and the number of edges were not found; these are ours, and not tuned.

Letters: B images, P prefix tokens, N patches, T = P + N, r merges, D width, W width of the embedding; a: patches that
may leave, b: patches that may take them, K edges of each of a.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.tome import TokenMerging, ToMe
from cropr.method import option
from cropr.reducer import Reducer
from cropr.tokens import Attended, Tokens, take
from cropr.tokens.pooling import sizes
from cropr.tokens.precision import linear, product, wide

__all__ = ["DTEM", "DecoupledMerging", "soft_choice"]

LEAST = 1e-6  # of a mass, whose logarithm attention adds, and of what is left of a choice


def soft_choice(similarity: Tensor, r: int, tau: float) -> Tensor:
    """[B, |a|, K] how far each of the edges `similarity` [B, |a|, K] is among the `r` best, of each of a one: a softmax
    over all edges, `r` times, each time without those of a that were chosen. No row exceeds 1."""
    chosen = torch.zeros_like(similarity)
    for _ in range(r):
        share = (similarity / tau).flatten(1).softmax(dim=1).view_as(similarity)
        chosen = chosen + share
        similarity = similarity + (1 - share.sum(dim=2, keepdim=True)).clamp(min=LEAST).log()
    return chosen / chosen.sum(dim=2, keepdim=True).detach().clamp(min=1)


class DTEM(ToMe):
    """ToMe by a linear embedding [W] of what attention is given [D], which alone it reaches.

    In training no token leaves: mass moves from some to others, features with it, attention counts a token by its mass,
    and the `num_live` patches (None: all) of the largest mass take part, as many as are there at inference. `edges`: to
    the most similar patches of the other half, of each; temperatures: of the cosines, and of the choice among edges.
    """

    taps = ("normed",)

    def __init__(
        self,
        r: int,
        embed_dim: int,
        width: int = 64,
        num_live: int | None = None,
        edges: int = 8,
        tau_similarity: float = 0.1,
        tau_choice: float = 0.1,
        proportional: bool = True,
    ):
        super().__init__(r, proportional, width)
        self.embed_dim, self.width, self.num_live, self.edges = embed_dim, width, num_live, edges
        self.tau_similarity, self.tau_choice = tau_similarity, tau_choice
        self.embedding = nn.Linear(embed_dim, width, bias=False)

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        embedded = (num_live + num_prefix) * embed_dim * self.width
        return 0 if self.idle(num_live, num_prefix) else embedded + super().macs(num_live, num_prefix, embed_dim)

    def metric(self, attended: Attended) -> Tensor:
        assert attended.normed is not None
        return linear(attended.normed.detach(), self.embedding.weight)

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if not self.training:
            return super().forward(tokens, attended)
        live = tokens.num_live if self.num_live is None else min(self.num_live, tokens.num_live)
        if self.idle(live, tokens.num_prefix):
            return tokens
        assert attended is not None
        return self.moved(tokens, self.metric(attended), live)

    def moved(self, tokens: Tokens, metric: Tensor, live: int) -> Tokens:
        """The soft merge by the directions of `metric` [B, T, W], among the `live` patches of the largest mass."""
        prefix, mass = tokens.num_prefix, sizes(tokens)
        heavy = mass[:, prefix:].argsort(dim=1, descending=True, stable=True)[:, :live].sort(dim=1).values + prefix
        a, b = heavy[:, prefix % 2 :: 2], heavy[:, 1 - prefix % 2 :: 2]  # even and odd places behind the prefix
        unit = F.normalize(wide(metric), dim=-1)
        similarity = product(take(unit, a), take(unit, b).transpose(1, 2)) / self.tau_similarity
        best, partner = similarity.topk(min(self.edges, b.shape[1]), dim=2)
        share = soft_choice(best, live - self.count_after(live, prefix), self.tau_choice)  # [B, |a|, K]
        mass_a, mass_b = mass.gather(1, a), mass.gather(1, b)
        moved = share * mass_a.unsqueeze(2)
        given = moved.new_zeros(similarity.shape).scatter(2, partner, moved)  # [B, |a|, |b|]
        total = mass_b + given.sum(dim=1)
        weight, own = (given / total.unsqueeze(1)).to(tokens.x.dtype), (mass_b / total).to(tokens.x.dtype)
        x = own.unsqueeze(2) * take(tokens.x, b) + weight.transpose(1, 2) @ take(tokens.x, a)
        left = (mass_a * (1 - share.sum(dim=2))).clamp(min=LEAST)
        return replace(
            tokens,
            x=tokens.x.scatter(1, b.unsqueeze(2).expand_as(x), x.to(tokens.x.dtype)),
            size=mass.to(total.dtype).scatter(1, b, total).scatter(1, a, left),
            proportional=True,
        )


@dataclass(frozen=True, kw_only=True)
class DecoupledMerging(TokenMerging):
    """Similar tokens are merged by an embedding that is learned through a soft merge."""

    name = "dtem"
    label = "DTEM"
    paper = "arXiv 2412.10569"
    licence = "unknown"
    standard = False
    learns = "an embedding for each merge, from the task's own loss"
    reducer = DTEM

    width: int | None = option(None, "of the embedding", low=1, unset="64, from a model width of 1024 on 128")
    edges: int = option(8, "to how many of the most similar tokens each may move in training", low=1)
    tau_similarity: float = option(0.1, "temperature of the cosines in training", above=0)
    tau_choice: float = option(0.1, "temperature of the choice among edges in training", above=0)

    def blocks(self, vit: nn.Module) -> tuple[int, ...]:
        """All but the last, whose merge the class token does not see any more, so that nothing could be learned."""
        return tuple(block for block in super().blocks(vit) if block < len(vit.blocks) - 1)

    def make(self, vit: nn.Module, block: int, r: int) -> DTEM:
        width = self.width or (128 if vit.embed_dim >= 1024 else 64)
        return DTEM(
            r, vit.embed_dim, width, edges=self.edges, tau_similarity=self.tau_similarity, tau_choice=self.tau_choice,
            proportional=self.proportional,
        )  # fmt: skip

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Reducer]:
        found, live = super().place(vit, num_patches), num_patches
        for reducer in found.values():
            assert isinstance(reducer, DTEM)
            reducer.num_live, live = live, reducer.count_after(live, vit.num_prefix_tokens)
        return found

    def own(self, epochs: int) -> tuple[Self, dict[str, Any]]:
        """The embedding alone learns ("modular"); in dense tasks the head may be new, and all do."""
        return self, {} if self.dense else {"freeze_backbone_epochs": float(epochs)}

    def training_cost(self, budget: float | None) -> float:
        return 1.3  # all tokens stay
