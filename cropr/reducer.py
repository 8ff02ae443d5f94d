"""The token-reducer interface.

Letters: B images, P prefix tokens, N live patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from cropr.tokens import Attended, Tokens
from cropr.tokens.rest import REST, fuse, softmax_of_dropped, squeeze

__all__ = ["Dropper", "Reducer", "observed", "token_counts"]


class Reducer(nn.Module):
    """Makes fewer tokens of `Tokens`. It follows a block, or sits inside one, between attention and MLP.

    A reducer that has nothing to do returns its input itself: at rate 0 a reduced model is the plain one, bit for bit.
    """

    inside: ClassVar[bool] = False
    taps: ClassVar[tuple[str, ...]] = ()  # of its block: see taps.py; empty: `attended` is None
    class_token: ClassVar[bool] = False  # refuses models without one
    reads_truth: ClassVar[bool] = False  # of each image, from `tokens.truth`: no method, a control

    @property
    def merges(self) -> bool:
        """Tokens become one instead of leaving; their owners are followed where needed."""
        return False

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

    def idle(self, num_live: int, num_prefix: int) -> bool:
        """It has nothing to do when `num_live` patches come in."""
        return self.count_after(num_live, num_prefix) == num_live

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        """Multiply-accumulates per image of scoring and matching when `num_live` patches come in."""
        return 0

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        """The numbers [B, M] that it decides by, and how many of the highest it takes; None where there is no choice.
        For whoever watches a model: equal numbers at the cut are no decision."""
        return None

    def fold(self) -> Reducer:
        """The same decisions without what only training needs."""
        return self

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        raise NotImplementedError


class Dropper(Reducer):
    """Keeps the `keep` patches of the highest score; `rest`: what becomes of the others, see rest.py. Subclasses say
    what the score is, and what it costs."""

    def __init__(self, keep: int, rest: str = "drop"):
        super().__init__()
        if keep < 1:
            raise ValueError(f"cannot keep {keep} patches; at least 1 must stay")
        if rest not in REST:
            raise ValueError(f"unknown rest {rest!r}; valid: {', '.join(REST)}")
        self.keep, self.rest = keep, rest

    def extra_repr(self) -> str:
        return f"keep={self.keep}, rest={self.rest}"

    @property
    def merges(self) -> bool:
        return self.rest == "squeeze"

    @property
    def reversible(self) -> bool:
        return self.rest == "drop"

    def keep_of(self, num_live: int) -> int:
        """Patches that stay when `num_live` come in."""
        return min(self.keep, num_live)

    def count_after(self, num_live: int, num_prefix: int) -> int:
        keep = self.keep_of(num_live)
        return keep + (self.rest == "fuse" and keep < num_live)

    def idle(self, num_live: int, num_prefix: int) -> bool:
        return self.keep_of(num_live) == num_live  # of all but one, fused, there are as many as before

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        keep = self.keep_of(num_live)
        if keep == num_live:
            return 0
        spent = {"drop": 0, "fuse": num_live, "squeeze": (num_live - keep) * keep}[self.rest] * embed_dim
        return self.score_macs(num_live, num_prefix, embed_dim) + spent

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        """Multiply-accumulates of the scores per image."""
        return 0

    def fusion_weight(self, scores: Tensor, kept: Tensor) -> Tensor:
        """[B, N] what each patch that leaves counts in a fused token; 0 for those in `kept` [B, K]."""
        return softmax_of_dropped(scores, kept)

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        """[B, N] the higher the better. Must not saturate: what is equal has no order."""
        raise NotImplementedError

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        keep = self.keep_of(tokens.num_live)
        return None if keep == tokens.num_live else (self.score(tokens, attended), keep)

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        keep = self.keep_of(tokens.num_live)
        if keep == tokens.num_live:
            return tokens
        scores = self.score(tokens, attended)
        order = tokens.rank(scores, keep, whole=self.rest == "squeeze")
        if self.rest == "squeeze":
            return squeeze(tokens, order, keep)
        if self.rest == "fuse":
            return fuse(tokens, order, keep, self.fusion_weight(scores, order[:, :keep]))
        return tokens.select(order, keep)


@contextmanager
def observed(modules: Mapping[str, nn.Module], note: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    """`note(name, arguments, output)` after each call of a module; what it returns, if not None, goes on instead."""

    def hook(name: str, module: nn.Module, args: tuple, output: Any) -> Any:
        return note(name, args, output)

    handles = [module.register_forward_hook(partial(hook, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
