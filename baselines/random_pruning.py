"""Random pruning: the upper bound of speed for Cropr's schedule and the lower bound of selection.

Scores are uniform and independent per image, module and grid position, and a function of the image's own bits: the same
images lose the same tokens whenever and beside whatever they run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.method import Method
from cropr.option import option
from cropr.random_bits import uniform
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens

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

    like: str | None = option(
        None, "the very counts, places and rest of another method, written like=evit or like=evit:keep=0.7+rest=drop: "
        "what its choice is worth", unset="Cropr's schedule",
    )  # fmt: skip

    def resolved(self, find: Callable[[str, bool], Method]) -> Random:
        if self.like is None:
            return self
        other = find(self.like.replace("+", ","), self.dense)
        if other.role in ("dense", "random"):
            raise ValueError(f"like={self.like} of {self.name} names no method that chooses")
        rest = other.rest or ("llf" if self.dense else "drop")  # nothing leaves where all merge
        return replace(self, like=str(other).replace(",", "+"), other=other, rest=rest)

    def check(self) -> None:
        super().check()
        if self.like is not None and (given := [key for key in (*self.native, "schedule", "at") if getattr(self, key)]):
            raise ValueError(f"{self.name}: like= says the counts, and {given[0]}= says others; give one of them")

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Dropper]:
        if self.other is None:
            return super().place(vit, num_patches)
        found, live = {}, num_patches
        for block, reducer in sorted(self.other.place(vit, num_patches).items()):
            behind = reducer.count_after(live, vit.num_prefix_tokens)
            fused = self.at_reducer == "fuse" and behind < live
            found[block] = self.make(vit, block, behind - fused)
            live = behind
        return found

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        return RandomPruning(keep, self.seed * len(vit.blocks) + block, self.at_reducer)
