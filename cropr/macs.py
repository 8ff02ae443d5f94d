"""Multiply-accumulates (MACs) of a reduced model in closed form, per image.

A block costs 4 Ta D^2 + 2 Ta^2 D + 2 r Tm D^2 with Ta tokens in attention, Tm in the MLP and MLP ratio r; widths are
read off the modules, so that gates, grouped keys and SwiGLU count as they are. Where attention runs within windows, Ta
is all tokens in them, padding and copies of prefix tokens included, and 2 Ta^2 D a sum over windows. Matrix products,
convolutions and attention count; norms, softmax, activations and resampling do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from cropr.reducer import Reducer, token_counts
from cropr.vit import ReducedViT
from cropr.windows import global_blocks, windows_of

__all__ = ["Macs", "count", "dense_macs", "planned_macs"]


@dataclass(frozen=True)
class Macs:
    """MACs per image: the blocks, embedding and head of the backbone; scoring or matching, and the decoder of a dense
    model, which stands in the place of the head, apart. `linear`: what of backbone and decoder linear layers and the
    patch embedding take, without the products of queries, keys and values; some papers count nothing else."""

    backbone: int
    scoring: int
    linear: int
    decoder: int = 0

    @property
    def total(self) -> int:
        return self.backbone + self.scoring + self.decoder

    def record(self, dense: int) -> dict[str, float]:
        """In units of 1e9, beside the `dense` model's. A decoder is named only where there is one."""
        parts = {"total": self.total, "backbone": self.backbone, "scoring": self.scoring, "dense": dense}
        parts |= {"linear": self.linear} | ({"decoder": self.decoder} if self.decoder else {})
        return {name: macs / 1e9 for name, macs in parts.items()}


def count(model: ReducedViT) -> Macs:
    """MACs of one image through `model` as it is deployed."""
    reducers = {int(i): reducer for i, reducer in model.reducers.items()}
    return planned_macs(model.vit, reducers, model.grid_size, llf=model.llf, decoder=model.dense)


def dense_macs(vit: nn.Module, grid_size: tuple[int, int] | None = None, *, decoder: bool = False) -> int:
    """MACs of one image through the plain model. `grid_size`: rows and columns of patches, None: the model's own.
    `decoder`: with the head on every patch."""
    return planned_macs(vit, {}, grid_size or vit.patch_embed.grid_size, decoder=decoder).total


def planned_macs(
    vit: nn.Module,
    reducers: Mapping[int, Reducer],
    grid_size: tuple[int, int],
    *,
    llf: bool = False,
    decoder: bool = False,
) -> Macs:
    """MACs of one image if `vit` had these `reducers`, without making the model. `llf`: the last block runs on all
    patches. `decoder`: each patch is classified, by the head or by one of the same size where it was dropped."""
    prefix, scoring, num_patches = vit.num_prefix_tokens, 0, grid_size[0] * grid_size[1]
    windows, everywhere, full = windows_of(vit), global_blocks(vit), True
    counts = token_counts(reducers, len(vit.blocks), num_patches, prefix, llf=llf)
    linear, products = num_patches * vit.patch_embed.proj.weight.numel(), 0
    for i, (block, (attended, in_mlp, _)) in enumerate(zip(vit.blocks, counts, strict=True)):
        num, each = 1, attended
        if windows is not None and full and i not in everywhere:
            layout = windows.layout(grid_size)
            num, each = layout.num_windows, prefix + layout.num_cells
        linear += num * each * linear_weights(block.attn) + in_mlp * linear_weights(block.mlp)
        products += num * 2 * each**2 * attention_width(block.attn)
        if i in reducers:
            full = full and reducers[i].idle(attended - prefix, prefix)
            scoring += reducers[i].macs(attended - prefix, prefix, vit.embed_dim)
    if decoder:
        own = getattr(vit.head, "macs", None)  # of a head that is no layer of every patch
        decoding = num_patches * linear_weights(vit.head) if own is None else own(num_patches)
        return Macs(linear + products, scoring, linear + decoding, decoding)
    head_linear, head_products = head_macs(vit, counts[-1][2])
    linear, products = linear + head_linear, products + head_products
    return Macs(linear + products, scoring, linear)


def head_macs(vit: nn.Module, num_tokens: int) -> tuple[int, int]:
    """Pooling and classifier; `num_tokens` reach it. Linear layers, and the products of attention pooling."""
    linear, products = linear_weights(vit.head) + linear_weights(getattr(vit, "head_dist", None)), 0
    pool = vit.attn_pool
    if pool is not None:
        seen = num_tokens if getattr(vit, "pool_include_prefix", True) else num_tokens - vit.num_prefix_tokens
        products = seen * pool.latent_len * pool.kv.out_features
        linear += seen * pool.kv.weight.numel()
        linear += pool.latent_len * sum(linear_weights(part) for part in (pool.q, pool.proj, pool.mlp))
    return linear, products


def linear_weights(module: nn.Module | None) -> int:
    """Weights of every linear layer below `module`: MACs per token."""
    parts = module.modules() if module is not None else ()
    return sum(part.weight.numel() for part in parts if isinstance(part, nn.Linear))


def attention_width(attn: nn.Module) -> int:
    """Width of q, all heads together."""
    return attn.num_heads * attn.head_dim
