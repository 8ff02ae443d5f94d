"""What flows through a reduced Vision Transformer.

Letters: B images, P prefix tokens (class, distillation, registers), N live patches, T = P + N, L patches of the full
grid, D width, H heads, E = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cropr.tokens.precision import product, wide, wide_type

__all__ = ["Attended", "Tokens", "take"]


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of every image: `x` [B, T, ...], `rows` [B, K] -> [B, K, ...].

    One `index_select` over the flattened batch copies whole rows, which is faster than `gather` with an expanded index.
    """
    batch, length = x.shape[:2]
    flat = rows + torch.arange(batch, device=rows.device).unsqueeze(1) * length
    return x.flatten(0, 1).index_select(0, flat.flatten()).view(*rows.shape, *x.shape[2:])


@dataclass(frozen=True)
class Tokens:
    """The live tokens of a batch and what became of the others. Immutable: reducers return a new one."""

    x: Tensor  # [B, T, D], prefix tokens first
    num_prefix: int  # P
    grid: int  # L
    index: Tensor | None = None  # [B, N] grid position of each live patch, -1: none; None: all of them, in order
    size: Tensor | None = None  # [B, T] patches merged into each token; None: one each
    proportional: bool = False  # attention adds log(size) to the logits of each key
    policy: Tensor | None = None  # [B, N] 1 keep, 0 drop, differentiable (masked training)
    owner: Tensor | None = None  # [B, L] the live patch that holds each grid position (mergers), followed if `track`
    dropped: tuple[tuple[Tensor, Tensor], ...] = ()  # ([B, M, D], [B, M] position) of each pruning, kept if `track`
    aux: tuple = ()  # what reducers hand to the loss, in block order
    track: bool = False  # remember what fusion and dense outputs need
    seed: Tensor | None = None  # [B] int64, a fingerprint of each image, for reducers that draw at random
    truth: Tensor | None = None  # [B, L] 1 where there is something to predict, for the control that reads it

    @property
    def patches(self) -> Tensor:
        """[B, N, D] the live patches."""
        return self.x[:, self.num_prefix :]

    @property
    def num_live(self) -> int:
        """N."""
        return self.x.shape[1] - self.num_prefix

    def positions(self) -> Tensor:
        """[B, N] grid position of each live patch."""
        if self.index is not None:
            return self.index
        return torch.arange(self.grid, device=self.x.device).expand(self.x.shape[0], -1)

    def holders(self) -> Tensor:
        """[B, L] which patch stands for each grid position: its own where that is live, that of another where it was
        merged into that one, -1 where it was dropped."""
        position = self.positions()
        if self.owner is not None:
            return position.gather(1, self.owner)
        held = position.new_full((position.shape[0], self.grid + 1), -1)
        at = position.where(position >= 0, self.grid)  # a fused token stands for no position: a column that is cut off
        return held.scatter(1, at, at)[:, : self.grid]

    def prune(self, scores: Tensor, keep: int) -> Tokens:
        """Keep the `keep` patches of the highest `scores` [B, N], in descending order of score; prefix tokens stay.

        Raises ValueError when there are not that many patches.
        """
        return self.select(self.rank(scores, keep), keep)

    def rank(self, scores: Tensor, keep: int, whole: bool = False) -> Tensor:
        """[B, keep or more] patches in descending order of score, of equal ones the first on the grid, on any machine:
        all of them where dropped ones are remembered, or the order is wanted `whole`."""
        if not 0 < keep <= self.num_live:
            raise ValueError(f"cannot keep {keep} of {self.num_live} patches; 1 to {self.num_live} are possible")
        scores = scores.detach()
        if self.index is None:
            order = scores.argsort(dim=1, descending=True, stable=True)
        else:
            on_grid = self.index.argsort(dim=1, stable=True)
            order = on_grid.gather(1, scores.gather(1, on_grid).argsort(dim=1, descending=True, stable=True))
        return order if self.track or whole else order[:, :keep]

    def select(self, order: Tensor, keep: int) -> Tokens:
        """The first `keep` patches of `order` [B, keep or more]; the others are dropped.

        Raises ValueError for merged patches whose owners are followed: a dropped owner could not be brought back.
        """
        if self.owner is not None:
            raise ValueError("patches are merged and then dropped; track=False, or only one of the two, is possible")
        chosen, gone = order[:, :keep], order[:, keep:]
        prefix = torch.arange(self.num_prefix, device=order.device).expand(order.shape[0], -1)
        rows = torch.cat([prefix, chosen + self.num_prefix], dim=1)
        dropped = ((take(self.patches, gone), self.positions().gather(1, gone)),) if self.track else ()
        return replace(
            self,
            x=take(self.x, rows),
            index=chosen if self.index is None else self.index.gather(1, chosen),
            size=None if self.size is None else self.size.gather(1, rows),
            policy=None if self.policy is None else self.policy.gather(1, chosen),
            dropped=self.dropped + dropped,
        )

    def append(self, x: Tensor) -> Tokens:
        """With one more token `x` [B, D] at the end, which has no grid position."""
        nowhere = torch.full_like(self.positions()[:, :1], -1)
        return replace(
            self, x=torch.cat([self.x, x.unsqueeze(1)], dim=1), index=torch.cat([self.positions(), nowhere], dim=1)
        )

    def restore(self) -> Tokens:
        """All L patches in grid order: live ones as they are, dropped ones as they were when they were dropped, merged
        ones as the token that owns them. Tokens that stand for no position of their own are left out.

        Raises ValueError for tokens that were pruned without `track`.
        """
        if self.owner is not None:
            x = torch.cat([self.x[:, : self.num_prefix], take(self.patches, self.owner)], dim=1)
            return replace(self, x=x, index=None, size=None, owner=None, dropped=())
        if self.index is None:
            return self
        values = torch.cat([self.patches, *(x for x, _ in self.dropped)], dim=1)
        position = torch.cat([self.index, *(at for _, at in self.dropped)], dim=1)
        nowhere = values.shape[1] - self.grid  # tokens without a position, as many in every image; -1 sorts them first
        if nowhere < 0 or not self.track:
            raise ValueError(f"{values.shape[1]} of {self.grid} patches are known; track=True remembers dropped ones")
        x = torch.cat([self.x[:, : self.num_prefix], take(values, position.argsort(dim=1)[:, nowhere:])], dim=1)
        return replace(self, x=x, index=None, size=None, policy=None, dropped=())

    def fill(self, background: Tensor) -> Tokens:
        """All L patches in grid order: live ones as they are, `background` [B or 1, L, D] elsewhere."""
        prefix, patches = self.x[:, : self.num_prefix], self.patches
        if self.policy is not None:
            keep = self.policy.to(patches.dtype).unsqueeze(-1)
            patches = keep * patches + (1 - keep) * background
        elif self.index is not None:
            at = self.index.unsqueeze(-1).expand_as(patches)
            whole = background.to(patches.dtype).expand(patches.shape[0], -1, -1)
            patches = whole.scatter(1, at, patches)
        else:
            return self
        return replace(self, x=torch.cat([prefix, patches], dim=1), index=None, size=None, policy=None, dropped=())

    def attn_bias(self) -> Tensor | None:
        """[B, 1, 1, T] the logarithm of each key's size, to be added to the attention logits, or None."""
        if not self.proportional or self.size is None:
            return None
        return self.size.float().log().to(self.x.dtype)[:, None, None]

    def rope(self, rope: Tensor | None) -> Tensor | None:
        """Rotary embedding of the live patches out of that of the grid, [L, 2E] or [H, L, 2E].

        The result is [B, 1, N, 2E] or [B, H, N, 2E]: without the axis of heads timm would broadcast the batch over
        heads, silently when B = H. A token without a position (-1) is not rotated, like the class token.
        """
        if rope is None or self.index is None:
            return rope
        from timm.layers import apply_keep_indices_nlc  # not above: methods are listed without the seconds timm takes

        live = apply_keep_indices_nlc(self.x, rope, self.index.clamp(min=0))
        live = live.unsqueeze(1) if live.ndim == 3 else live
        still = torch.cat([torch.zeros_like(live[..., ::2]), torch.ones_like(live[..., ::2])], dim=-1)  # sin 0, cos 1
        return torch.where((self.index < 0)[:, None, :, None], still, live)


