"""DiffRate: patches are sorted by class attention; the tail is pruned, and the next tail merged into what stays.

Chen et al., "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", arXiv 2305.17997 (release:
no licence file). Written from a description in words. Here are the reduction and counts that are given, by default on
Cropr's schedule with a share that merges (option `merged`) of ours; with schedule=learned, those that the paper's
search finds (cropr/method/learned.py). As published: patches that merge go to the most similar one that stays, by their
features; a group becomes its plain mean; sizes of those that merge count times their similarity and at least 1, so that
sizes are no numbers of patches; attention is proportional. What differs: models with several prefix tokens,
where all of them stay, and last-layer fusion, which brings back what was pruned and what was merged, as it was. Of a
merged patch nothing else is remembered: like a pruned one it has no owner.

Letters: B images, P prefix tokens, N live patches, K kept ones, M merged ones, D width, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.dropping import AT_REDUCER, OnCroprSchedule
from cropr.method import LEARNED, option
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens, take
from cropr.tokens.pooling import sizes
from cropr.tokens.precision import wide

if TYPE_CHECKING:
    from cropr.method.learned import Stays

__all__ = ["DiffRate", "PruneAndMerge", "merge_tail"]


def merge_tail(hosts: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each of `tail` [B, M, D] goes to the most similar of `hosts` [B, K, D]: the plain mean of each group [B, K, D],
    and of each of the tail the host [B, M] and the cosine [B, M]."""
    similarity, host = (F.normalize(tail, dim=-1) @ F.normalize(hosts, dim=-1).transpose(1, 2)).max(dim=2)
    # Of a large group bfloat16 has no mean.
    summed = wide(hosts).scatter_add(1, host.unsqueeze(-1).expand_as(tail), wide(tail))
    members = summed.new_ones(hosts.shape[:2]).scatter_add(1, host, summed.new_ones(host.shape))
    return (summed / members.unsqueeze(-1)).to(hosts.dtype), host, similarity


class PruneAndMerge(Dropper):
    """Keeps the `keep` patches of the highest class attention, merges the next `merged` into them, and prunes the
    others. `attn_dim`: H E."""

    inside = True
    taps = ("q", "k")
    class_token = True

    def __init__(self, keep: int, merged: int = 0, rest: str = "drop", attn_dim: int = 0):
        super().__init__(keep, rest)
        if rest != "drop":
            raise ValueError(f"DiffRate merges what leaves in its own way, and has no rest={rest}")
        if merged < 0:
            raise ValueError(f"cannot merge {merged} patches; must be 0 or more")
        self.merged, self.attn_dim = merged, attn_dim

    def extra_repr(self) -> str:
        return f"keep={self.keep}, merged={self.merged}"

    def merged_of(self, num_live: int) -> int:
        """M when `num_live` patches come in."""
        return min(self.merged, num_live - self.keep_of(num_live))

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        matching = self.merged_of(num_live) * self.keep_of(num_live) * embed_dim
        return (num_live + num_prefix) * self.attn_dim + matching

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        assert attended is not None
        return attended.prefix_attention(1).mean(dim=1)[:, 0, tokens.num_prefix :]

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        keep, prefix = self.keep_of(tokens.num_live), tokens.num_prefix
        if keep == tokens.num_live:
            return tokens
        order = tokens.rank(self.score(tokens, attended), keep, whole=True)
        kept = tokens.select(order, keep)
        tail = order[:, keep : keep + self.merged_of(tokens.num_live)]
        if tail.shape[1] == 0:
            return kept
        x, host, similarity = merge_tail(kept.patches, take(tokens.patches, tail))
        counted = (sizes(tokens)[:, prefix:].gather(1, tail) * similarity.float()).clamp(min=1)
        size = sizes(kept).scatter_add(1, host + prefix, counted)
        return replace(kept, x=torch.cat([kept.x[:, :prefix], x], dim=1), size=size, proportional=True)


@dataclass(frozen=True, kw_only=True)
class DiffRate(OnCroprSchedule):
    """Patches that the class token ignores are pruned, and the next of them merged into what stays."""

    name = "diffrate"
    label = "DiffRate (given counts)"
    paper = "arXiv 2305.17997"
    licence = "no licence file"
    counts_scoring = True
    reducer = PruneAndMerge
    searched_ways = ("prune", "merge")

    merged: float = option(
        0.5, "share of the patches that leave that are merged, the others are pruned (a value of ours)", low=0, high=1
    )
    merges: tuple[int, ...] | None = option(
        None, "patches that are merged at each place, written 4/4/2, beside keeps=; the others that leave are pruned",
        low=0, unset="as `merged` says",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.schedule == LEARNED and self.merges is not None:
            raise ValueError(f"{self.name}: schedule={LEARNED} finds the counts, and merges= says them; give one")
        if self.rest != "drop" and self.rest in AT_REDUCER:
            raise ValueError(f"rest={self.rest} of {self.name}: it merges what leaves in its own way; not valid here")

    def at_counts(self, stays: Mapping[int, Stays], num_patches: int) -> Self:
        merges = tuple(int(pruned) - int(merged) for pruned, merged in stays.values())
        return replace(super().at_counts(stays, num_patches), merges=merges)

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Dropper]:
        found: dict[int, Dropper] = {}
        counts, live = self.counts(vit, num_patches), num_patches
        if self.merges is not None and len(self.merges) != len(counts):
            raise ValueError(f"{self.name}: merges= needs {len(counts)} numbers, one for each place")
        for n, (block, keep) in enumerate(counts.items()):
            attn = vit.blocks[block].attn
            merged = int(self.merged * (live - keep)) if self.merges is None else self.merges[n]
            if merged > live - keep:
                raise ValueError(f"{self.name}: merges= has {merged} at block {block}, where {live - keep} leave")
            found[block] = PruneAndMerge(keep, merged, self.at_reducer, attn.num_heads * attn.head_dim)
            live = found[block].count_after(live, vit.num_prefix_tokens)
        return found
