"""ALGM: like patches of a window merge early, like tokens anywhere later; made for segmentation.

Norouzi et al., "ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation with Plain Vision
Transformers", CVPR 2024, arXiv 2406.09936 (release: MIT). Written from a description in words. What differs: nothing is
adaptive: numbers of windows and of pairs are fixed, where the paper merges what is beyond a threshold, as often as in
the image of a batch that has the least of it; counts here are the same in all images and known beforehand. Ours: how
merges are shared out between the two places, the places in models that are not 12 blocks deep, and that similarity is
that of keys averaged over heads.

Letters: B images, P prefix tokens, N patches, T = P + N, W windows of 2 x 2 patches, E head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.tome import ToMe
from cropr.dropping import grid_shape
from cropr.method import Method, option
from cropr.reducer import Reducer
from cropr.schedule import SLACK, Scale
from cropr.tokens import Attended, Tokens
from cropr.tokens.merging import matching, merged
from cropr.tokens.precision import wide
from cropr.windows import global_blocks

__all__ = ["LocalGlobalMerging", "WindowMerging", "likeness"]


def likeness(x: Tensor) -> Tensor:
    """[..., ] mean cosine between two different ones of the four vectors `x` [..., 4, E]."""
    unit = F.normalize(wide(x), dim=-1)
    return (unit.sum(dim=-2).square().sum(dim=-1) - unit.square().sum(dim=(-2, -1))) / 12


class WindowMerging(Reducer):
    """In the `num` windows of 2 x 2 patches with the most similar keys the four become one, at the place of the first,
    between attention and MLP. All patches of a grid of `rows` x `columns` must be there; the last row and column of an
    odd number are in no window."""

    inside = True
    taps = ("k",)

    @property
    def merges(self) -> bool:
        return True

    def __init__(self, num: int, rows: int, columns: int, proportional: bool = True):
        super().__init__()
        if not 0 <= num <= (rows // 2) * (columns // 2):
            raise ValueError(f"cannot merge {num} windows of 2 x 2 patches of a grid of {rows} x {columns}")
        self.num, self.rows, self.columns, self.proportional = num, rows, columns, proportional

    def extra_repr(self) -> str:
        return f"num={self.num}, rows={self.rows}, columns={self.columns}, proportional={self.proportional}"

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return num_live - 3 * self.num

    def windows(self, device: torch.device) -> Tensor:
        """[W, 4] the patches of each window, row by row."""
        down, across = self.rows // 2, self.columns // 2
        patch = torch.arange(self.rows * self.columns, device=device).view(self.rows, self.columns)
        return patch[: 2 * down, : 2 * across].view(down, 2, across, 2).transpose(1, 2).reshape(-1, 4)

    def ranking(self, tokens: Tokens, attended: Attended | None = None) -> tuple[Tensor, int] | None:
        """The likeness [B, W] of each window."""
        if self.num == 0:
            return None
        assert attended is not None
        keys = attended.mean_keys()[:, tokens.num_prefix :]
        return likeness(keys[:, self.windows(keys.device)]), self.num

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        with torch.no_grad():
            ranking = self.ranking(tokens, attended)
        if ranking is None:
            return tokens
        if tokens.index is not None:
            raise ValueError("windows of patches are merged where all patches are there; this is behind another merge")
        best = ranking[0].argsort(dim=1, descending=True, stable=True)[:, : self.num]
        places = self.windows(best.device)[best] + tokens.num_prefix  # [B, num, 4]
        leave, into = places[..., 1:], places[..., :1].expand(-1, -1, 3)
        return merged(tokens, matching(leave.flatten(1), into.flatten(1), tokens.x.shape[1]), self.proportional)


@dataclass(frozen=True, kw_only=True)
class LocalGlobalMerging(Method):
    """Like patches of a window are merged early, like tokens anywhere later; fixed numbers of both."""

    name = "algm"
    label = "ALGM"
    paper = "arXiv 2406.09936"
    licence = "MIT"
    reducer = WindowMerging

    rate: float | None = option(None, "patches that leave in all", low=0, sets_cost=True)
    local: float = option(0.5, "share of them that leaves where windows merge, if there are enough", low=0, high=1)
    later: int | None = option(
        None, "block in which pairs merge", low=1, unset="at a third of the depth; with windows, the next global one"
    )
    proportional: bool = option(True, "attention counts a token by the patches merged into it")

    def blocks(self, vit: nn.Module) -> tuple[int, int]:
        """In which windows and pairs merge: the first one, and a later one. Raises ValueError."""
        first, *valid = global_blocks(vit)
        if not valid:
            raise ValueError(f"{self.name} merges in two blocks, and this model has one that it may be in")
        if self.later is None:
            return first, next((block for block in valid if block >= len(vit.blocks) // 3), valid[-1])
        if self.later not in valid:
            raise ValueError(f"{self.name}: later={self.later} is no block for it; valid: {', '.join(map(str, valid))}")
        return first, self.later

    def place(self, vit: nn.Module, num_patches: int) -> dict[int, Reducer]:
        if self.rate is None:
            raise ValueError(f"{self.name} needs a budget, or rate")
        (first, second), (rows, columns) = self.blocks(vit), grid_shape(vit, num_patches)
        windows, leave = (rows // 2) * (columns // 2), math.floor(self.rate + SLACK)
        if leave > (most := most_that_leave(num_patches, windows)):
            raise ValueError(f"{self.name}: rate={self.rate:g}; at most {most} of {num_patches} patches can leave")
        # Pairs take half of what windows leave: what is more must leave in windows.
        num = min(windows, max(math.floor(self.local * leave / 3 + SLACK), math.ceil((2 * leave - num_patches) / 3)))
        pairs, head_dim = leave - 3 * num, vit.blocks[second].attn.head_dim
        local = {first: WindowMerging(num, rows, columns, self.proportional)} if num else {}
        return local | ({second: ToMe(pairs, self.proportional, head_dim)} if pairs else {})

    def scales(self, vit: nn.Module, num_patches: int) -> list[Scale]:
        """Up to all windows, and half of what they leave."""
        rows, columns = grid_shape(vit, num_patches)
        most = most_that_leave(num_patches, (rows // 2) * (columns // 2))
        return [Scale("staged", "rate", float(most), 0.0)]


def most_that_leave(num_patches: int, windows: int) -> int:
    return 3 * windows + (num_patches - 3 * windows) // 2
