"""Window attention of plain backbones: most blocks attend within windows of the grid, a few over all of it.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), arXiv 2203.16527; written from
the paper. It has no prefix tokens and leaves the padding visible. Ours: each window sees a copy of the prefix tokens,
whose attention's output is the mean over the windows, and nothing sees the padding. Only the attention runs on windows,
the rest of a block on the tokens as they are.

A backbone says that it has windows by an attribute: `vit.windows = Windows(14)`.

Letters: B images, H heads, E head width, P prefix tokens, N live patches, T = P + N, L patches of the grid, W windows,
K patches of a window with its padding, D any width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.nearest import nearest, one_of

__all__ = ["Layout", "Windows", "global_blocks", "windows_of"]

AFTER = ("global", "by-position")
FORMS = "14, 14:windows=by-position, 14:global=2/5/8/11,windows=global"


@dataclass(frozen=True)
class Windows:
    """Windows of `size` x `size` patches in all blocks but the global ones.

    `global_blocks`: their indices; None: every third, counted from the last one (2, 5, 8, 11 of 12, as ViTDet-B and
    EVA-02; ViTDet-L has 5, 11, 17, 23).
    `after`: attention in the other blocks once the grid is no longer full. "global": among all live tokens.
    "by-position": patches see those of their own window, by the grid position of each (of a merged token: its
    owner's). Prefix tokens, and tokens without a position, see all and are seen by all.
    """

    size: int
    global_blocks: tuple[int, ...] | None = None
    after: str = "global"

    @classmethod
    def parse(cls, text: str) -> Windows:
        """From `14:global=2/5/8/11,windows=by-position`. Raises ValueError."""
        size, colon, rest = text.partition(":")
        given = dict(item.partition("=")[::2] for item in rest.split(",")) if colon else {}
        for key in given:
            if key not in ("global", "windows"):
                raise ValueError(nearest("option of windows", key, ("global", "windows")))
        after = given.get("windows", AFTER[0])
        one_of("windows", after, AFTER)
        blocks = given["global"].split("/") if "global" in given else []
        if bad := [number for number in (size, *blocks) if not (number.isascii() and number.isdigit())]:
            raise ValueError(f"window {text!r}: {bad[0]!r} is no whole number; written {FORMS}")
        if int(size) < 1:
            raise ValueError(f"window {text!r}: windows are 1 patch wide or more")
        return cls(int(size), tuple(sorted(set(map(int, blocks)))) or None, after)

    def __str__(self) -> str:
        """As it is typed."""
        options = [] if self.global_blocks is None else [f"global={'/'.join(map(str, self.global_blocks))}"]
        options += [] if self.after == AFTER[0] else [f"windows={self.after}"]
        return f"{self.size}:{','.join(options)}" if options else str(self.size)

    def global_of(self, depth: int) -> tuple[int, ...]:
        """The global blocks of a model of `depth` blocks. Raises ValueError unless they are blocks of it, the last one
        among them: it runs on all patches where they come back."""
        if self.global_blocks is None:
            return tuple(i for i in range(depth) if (depth - 1 - i) % 3 == 0)
        if bad := [i for i in self.global_blocks if i >= depth]:
            raise ValueError(f"window {self}: block {bad[0]} is to be global; the model has blocks 0 to {depth - 1}")
        if depth - 1 not in self.global_blocks:
            raise ValueError(f"window {self}: the last block, {depth - 1}, must be global")
        return self.global_blocks

    def layout(self, grid_size: tuple[int, int]) -> Layout:
        """These windows on a grid of rows and columns; none is larger than the grid."""
        rows, columns = grid_size
        return Layout(rows, columns, min(self.size, rows), min(self.size, columns))


def windows_of(vit: nn.Module) -> Windows | None:
    """None: every block is global."""
    return getattr(vit, "windows", None)


def global_blocks(vit: nn.Module) -> tuple[int, ...]:
    """The blocks of `vit` at which a reducer may be: those that see the whole grid, which are all without windows."""
    depth, windows = len(vit.blocks), windows_of(vit)
    return tuple(range(depth)) if windows is None else windows.global_of(depth)


class Layout(NamedTuple):
    """A grid of `rows` x `columns` in windows of `height` x `width`, padded at the bottom and on the right."""

    rows: int
    columns: int
    height: int
    width: int

    @property
    def down(self) -> int:
        return -(-self.rows // self.height)

    @property
    def across(self) -> int:
        return -(-self.columns // self.width)

    @property
    def num_windows(self) -> int:
        """W."""
        return self.down * self.across

    @property
    def num_cells(self) -> int:
        """K."""
        return self.height * self.width

    @property
    def padded(self) -> bool:
        return self.num_windows * self.num_cells > self.rows * self.columns

    def split(self, x: Tensor) -> Tensor:
        """Patches in grid order [..., L, D] -> by window [..., W, K, D], with zeros for the padding."""
        x = x.unflatten(-2, (self.rows, self.columns))
        x = F.pad(x, (0, 0, 0, self.across * self.width - self.columns, 0, self.down * self.height - self.rows))
        x = x.unflatten(-3, (self.down, self.height)).unflatten(-2, (self.across, self.width))
        return x.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)

    def join(self, x: Tensor) -> Tensor:
        """Back: by window [..., W, K, D] -> in grid order [..., L, D]."""
        x = x.unflatten(-3, (self.down, self.across)).unflatten(-2, (self.height, self.width)).transpose(-4, -3)
        x = x.flatten(-5, -4).flatten(-3, -2)
        return x[..., : self.rows, : self.columns, :].flatten(-3, -2)

    def tokens(self, x: Tensor, num_prefix: int) -> Tensor:
        """All tokens of a full grid [B, P + L, D] -> of the windows [B W, P + K, D]."""
        prefix = x[:, None, :num_prefix].expand(-1, self.num_windows, -1, -1)
        return torch.cat([prefix, self.split(x[:, num_prefix:])], dim=2).flatten(0, 1)

    def back(self, x: Tensor, num_prefix: int) -> Tensor:
        """Back: of the windows [B W, P + K, D] -> [B, P + L, D]; prefix tokens are the mean over the windows."""
        x = x.unflatten(0, (-1, self.num_windows))
        return torch.cat([x[:, :, :num_prefix].mean(dim=1), self.join(x[:, :, num_prefix:])], dim=1)

    def rope(self, rope: Tensor, batch: int) -> Tensor:
        """Rotary embedding of the grid, [L, 2E] or [H, L, 2E] -> of the windows of a batch, [B W, 1 or H, K, 2E]:
        patches keep the rotation of their place on the grid, as prefix tokens are not rotated."""
        each = self.split(rope if rope.ndim == 3 else rope[None]).transpose(0, 1)
        return each.expand(batch, -1, -1, -1, -1).flatten(0, 1)

    def padding_mask(self, x: Tensor, num_prefix: int) -> Tensor | None:
        """[B W, 1, 1, P + K] what is added to the logits of keys for all tokens `x` [B, P + L, D]: -inf for padding.
        None where there is none."""
        if not self.padded:
            return None
        real = self.split(x.new_ones(self.rows * self.columns, 1)).squeeze(-1)  # [W, K]
        hidden = F.pad(real, (num_prefix, 0), value=1.0) == 0
        return _mask(hidden, x)[:, None, None].repeat(x.shape[0], 1, 1, 1)

    def position_mask(self, x: Tensor, position: Tensor) -> Tensor:
        """[B, 1, T, T] what is added to the logits between all tokens `x` [B, T, D], -inf for patches of different
        windows; `position` [B, N] on the grid, -1 for none."""
        window = position // self.columns // self.height * self.across + position % self.columns // self.width
        window = window.masked_fill(position < 0, -1)
        window = F.pad(window, (x.shape[1] - window.shape[1], 0), value=-1)
        query, key = window[:, None, :, None], window[:, None, None, :]
        return _mask((query != key) & (query >= 0) & (key >= 0), x)


def _mask(hidden: Tensor, x: Tensor) -> Tensor:
    """-inf where `hidden`, 0 elsewhere, of the type of `x`."""
    return torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, -torch.inf)
