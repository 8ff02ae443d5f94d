"""A timm Vision Transformer with token reducers between or inside its blocks.

The loop over blocks is ours, everything in it is timm's: blocks are called untouched and split only where a reducer
sits inside. State-dict keys are timm's behind the prefix `vit.`.

Letters: B images, P prefix tokens, N live patches, T = P + N, L patches of the full grid, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from cropr.reducer import Reducer, token_counts
from cropr.tokens import Attended, Tokens
from cropr.tokens.pooling import pool_weight, weighted_pool
from cropr.tokens.random_bits import image_seeds
from cropr.vit.backbone import check_backbone, grid_of
from cropr.vit.halves import attention_half, mlp_branch, mlp_half
from cropr.vit.masking import POLICIES, policy_attention
from cropr.vit.taps import Tap, Values, check_taps
from cropr.windows import global_blocks, windows_of


class ReducedViT(nn.Module):
    """A timm model `vit` with `reducers` at blocks (0-based index -> reducer).

    `llf`: last-layer fusion: before the last block every dropped token comes back, as it was when it was dropped.
    `policy`: masked training ("exact" or "sdpa", see masking.py): tokens are marked, not removed, while training,
    and in evaluation too when `masked_eval` is set. With fusion a marked token stays as it was when it was marked, and
    the last block sees all of them.
    `img_size`: of the input, where it is not the model's own (models with dynamic image size).
    A `vit` with windows (see cropr/windows.py) attends within them while the grid is full; reducers sit at its global
    blocks.

    The timm model is used, not copied. Raises ValueError for a model, a reducer or a fusion that is not defined.
    """

    dense = False  # logits for every pixel, not for the image

    def __init__(
        self,
        vit: nn.Module,
        reducers: Mapping[int, Reducer] | None = None,
        *,
        llf: bool = False,
        policy: str | None = None,
        img_size: int | tuple[int, int] | None = None,
    ):
        super().__init__()
        check_backbone(vit)
        self.vit = vit
        self.reducers = nn.ModuleDict({str(i): reducer for i, reducer in sorted((reducers or {}).items())})
        self.llf = llf
        self.tracks = llf  # remember what leaves, as it was
        self.policy = policy
        self.masked_eval = False
        self.truth: Tensor | None = None  # see `told`
        self.img_size = img_size
        self.grid_size = grid_of(vit, img_size)
        self.windows = windows_of(vit)
        self.global_blocks = global_blocks(vit)
        self._check()
        self._taps = {
            int(i): Tap(vit.blocks[int(i)].attn, reducer.taps)
            for i, reducer in self.reducers.items()
            if reducer.inside and reducer.taps
        }

    def _check(self) -> None:
        depth = len(self.vit.blocks)
        for i, reducer in self.reducers.items():
            name = type(reducer).__name__
            if not 0 <= int(i) < depth:
                raise ValueError(f"{name} at block {i}; the model has blocks 0 to {depth - 1}")
            if int(i) not in self.global_blocks:
                valid = ", ".join(map(str, self.global_blocks))
                raise ValueError(f"{name} at block {i}, which attends within windows; valid, as global: {valid}")
            check_taps(reducer)
            if reducer.class_token and self.vit.cls_token is None:
                raise ValueError(f"{name} reads the class token, and this {type(self.vit).__name__} has none")
            if self.llf and not reducer.reversible:
                raise ValueError(f"last-layer fusion brings dropped tokens back, and {name} fuses them; use rest=drop")
        if self.policy is not None and self.policy not in POLICIES:
            raise ValueError(f"unknown policy {self.policy!r}; valid: {', '.join(POLICIES)}")
        if self.reducers and getattr(self.vit.attn_pool, "pos_embed", None) is not None:
            raise ValueError("the attention pooling of this model has a position embedding and needs every patch")
        if self.llf and str(depth - 1) in self.reducers:
            raise ValueError(f"last-layer fusion needs the last block ({depth - 1}) free of reducers")

    @property
    def num_prefix_tokens(self) -> int:
        """P."""
        return self.vit.num_prefix_tokens

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid_size[0] * self.grid_size[1]

    def token_counts(self) -> list[tuple[int, int, int]]:
        """(tokens in attention, tokens in the MLP, tokens behind the block), prefix included, of every block."""
        reducers = {int(i): reducer for i, reducer in self.reducers.items()}
        return token_counts(reducers, len(self.vit.blocks), self.num_patches, self.num_prefix_tokens, llf=self.llf)

    def _reducer(self, i: int) -> Reducer | None:
        return self.reducers[str(i)] if str(i) in self.reducers else None  # noqa: SIM401 (a ModuleDict has no get)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, h, w] -> logits [B, C]."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor, track: bool = False) -> Tokens:
        """Images [B, 3, h, w] -> the tokens behind the final norm. `track` remembers dropped and merged ones."""
        vit = self.vit
        embedded = vit._pos_embed(vit.patch_embed(images))  # once per forward: RoPE may be jittered in training
        x, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        tokens = self._begin(vit.norm_pre(x), images, track or self.tracks)
        last = len(vit.blocks) - 1
        for i, block in enumerate(vit.blocks):
            if self.llf and i == last:
                tokens = self._fuse(tokens)
            at_block = rope[i] if rope is not None and getattr(vit, "rope_mixed", False) else rope
            tokens = self._run_block(i, block, tokens, at_block)
        return self._finish(tokens)

    def _fuse(self, tokens: Tokens) -> Tokens:
        """All patches in grid order, in front of the last block."""
        return replace(tokens.restore(), policy=None)

    def _finish(self, tokens: Tokens) -> Tokens:
        return replace(tokens, x=self.vit.norm(tokens.x))

    def _begin(self, x: Tensor, images: Tensor, track: bool) -> Tokens:
        grid = x.shape[1] - self.num_prefix_tokens
        if grid != self.num_patches:
            raise ValueError(f"the schedule is for {self.num_patches} patches, not {grid}; rebuild it with img_size=")
        masked = self.policy is not None and (self.training or self.masked_eval)
        return Tokens(
            x,
            self.num_prefix_tokens,
            grid,
            policy=x.new_ones(x.shape[0], grid, dtype=torch.float32) if masked else None,
            owner=torch.arange(grid, device=x.device).expand(x.shape[0], -1) if track and self._merges() else None,
            track=track,
            seed=image_seeds(images) if any(r.seeded for r in self.reducers.values()) else None,
            truth=self.truth,
        )

    @property
    def reads_truth(self) -> bool:
        """A control among its reducers reads the labels: it is no method."""
        return any(reducer.reads_truth for reducer in self.reducers.values())

    @contextmanager
    def told(self, truth: Tensor | None) -> Iterator[None]:
        """Within it, `truth` [B, L] (1: the patch has something to predict) is there for the control that reads it.
        Raises ValueError where one does and there is none."""
        if not self.reads_truth:
            yield
            return
        if truth is None:
            raise ValueError("a reducer reads what is to be predicted, and this data set has no labels of patches")
        if truth.shape[1] != self.num_patches:
            raise ValueError(f"labels of {truth.shape[1]} patches for a model of {self.num_patches}")
        self.truth = truth
        try:
            yield
        finally:
            self.truth = None

    def _merges(self) -> bool:
        return any(reducer.merges for reducer in self.reducers.values())

    def _run_block(self, i: int, block: nn.Module, tokens: Tokens, grid_rope: Tensor | None) -> Tokens:
        before = tokens
        tokens = self._through_block(i, block, tokens, grid_rope)
        if before.policy is None or not self.tracks:
            return tokens
        # Masked training of what comes back: tokens that were marked before this block stay as they were, like dropped
        # ones at inference. Those that the reducer behind it marks have gone through it.
        keep = before.policy.to(tokens.x.dtype).unsqueeze(-1)
        patches = keep * tokens.patches + (1 - keep) * before.patches
        return replace(tokens, x=torch.cat([tokens.x[:, : tokens.num_prefix], patches], dim=1))

    def _through_block(self, i: int, block: nn.Module, tokens: Tokens, grid_rope: Tensor | None) -> Tokens:
        if i not in self.global_blocks and self._on_full_grid(i, tokens):
            return replace(tokens, x=self._run(partial(self._in_windows, block, grid_rope), tokens.x))
        reducer, rope, bias = self._reducer(i), tokens.rope(grid_rope), tokens.attn_bias()
        if self.windows is not None and self.windows.after == "by-position" and i not in self.global_blocks:
            apart = self.windows.layout(self.grid_size).position_mask(tokens.x, tokens.positions())
            bias = apart if bias is None else bias + apart
        kwargs = {"attn_mask": bias} if grid_rope is None else {"rope": rope, "attn_mask": bias}
        half = getattr(block.attn, "rotate_half", False)

        def attended(q: Any = None, k: Any = None, **taps: Any) -> Attended:
            return Attended(q, k, block.attn.scale, tokens.num_prefix, rope, half, bias, **taps)

        attention = self._policy_attention(tokens) if self._masked(i, tokens) else nullcontext()
        if reducer is None or not reducer.inside:

            def whole(x: Tensor) -> Tensor:
                with attention:
                    return block(x, **kwargs)

            def halves(x: Tensor) -> tuple[Tensor, Tensor]:
                with attention:
                    x = attention_half(block, x, kwargs)
                branch = mlp_branch(block, x)
                return x + block.drop_path2(branch), branch

            if reducer is None or not reducer.taps:
                tokens = replace(tokens, x=self._run(whole, tokens.x))
                return tokens if reducer is None else reducer(tokens)
            x, branch = self._run(halves, tokens.x)
            return reducer(replace(tokens, x=x), attended(mlp=branch))

        tap, values = self._taps.get(i), Values() if "v" in reducer.taps else None

        def first_half(x: Tensor) -> tuple[Tensor | None, ...]:
            with attention, tap or nullcontext(), values or nullcontext():
                x = attention_half(block, x, kwargs)
                return x, *(tap.take() if tap else (None,) * 3), values.take() if values else None

        x, q, k, normed, v = self._run(first_half, tokens.x)
        tokens = reducer(replace(tokens, x=x), attended(q, k, v=v, normed=normed))
        return replace(tokens, x=self._run(partial(mlp_half, block), tokens.x))

    def _on_full_grid(self, i: int, tokens: Tokens) -> bool:
        """No reducer has done anything yet in front of block i."""
        if tokens.policy is not None:  # tokens are marked, and none leaves
            return self._in_front(i)
        return tokens.index is None and tokens.size is None

    def _in_front(self, i: int) -> bool:
        """No reducer stands in front of block i."""
        return all(i <= int(first) for first in self.reducers)

    def _masked(self, i: int, tokens: Tokens) -> bool:
        """Attention of block i heeds the policy. The exact one does, up to its eps, where nothing is marked yet."""
        return tokens.policy is not None and not (self.policy == "sdpa" and self._in_front(i))

    def _in_windows(self, block: nn.Module, grid_rope: Tensor | None, x: Tensor) -> Tensor:
        """A block whose attention runs within windows of the full grid, [B, P + L, D]."""
        assert self.windows is not None
        layout, prefix = self.windows.layout(self.grid_size), self.num_prefix_tokens

        def attend(x: Tensor, **kwargs: Tensor | None) -> Tensor:
            return layout.back(block.attn(layout.tokens(x, prefix), **kwargs), prefix)

        kwargs = {"attn_mask": layout.padding_mask(x, prefix)}
        kwargs |= {} if grid_rope is None else {"rope": layout.rope(grid_rope, x.shape[0])}
        return mlp_half(block, attention_half(block, x, kwargs, attend))

    def _run(self, part: Callable, x: Tensor) -> Any:
        """`part(x)`; with gradient checkpointing its activations are computed again in the backward pass."""
        save = self.vit.grad_checkpointing and torch.is_grad_enabled()
        return checkpoint(part, x, use_reentrant=False) if save else part(x)

    def _policy_attention(self, tokens: Tokens) -> policy_attention:
        assert tokens.policy is not None and self.policy is not None
        return policy_attention(tokens.policy, tokens.num_prefix, self.policy)

    def forward_head(self, tokens: Tokens) -> Tensor:
        """Tokens behind the final norm -> logits [B, C]. Average and attention pooling count a token by its size, and
        by its policy."""
        vit, weight = self.vit, pool_weight(tokens)
        if weight is None or vit.global_pool in ("", "token"):
            return vit.forward_head(tokens.x)
        return vit.head(vit.head_drop(vit.fc_norm(weighted_pool(vit, tokens.x, weight))))

    def fold(self) -> ReducedViT:
        """The model as it is deployed, timed and counted: the same weights, without what only training needs."""
        reducers = {int(i): reducer.fold() for i, reducer in self.reducers.items()}
        if self.policy is None and all(self.reducers[str(i)] is reducer for i, reducer in reducers.items()):
            return self  # another model would tap the same attention modules once more
        return self._with(reducers).train(self.training)

    def _with(self, reducers: Mapping[int, Reducer]) -> ReducedViT:
        """The same model, sharing its weights, with other reducers."""
        return ReducedViT(self.vit, reducers, llf=self.llf, img_size=self.img_size)