@dataclass(frozen=True)
class Attended:
    """What a reducer reads of its block (see `Reducer.taps`); the block's own attention stays on SDPA."""

    q: Tensor  # [B, H, T, E] before RoPE
    k: Tensor  # [B, H or fewer, T, E] before RoPE
    scale: float
    num_prefix: int
    rope: Tensor | None = None  # of the patches, as the attention was given it
    rotate_half: bool = False
    bias: Tensor | None = None  # [B, 1, 1, T] added to the logits
    v: Tensor | None = None  # [B, H, T, E], where it is tapped
    normed: Tensor | None = None  # [B, T, D] what attention was given, x behind the block's first norm, where tapped
    mlp: Tensor | None = None  # [B, T, D] what the MLP added to each token, where it is tapped

    def prefix_attention(self, num: int | None = None) -> Tensor:
        """Softmax rows of the first `num` prefix tokens (all: None) over all keys, [B, H, num, T], in float32."""
        first = self.num_prefix if num is None else num
        if not 0 < first <= self.num_prefix:
            raise ValueError(f"{first} of {self.num_prefix} prefix tokens asked for")
        return self._rows(self.q[:, :, :first], self._keys())  # prefix tokens are not rotated

    def attention(self) -> Tensor:
        """The whole softmax, [B, H, T, T], in float32. Computed anew: T^2 H E MACs."""
        return self._rows(self._rotated(self.q), self._keys())

    def received(self, weight: Tensor | None = None, chunk: int = 256) -> Tensor:
        """[B, H, T] what each token is attended to: sum_i w_i A_ij over the queries i of the softmax A, in float32;
        `weight` w [B, 1 or H, T], None: 1 / T each, the mean. Costs T^2 H E MACs. A is there for `chunk` queries at a
        time, never whole."""
        q, k, parts = self._rotated(self.q), self._keys(), []
        for start in range(0, q.shape[2], chunk):
            rows = self._rows(q[:, :, start : start + chunk], k)
            if weight is not None:
                rows = rows * weight[..., start : start + chunk, None]
            parts.append(rows.sum(dim=2))
        total = sum(parts[1:], start=parts[0])
        return total / q.shape[2] if weight is None else total

    def mean_keys(self) -> Tensor:
        """[B, T, E] the keys before RoPE, a mean over heads, in float32 at least: directions that are compared."""
        return self.k.mean(dim=1, dtype=wide_type(self.k))

    def _rows(self, q: Tensor, k: Tensor) -> Tensor:
        """Softmax rows of rotated queries over all keys."""
        logits = product(wide(q) * self.scale, k.transpose(-2, -1))
        if self.bias is not None:
            logits = logits + self.bias
        return logits.softmax(dim=-1, dtype=torch.float32)

    def _rotated(self, x: Tensor) -> Tensor:
        """Queries or keys as attention multiplies them."""
        if self.rope is None:
            return x
        from timm.layers import apply_rot_embed_cat

        patches = apply_rot_embed_cat(x[:, :, self.num_prefix :], self.rope, half=self.rotate_half)
        return torch.cat([x[:, :, : self.num_prefix], patches], dim=2).type_as(x)

    def _keys(self) -> Tensor:
        """Rotated keys, as many heads as queries."""
        k = self._rotated(self.k)
        return k if k.shape[1] == self.q.shape[1] else k.repeat_interleave(self.q.shape[1] // k.shape[1], dim=1)
