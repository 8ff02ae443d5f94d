"""The token-reducer interface.

Letters: B images, P prefix tokens, N live patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from cropr.tokens import Attended, Tokens

__all__ = ["Dropper", "Reducer", "token_counts"]


class Reducer(nn.Module):
    """Makes fewer tokens of `Tokens`. It follows a block, or sits inside one, between attention and MLP.

    A reducer that has nothing to do returns its input itself: at rate 0 a reduced model is the plain one, bit for bit.
    """

    inside: ClassVar[bool] = False
    taps: ClassVar[tuple[str, ...]] = ()  # which of "q" and "k" of its block it reads; empty: `attended` is None
    class_token: ClassVar[bool] = False  # refuses models without one
    merges: ClassVar[bool] = False  # tokens become one instead of leaving; their owners are followed where needed

    @property
    def seeded(self) -> bool:
        """Draws at random, from `tokens.seed`."""
        return False

    @property
    def reversible(self) -> bool:
        """Last-layer fusion can bring back what left, as it was."""
        return not self.merges

    def count_after(self, num_live: int, num_prefix: int) -> int:
        """Live patches (N, fused ones included) behind this reducer when `num_live` come in."""
        raise NotImplementedError

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        """Multiply-accumulates per image of scoring and matching when `num_live` patches come in."""
        return 0

    def fold(self) -> Reducer:
        """The same decisions without what only training needs."""
        return self

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        raise NotImplementedError


class Dropper(Reducer):
    """Keeps the `keep` patches of the highest score. Subclasses say what the score is."""

    def __init__(self, keep: int):
        super().__init__()
        if keep < 1:
            raise ValueError(f"cannot keep {keep} patches; at least 1 must stay")
        self.keep = keep

    def extra_repr(self) -> str:
        return f"keep={self.keep}"

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return min(self.keep, num_live)

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        """[B, N] the higher the better."""
        raise NotImplementedError

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if self.keep >= tokens.num_live:
            return tokens
        return tokens.prune(self.score(tokens, attended), self.keep)


def token_counts(
    reducers: Mapping[int, Reducer], depth: int, num_patches: int, num_prefix: int, *, llf: bool = False
) -> list[tuple[int, int, int]]:
    """(tokens in attention, tokens in the MLP, tokens behind the block), prefix included, of each of `depth` blocks."""
    live, counts = num_patches, []
    for i in range(depth):
        entering = live = num_patches if llf and i == depth - 1 else live
        in_mlp = entering
        if i in reducers:
            live = reducers[i].count_after(entering, num_prefix)
            in_mlp = live if reducers[i].inside else entering
        counts.append((entering + num_prefix, in_mlp + num_prefix, live + num_prefix))
    return counts
