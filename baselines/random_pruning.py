"""Random pruning: the upper bound of speed for Cropr's schedule and the lower bound of selection.

Scores are uniform and independent per image, module and grid position, and a function of the image's own bits: the same
images lose the same tokens whenever and beside whatever they run.
"""

from __future__ import annotations

from torch import Tensor, nn

from cropr.cropr import module_keeps, scales
from cropr.random_bits import uniform
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens

__all__ = ["RandomPruning", "place", "scales"]


class RandomPruning(Dropper):
    """Keeps `keep` patches drawn at random; `salt` tells modules and seeds apart."""

    seeded = True

    def __init__(self, keep: int, salt: int):
        super().__init__(keep)
        self.salt = salt

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert tokens.seed is not None
        return uniform(tokens.seed, tokens.positions(), self.salt)


def place(
    vit: nn.Module,
    num_patches: int,
    *,
    rate: float | None = None,
    ratio: float | None = None,
    llf: bool = False,
    first_extra: int | None = None,
    seed: int = 0,
) -> dict[int, RandomPruning]:
    """Cropr's schedule with random scores."""
    keeps = module_keeps(vit, num_patches, rate=rate, ratio=ratio, llf=llf, first_extra=first_extra)
    return {i: RandomPruning(keep, salt=seed * len(vit.blocks) + i) for i, keep in keeps.items()}
