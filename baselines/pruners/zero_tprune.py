"""Zero-TPrune: patches leave that are like a more important one, then those of the lowest PageRank in the attention.

Wang et al., "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained
Transformers", arXiv 2305.17328 (licence of the release: unknown). Written from a description in words, which says: the
class token starts at sqrt(N), heads count whose scores have a variance in [0.01, 0.7], 30 to 50 rounds in early blocks,
5 to 10 in the middle, 1 in late ones. Unknown, and chosen by us: how many leave by similarity and how many by rank
(option `similar`), the rounds within those ranges, that variances and means over heads are of scores of mean 1, that
all heads count where none is in the range, that in the last stage only what is left votes, and three stages as places.
What differs: scores are scaled anew in each round (the published division by N comes to 0 in float32), and models
without a class token are taken: there all tokens start alike.

The whole attention is computed once more and held within the call, [B, H, T, T] in float32. Of 64 images that is 60 MB
for 6 heads and 197 tokens, and 3.2 GB for 12 heads and 1025 tokens. No gradient flows through it.

Letters: B images, P prefix tokens, N live patches, T = P + N, K kept ones, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.method import option
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens, take
from cropr.tokens.precision import product

__all__ = ["AttentionRank", "ZeroTPrune", "mean_of_heads", "most_similar", "vote"]

ROUNDS = (30, 5, 1)  # early, in the middle, late
LOWEST, HIGHEST = 0.01, 0.7  # variance of the scores of a head that counts


def vote(attention: Tensor, scores: Tensor, rounds: int, left: Tensor) -> Tensor:
    """[B, H, T] scores behind so many rounds of s <- A^T s among the tokens that are `left` [B, T] (1, else 0), with
    A [B, H, T, T] and scores [B, H, T]; they sum to 1."""
    for _ in range(rounds):
        votes = (scores * left.unsqueeze(1)).unsqueeze(2)
        scores = (votes @ attention).squeeze(2) * left.unsqueeze(1)
        scores = scores / total(scores)
    return scores


def total(scores: Tensor) -> Tensor:
    """The sum over the last axis, never 0: all votes of a head may have gone to patches that left."""
    return scores.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def mean_of_heads(scores: Tensor, left: Tensor) -> Tensor:
    """[B, N] root mean square of the scores [B, H, N] of patches over the heads that count, each head's scaled to a
    mean of 1 over those that are `left` [B, N]; 0 for the others."""
    left = left.unsqueeze(1)
    num = left.sum(dim=2, keepdim=True)
    scores = scores * left
    scores = scores * num / total(scores)
    variance = (((scores - 1) ** 2 * left).sum(dim=2) / num[..., 0]).unsqueeze(2)  # [B, H, 1]
    counts = (variance >= LOWEST) & (variance <= HIGHEST)
    counts = counts | ~counts.any(dim=1, keepdim=True)
    return ((scores**2 * counts).sum(dim=1) / counts.sum(dim=1)).sqrt()


def most_similar(metric: Tensor, order: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Of the last half of `order` [B, N] the `num` whose cosine to the most similar of the first half is the highest,
    by `metric` [B, N, E]: which, and that cosine, [B, num] each."""
    half = order.shape[1] - order.shape[1] // 2
    metric = F.normalize(metric, dim=-1)
    best = product(take(metric, order[:, half:]), take(metric, order[:, :half]).transpose(1, 2)).amax(dim=2)
    first = best.argsort(dim=1, descending=True, stable=True)[:, :num]
    return order[:, half:].gather(1, first), best.gather(1, first)


class AttentionRank(Dropper):
    """Scores [B, N]: rank in the attention behind `rounds`; below 0, and by similarity, for the patches that are most
    like a more important one. `similar`: the share of those that leave that these are, at most half of all patches.
    `with_class`: the first token is a class token.
    """

    inside = True
    taps = ("q", "k")

    def __init__(
        self, keep: int, rest: str = "drop", rounds: int = 1, similar: float = 0.5, with_class: bool = True,
        num_heads: int = 1, head_dim: int = 64,
    ):  # fmt: skip
        super().__init__(keep, rest)
        self.rounds, self.similar, self.with_class = rounds, similar, with_class
        self.num_heads, self.head_dim = num_heads, head_dim

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rounds={self.rounds}, similar={self.similar}"

    def similar_of(self, num_live: int) -> int:
        """Patches that leave by similarity when `num_live` come in."""
        return min(int(self.similar * (num_live - self.keep_of(num_live))), num_live // 2)

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        graph = self.num_heads * (num_live + num_prefix) ** 2
        if not self.similar_of(num_live):
            return graph * (self.head_dim + self.rounds)
        half = num_live // 2
        return graph * (self.head_dim + self.rounds + 1) + half * (num_live - half) * self.head_dim

    @torch.no_grad()
    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert attended is not None
        prefix, attention = tokens.num_prefix, attended.attention()
        start = attention.new_ones(attention.shape[:3])
        if self.with_class:
            start[:, :, 0] = tokens.num_live**0.5
        left = start.new_ones(start.shape[0], start.shape[2])
        num = self.similar_of(tokens.num_live)
        if num:
            once = mean_of_heads(vote(attention, start, 1, left)[:, :, prefix:], left[:, prefix:])
            order = tokens.rank(once, tokens.num_live, whole=True)
            gone, similarity = most_similar(attended.mean_keys()[:, prefix:], order, num)
            left = left.scatter(1, gone + prefix, 0.0)
        scores = mean_of_heads(vote(attention, start, self.rounds, left)[:, :, prefix:], left[:, prefix:])
        return scores.scatter(1, gone, -2 - similarity.to(scores.dtype)) if num else scores


@dataclass(frozen=True, kw_only=True)
class ZeroTPrune(OnCroprSchedule):
    """Patches leave by similarity to more important ones, then by their PageRank in the attention."""

    name = "zerotprune"
    label = "Zero-TPrune"
    paper = "arXiv 2305.17328"
    licence = "unknown"
    schedules = ("staged",)
    counts_scoring = True
    reducer = AttentionRank

    rounds: tuple[int, ...] | None = option(
        None, "rounds of voting in each of as many equal parts of the depth", low=1, unset="30/5/1"
    )
    similar: float = option(
        0.5, "share of the patches that leave that leave by similarity, the others by rank (a value of ours)", low=0,
        high=1,
    )  # fmt: skip

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        attn = vit.blocks[block].attn
        parts = self.rounds or ROUNDS
        rounds = parts[block * len(parts) // len(vit.blocks)]
        return AttentionRank(
            keep, self.at_reducer, rounds, self.similar, vit.cls_token is not None, attn.num_heads, attn.head_dim
        )
