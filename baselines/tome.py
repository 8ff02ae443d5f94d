"""ToMe: token merging by bipartite soft matching.

Bolya et al., "Token Merging: Your ViT but Faster", arXiv 2210.09461. The release is CC BY-NC; this is written from the
paper and a description in words. What differs: register tokens are protected like the class and distillation tokens,
under RoPE a merged token takes the position of the token it was merged into, and a list of r longer than the model is
deep is refused where the release leaves out the rest.

Letters: B images (A and B: the tokens at even and at odd positions), P prefix tokens, N patches, T = P + N, r merges,
D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.method import LEARNED, Method, option
from cropr.reducer import Reducer
from cropr.schedule import Scale, inflected, spread
from cropr.tokens import Attended, Tokens
from cropr.tokens.merging import Matching, mean, merged
from cropr.tokens.precision import product
from cropr.windows import global_blocks

if TYPE_CHECKING:
    from cropr.method.learned import Place, Stays

__all__ = ["ToMe", "TokenMerging", "bipartite_matching", "merges_per_block"]


@torch.no_grad()
def bipartite_matching(metric: Tensor, r: int, num_prefix: int = 0) -> Matching:
    """Match every token of A with the most similar one of B and take the best `r` edges (clamped to half of what is not
    protected). `metric` [B, T, E] is normalised here. Prefix tokens merge with nothing."""
    first_a, first_b = prefix_halves(num_prefix)
    best, partner = best_edges(metric, num_prefix)
    order = best.argsort(dim=1, descending=True, stable=True)
    r = clamp(r, metric.shape[1], num_prefix)
    leave, stay_a = order[:, :r], order[:, r:]
    stay_a = stay_a.sort(dim=1).values[:, first_a:] if num_prefix else stay_a
    place = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[0], -1)
    stay = torch.cat([place[:, :num_prefix], 2 * stay_a, place[:, 1 + 2 * first_b :: 2]], dim=1)
    into = partner.gather(1, leave) + num_prefix + stay_a.shape[1] - first_b
    return Matching(stay, 2 * leave, into)


def prefix_halves(num_prefix: int) -> tuple[int, int]:
    """Prefix tokens of A, which has the first half of them (rounded up), and of B."""
    return (num_prefix + 1) // 2, num_prefix // 2


def best_edges(metric: Tensor, num_prefix: int) -> tuple[Tensor, Tensor]:
    """Similarity of each token of A to the most similar one of B, and which that is, [B, |A|] each."""
    first_a, first_b = prefix_halves(num_prefix)
    metric = F.normalize(metric, dim=-1)
    similarity = product(metric[:, ::2], metric[:, 1::2].transpose(1, 2))
    similarity[:, :first_a] = -torch.inf
    similarity[:, :, :first_b] = -torch.inf
    best, partner = similarity.max(dim=2)
    return best, partner


def clamp(r: int, num_tokens: int, num_prefix: int) -> int:
    """At most half of the tokens that may merge."""
    return min(r, (num_tokens - num_prefix) // 2)


class ToMe(Reducer):
    """Merges `r` pairs of tokens between attention and MLP, by the similarity of their keys.

    Averages are weighted by size. `proportional`: every later attention adds log(size) to the logits of a key.
    """

    inside = True
    taps = ("k",)

    @property
    def merges(self) -> bool:
        return True

    def __init__(self, r: int, proportional: bool = True, head_dim: int = 64):
        super().__init__()
        if r < 0:
            raise ValueError(f"cannot merge {r} pairs of tokens; r must be 0 or more")
        self.r, self.proportional, self.head_dim = r, proportional, head_dim

    def extra_repr(self) -> str:
        return f"r={self.r}, proportional={self.proportional}"

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return num_live - clamp(self.r, num_live + num_prefix, num_prefix)

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        tokens = num_live + num_prefix
        return (tokens + 1) // 2 * (tokens // 2) * self.head_dim if clamp(self.r, tokens, num_prefix) else 0

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        r = clamp(self.r, tokens.x.shape[1], tokens.num_prefix)
        if r == 0:
            return None
        assert attended is not None
        return best_edges(self.metric(attended), tokens.num_prefix)[0], r

    def metric(self, attended: Attended) -> Tensor:
        """[B, T, E] whose directions are compared."""
        return attended.mean_keys()

    def combine(self, x: Tensor, size: Tensor, total: Tensor, match: Matching) -> Tensor:
        """The features of merged tokens, see `mean`."""
        return mean(x, size, total, match)

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if clamp(self.r, tokens.x.shape[1], tokens.num_prefix) == 0:
            return tokens
        assert attended is not None
        match = bipartite_matching(self.metric(attended), self.r, tokens.num_prefix)
        return merged(tokens, match, self.proportional, self.combine)


def merges_per_block(r: float | tuple[float, float] | list[int], depth: int) -> list[int]:
    """r of every block out of a constant (fractions are spread), (r, inflection), or a list, padded with zeros."""
    if isinstance(r, list):
        if len(r) > depth:
            raise ValueError(f"{len(r)} values of r for {depth} blocks")
        return r + [0] * (depth - len(r))
    return inflected(*r, depth) if isinstance(r, tuple) else spread(r, depth)


@dataclass(frozen=True, kw_only=True)
class TokenMerging(Method):
    """Similar tokens are merged, in every block."""

    name = "tome"
    label = "ToMe"
    paper = "arXiv 2210.09461"
    licence = "CC BY-NC 4.0"
    standard = True
    reducer: ClassVar[type[Reducer] | None] = ToMe

    r: float | tuple[int, ...] | None = option(
        None, "pairs merged in each block (with windows: in each global one); or one number a block, written 8/0/8",
        low=0, sets_cost=True,
    )  # fmt: skip
    schedule: str = option(
        "constant", "pairs of each block: constant, as r and inflect say; learned, as a search finds them for a budget "
        "on training items, before training (images only)", choices=("constant", LEARNED),
    )  # fmt: skip
    inflect: float | None = option(
        None, "r rises over the blocks from (1 - inflect) r to (1 + inflect) r; negative: it falls", low=-1, high=1,
        unset="constant r",
    )  # fmt: skip
    proportional: bool = option(True, "attention counts a token by the patches merged into it")

    def check(self) -> None:
        if self.schedule == LEARNED:
            self.check_learned([key for key in ("r", "inflect") if getattr(self, key) is not None])
        if self.inflect is not None and isinstance(self.r, tuple):
            raise ValueError(f"{self.name}: inflect bends a single r, and r={'/'.join(map(str, self.r))} is a list")

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Reducer]:
        """A merge in every block that has one; with windows, in the global ones."""
        if self.r is None:
            raise ValueError(f"{self.name} needs a budget, or r")
        if isinstance(self.r, tuple):
            blocks = tuple(range(len(vit.blocks)))
            rates = merges_per_block(list(self.r), len(blocks))
        else:
            blocks = self.blocks(vit)
            rates = merges_per_block(self.r if self.inflect is None else (self.r, self.inflect), len(blocks))
        return {i: self.make(vit, i, n) for i, n in zip(blocks, rates, strict=True) if n}

    def blocks(self, vit: nn.Module) -> tuple[int, ...]:
        """In which a single r merges."""
        return global_blocks(vit)

    def make(self, vit: nn.Module, block: int, r: int) -> Reducer:
        """The reducer at `block`."""
        return ToMe(r, self.proportional, vit.blocks[block].attn.head_dim)

    def searching(self, vit: nn.Module, num_patches: int) -> dict[int, Place]:
        from cropr.method.learned import Place

        order = self.class_order(vit, num_patches)
        return {b: Place(order, num_patches, ("merge",), spared=True, least=0.5) for b in self.blocks(vit)}

    def at_counts(self, stays: Mapping[int, Stays], num_patches: int) -> Self:
        pairs, live = [0] * (max(stays) + 1), num_patches
        for block, (_, after) in stays.items():
            pairs[block], live = live - int(after), int(after)
        return replace(self, schedule="constant", r=tuple(pairs))

    def scales(self, vit: nn.Module, num_patches: int) -> list[Scale]:
        """A constant r, up to one that merges all it can in the first block."""
        return [Scale("constant", "r", num_patches / 2, 0.0)]
