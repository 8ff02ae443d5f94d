"""Random pruning: the upper bound of speed for Cropr's schedule and the lower bound of selection.

Scores are uniform and independent per image, module and grid position, and a function of the image's own bits: the same
images lose the same tokens whenever and beside whatever they run.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.random_bits import uniform

__all__ = ["Random", "RandomPruning"]


class RandomPruning(Dropper):
    """Keeps `keep` patches drawn at random; `salt` tells modules and seeds apart."""

    seeded = True

    def __init__(self, keep: int, salt: int, rest: str = "drop"):
        super().__init__(keep, rest)
        self.salt = salt

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert tokens.seed is not None
        return uniform(tokens.seed, tokens.positions(), self.salt)


@dataclass(frozen=True, kw_only=True)
class Random(OnCroprSchedule):
    """Patches leave at random, on Cropr's schedule."""

    name = "random"
    label = "Random"
    version = 2
    role = "random"
    standard = True
    reducer = RandomPruning

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        return RandomPruning(keep, self.seed * len(vit.blocks) + block, self.at_reducer)
