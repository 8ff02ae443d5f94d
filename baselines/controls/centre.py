"""Control: the patches nearest to the middle of the image stay.

Letters: B images, N live patches, L patches of the full grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule, grid_shape
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import wide

__all__ = ["Centre", "CentreScore"]


class CentreScore(Dropper):
    """Scores [B, N]: minus the distance of each patch from the middle of a grid of `rows` x `columns`; of several at
    one distance the first in grid order. A fused token, which has no position, goes last."""

    def __init__(self, keep: int, rows: int, columns: int, rest: str = "drop"):
        super().__init__(keep, rest)
        self.rows, self.columns = rows, columns
        position = torch.arange(rows * columns)
        down, across = 2 * (position // columns) - rows + 1, 2 * (position % columns) - columns + 1
        order = ((down**2 + across**2) * rows * columns + position).argsort()  # no two are equal
        score = torch.full((rows * columns + 1,), -rows * columns)
        score[order] = -torch.arange(rows * columns)
        # [L + 1], the last one read at position -1. Whole numbers: of a model's type bfloat16 has 256 in a row.
        self.register_buffer("by_position", score)

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        return wide(self.by_position[tokens.positions()])


@dataclass(frozen=True, kw_only=True)
class Centre(OnCroprSchedule):
    """Control: the patches nearest to the middle of the image stay."""

    name = "centre"
    label = "Centre"
    role = "control"
    reducer = CentreScore

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Dropper]:
        rows, columns = grid_shape(vit, num_patches)
        counts = self.counts(vit, num_patches)
        return {block: CentreScore(keep, rows, columns, self.at_reducer) for block, keep in counts.items()}
