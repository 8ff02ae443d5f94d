"""Representation shift: the patches that the MLP changes most stay.

arXiv 2508.00367 (licence of the release: unknown). Written from a description in words, unverified against the release.
What differs: the schedule, which is Cropr's. What is ambiguous there is an option: the shift is what the MLP adds, or
the difference between its output and its input; the first is the default, a choice of ours. Its output is what the
block adds, so that layer scale counts.

Letters: B images, P prefix tokens, N live patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.method import option
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import wide_type

__all__ = ["RepresentationShift", "ShiftScore"]

SHIFTS = ("branch", "difference")


class ShiftScore(Dropper):
    """Scores [B, N]: the Euclidean norm of the shift of each patch. With x' the input of the MLP and m what it adds:
    m ("branch"), or m - x' ("difference"), where x' is the patch behind the block minus m (while
    training, stochastic depth makes that another one).
    """

    taps = ("mlp",)

    def __init__(self, keep: int, rest: str = "drop", shift: str = "branch"):
        super().__init__(keep, rest)
        if shift not in SHIFTS:
            raise ValueError(f"unknown shift {shift!r}; valid: {', '.join(SHIFTS)}")
        self.shift = shift

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert attended is not None and attended.mlp is not None
        shift = attended.mlp[:, tokens.num_prefix :]
        if self.shift == "difference":
            shift = 2 * shift - tokens.patches  # m - x', where a patch is x' + m now
        return torch.linalg.vector_norm(shift, dim=-1, dtype=wide_type(shift))


@dataclass(frozen=True, kw_only=True)
class RepresentationShift(OnCroprSchedule):
    """The patches that the MLP of a block changes most stay."""

    name = "repshift"
    label = "Representation shift"
    paper = "arXiv 2508.00367"
    licence = "unknown"
    reducer = ShiftScore

    shift: str = option(
        "branch", "of which the norm is taken: branch, what the MLP adds; difference, its output minus its input",
        choices=SHIFTS,
    )  # fmt: skip

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        return ShiftScore(keep, self.at_reducer, self.shift)
