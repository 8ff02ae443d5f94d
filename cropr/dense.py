"""Dense prediction by a reduced Vision Transformer: logits for every pixel, whatever became of its patch.

The decoder is timm's own end of the model, applied to each patch: final norm, `fc_norm` and `head`, then bilinear
upsampling (the linear decoder of Segmenter, Strudel et al., arXiv 2105.05633). Weights have the same keys as in
`ReducedViT`; pooling, the class token's output and a second head of distillation are not used.

Letters: B images, P prefix tokens, N live patches, L patches of the full grid, D width, C classes, h and w sides in
pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, trunc_normal_
from torch import Tensor, nn

from cropr.reducer import Reducer
from cropr.tokens import Tokens, take
from cropr.vit import ReducedViT

__all__ = ["FUSIONS", "ON_FULL_GRID", "DenseViT", "nearest_live", "position_embedding", "reads_maps"]

FUSIONS = ("llf", "none", "concat", "mask", "nearest", "logits")
ON_FULL_GRID = ("llf", "mask")  # the last block runs on all patches again


class DenseViT(ReducedViT):
    """Images [B, 3, h, w] -> logits [B, C, h, w]. `fusion`: what a dropped patch predicts.

    - "llf": it comes back before the last block, as it was when it was dropped (last-layer fusion).
    - "none": nothing comes back. Its features are zeros where the decoder reads them (behind the final norm), so its
      logits are those of `head(fc_norm(0))`, for every dropped patch of every image the same.
    - "concat": it comes back behind the last block, as it was when it was dropped, and shares the decoder.
    - "mask": a learned token plus the position embedding comes in its place before the last block.
    - "nearest": it predicts what the nearest live patch does (on the grid, Euclidean; the first of several in order).
    - "logits": its logits were made when it was dropped, by a decoder of that depth (DToP, Tang et al.,
      arXiv 2308.01045); each starts as a copy of the model's own.

    None: "llf", or "unmerge" where reducers merge: each patch predicts what the token that owns it does. In masked
    training (`policy`) marked patches are treated the same way.

    Images whose sides the patch does not divide are padded with zeros at the bottom and on the right, and the logits
    cut. `img_size` as in `ReducedViT`; it is rounded up to whole patches.
    """

    dense = True

    def __init__(
        self,
        vit: nn.Module,
        reducers: Mapping[int, Reducer] | None = None,
        *,
        fusion: str | None = None,
        policy: str | None = None,
        img_size: int | tuple[int, int] | None = None,
    ):
        merging = [reducer for reducer in (reducers or {}).values() if reducer.merges]
        self.fusion = fusion or ("unmerge" if merging else "llf")
        if self.fusion not in (("unmerge",) if merging else (*FUSIONS, "unmerge")):
            valid = "unmerge, as its tokens merge" if merging else ", ".join(FUSIONS)
            raise ValueError(f"unknown fusion {fusion!r}; valid: {valid}")
        if self.fusion == "logits" and reads_maps(vit):
            others = ", ".join(name for name in FUSIONS if name != "logits")
            raise ValueError(
                f"rest=logits classifies patches where they leave, which a detector does not; valid: {others}"
            )
        size = None if img_size is None else padded(vit, img_size)
        super().__init__(vit, reducers, llf=self.fusion in ON_FULL_GRID, policy=policy, img_size=size)
        self.tracks = self.fusion in ("llf", "concat", "logits", "unmerge")
        decoder = nn.Sequential(vit.norm, vit.fc_norm, vit.head)
        exits = [*self.reducers] if self.fusion == "logits" else []
        self.exits = nn.ModuleDict({i: copy.deepcopy(decoder) for i in exits})
        self.mask_token = nn.Parameter(torch.zeros(vit.embed_dim)) if self.fusion == "mask" else None  # [D]
        if self.mask_token is not None:
            trunc_normal_(self.mask_token, std=0.02)

    def _check(self) -> None:
        for reducer in self.reducers.values():
            if not (reducer.reversible or reducer.merges):
                name = type(reducer).__name__
                raise ValueError(f"every pixel needs a patch to predict it, and {name} fuses them; use rest=llf")
        super()._check()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, h, w] -> logits [B, C, h, w]."""
        return self.upsample(self.patch_logits(self.forward_features(images)), images.shape[-2:])

    def forward_features(self, images: Tensor, track: bool = False) -> Tokens:
        """Images [B, 3, h, w] -> tokens behind the final norm, all L patches in grid order (fusion "logits": the live
        ones, and the logits of the others in `dropped`)."""
        patch_h, patch_w = self.vit.patch_embed.patch_size
        height, width = images.shape[-2:]
        if (-(-height // patch_h), -(-width // patch_w)) != self.grid_size:
            rows, columns = self.grid_size
            made_for = f"{rows * patch_h} x {columns * patch_w}"
            raise ValueError(f"images of {height} x {width} pixels; the model was made for {made_for}, see img_size=")
        images = F.pad(images, (0, -width % patch_w, 0, -height % patch_h))
        return super().forward_features(images, track)

    def forward_head(self, tokens: Tokens) -> Tensor:
        """Tokens behind the final norm -> logits of all pixels, those of the padding included."""
        (patch_h, patch_w), (rows, columns) = self.vit.patch_embed.patch_size, self.grid_size
        return self.upsample(self.patch_logits(tokens), (rows * patch_h, columns * patch_w))

    def upsample(self, logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """Logits of the patches [B, L, C] -> of the pixels of an image of `size` (h, w), [B, C, h, w]."""
        (patch_h, patch_w), (rows, columns) = self.vit.patch_embed.patch_size, self.grid_size
        # Contiguous: torch's kernel for the layout with channels last takes four times as long on a CPU (150 classes).
        maps = logits.transpose(1, 2).contiguous().unflatten(2, (rows, columns))
        if reads_maps(self.vit):
            return self.vit.head.read(maps)
        pixels = F.interpolate(maps, size=(rows * patch_h, columns * patch_w), mode="bilinear")
        return pixels[..., : size[0], : size[1]]

    def patch_logits(self, tokens: Tokens) -> Tensor:
        """Tokens behind the final norm -> logits [B, L, C] in grid order."""
        vit = self.vit
        logits = vit.head(vit.head_drop(vit.fc_norm(tokens.patches)))
        if self.fusion != "logits":
            return logits
        if tokens.policy is not None:
            return tokens.policy.to(logits.dtype).unsqueeze(-1) * logits + sum(gone for gone, _ in tokens.dropped)
        return replace(tokens, x=logits, num_prefix=0).restore().x

    def _run_block(self, i: int, block: nn.Module, tokens: Tokens, grid_rope: Tensor | None) -> Tokens:
        before, tokens = tokens, super()._run_block(i, block, tokens, grid_rope)
        if str(i) not in self.exits:
            return tokens
        decode = self.exits[str(i)]
        if tokens.policy is not None and before.policy is not None:
            gone = (before.policy - tokens.policy).to(tokens.x.dtype).unsqueeze(-1)
            return replace(tokens, dropped=(*tokens.dropped, (gone * decode(tokens.patches), tokens.positions())))
        if len(tokens.dropped) == len(before.dropped):
            return tokens
        *earlier, (x, position) = tokens.dropped
        return replace(tokens, dropped=(*earlier, (decode(x), position)))

    def _fuse(self, tokens: Tokens) -> Tokens:
        if self.mask_token is None:
            return super()._fuse(tokens)
        where = position_embedding(self.vit, self.grid_size)
        return tokens.fill(self.mask_token.expand(1, self.num_patches, -1) + (0 if where is None else where))

    def _finish(self, tokens: Tokens) -> Tokens:
        if self.fusion in ("concat", "unmerge"):
            tokens = replace(tokens.restore(), policy=None)
        if self.fusion == "nearest":
            found = take(tokens.patches, nearest_live(tokens, self.grid_size[1]))
            tokens = tokens.fill(found)
        tokens = super()._finish(tokens)
        nothing = tokens.x.new_zeros(1, self.num_patches, tokens.x.shape[-1])
        return tokens.fill(nothing) if self.fusion == "none" else tokens

    def _with(self, reducers: Mapping[int, Reducer]) -> DenseViT:
        model = DenseViT(self.vit, reducers, fusion=self.fusion, img_size=self.img_size)
        model.exits, model.mask_token = self.exits, self.mask_token
        return model


def reads_maps(vit: nn.Module) -> bool:
    """Its head reads maps of tokens, as a detector's does, and does not classify patches."""
    return hasattr(vit.head, "read")


def nearest_live(tokens: Tokens, columns: int) -> Tensor:
    """[B, L] row among the live patches of the one nearest to each position of a grid of `columns`; of several the
    first in grid order. Patches that a policy has marked do not count."""
    grid, live = torch.arange(tokens.grid, device=tokens.x.device), tokens.positions()
    across = grid[:, None] % columns - live[:, None] % columns  # [B, L, N]
    down = grid[:, None] // columns - live[:, None] // columns
    rank = (across.square() + down.square()) * tokens.grid + live[:, None]
    if tokens.policy is not None:
        rank = rank + (tokens.policy[:, None] < 0.5) * tokens.grid**3
    return rank.argmin(dim=2)


def position_embedding(vit: nn.Module, grid_size: tuple[int, int]) -> Tensor | None:
    """[1, L, D] what timm adds to the patches of a grid, None in a model without (RoPE alone)."""
    if vit.pos_embed is None:
        return None
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    whole = vit.pos_embed
    if tuple(vit.patch_embed.grid_size) != grid_size:
        old = tuple(vit.patch_embed.grid_size)
        whole = resample_abs_pos_embed(whole, new_size=grid_size, old_size=old, num_prefix_tokens=prefix)
    return whole[:, prefix:]


def padded(vit: nn.Module, img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width rounded up to whole patches."""
    height, width = img_size if isinstance(img_size, tuple) else (img_size, img_size)
    patch_h, patch_w = vit.patch_embed.patch_size
    return -(-height // patch_h) * patch_h, -(-width // patch_w) * patch_w
