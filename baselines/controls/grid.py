"""Control: the patches that stay are spread evenly over the grid, whatever is in the image.

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

__all__ = ["Grid", "GridScore", "spread_order"]

PLASTIC = 1.32471795724474602596  # x^3 = x + 1; its powers give the most even sequence in two dimensions


def spread_order(rows: int, columns: int) -> list[int]:
    """Positions of a grid in an order of which every beginning is spread evenly: each next one is the nearest that is
    left to the next point of Roberts' R2 sequence."""
    left, order = [(r, c) for r in range(rows) for c in range(columns)], []
    for n in range(1, rows * columns + 1):
        y, x = (0.5 + n / PLASTIC) % 1 * rows - 0.5, (0.5 + n / PLASTIC**2) % 1 * columns - 0.5
        nearest = min(left, key=lambda at: ((at[0] - y) ** 2 + (at[1] - x) ** 2, at))
        left.remove(nearest)
        order.append(nearest[0] * columns + nearest[1])
    return order


class GridScore(Dropper):
    """Scores [B, N]: minus the place of each patch's position in `spread_order`. A fused token, which has no position,
    goes last."""

    def __init__(self, keep: int, rows: int, columns: int, rest: str = "drop"):
        super().__init__(keep, rest)
        self.rows, self.columns = rows, columns
        score = torch.full((rows * columns + 1,), -rows * columns)  # the last one is read at position -1
        score[torch.tensor(spread_order(rows, columns))] = -torch.arange(rows * columns)
        # [L + 1]. Whole numbers: of a model's type bfloat16 has 256 in a row.
        self.register_buffer("by_position", score)

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        return wide(self.by_position[tokens.positions()])


@dataclass(frozen=True, kw_only=True)
class Grid(OnCroprSchedule):
    """Control: the patches that stay are spread evenly over the grid."""

    name = "grid"
    label = "Grid"
    role = "control"
    reducer = GridScore

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Dropper]:
        rows, columns = grid_shape(vit, num_patches)
        counts = self.counts(vit, num_patches)
        return {block: GridScore(keep, rows, columns, self.at_reducer) for block, keep in counts.items()}
