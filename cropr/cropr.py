"""Token Cropr: cross-attention pruning with auxiliary heads that are gone after training.

Bergner, Lippert, Mahendran, "Token Cropr: Faster ViTs for Quite a Few Tasks", arXiv 2412.00965 (release: MIT). Written
from the paper and a description of the release. What differs: queries, heads and projections fold into one vector of
scores also while training; with several queries the auxiliary loss is the mean of theirs (the release has none).

Letters: B images, P prefix tokens, N live patches, T = P + N, L patches of the full grid, D width, M queries, H heads,
E = D / H, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, trunc_normal_
from torch import Tensor, nn

from cropr.objective import Counts, Criterion, Labelled, Objective, Term, Terms
from cropr.random_bits import uniform
from cropr.reducer import Dropper
from cropr.schedule import Scale, constant, geometric
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT

__all__ = ["CroprModule", "CroprObjective", "LinearScore", "module_keeps", "place", "scales"]

SELECTIONS = ("top", "lowest", "sample")


def module_keeps(
    vit: nn.Module,
    num_patches: int,
    *,
    rate: float | None = None,
    ratio: float | None = None,
    llf: bool = False,
    first_extra: int | None = None,
) -> dict[int, int]:
    """Patches kept behind each block that has a module: blocks 0 ... depth - 2, or depth - 3 with last-layer fusion.

    `rate` patches go at each module, and one more at the first where there is exactly one prefix token, so that totals
    stay multiples of 4 or 8 (`first_extra` overrides); or `ratio` of them stay. Rate 0 means no module at all.
    """
    modules = len(vit.blocks) - (2 if llf else 1)
    if (rate is None) == (ratio is None):
        raise ValueError("give either rate (patches removed by each module) or ratio (share that each module keeps)")
    if rate == 0 or modules < 1:
        return {}
    extra = int(vit.num_prefix_tokens == 1) if first_extra is None else first_extra
    if rate is not None:
        return dict(enumerate(constant(num_patches, rate, modules, extra)))
    assert ratio is not None
    return dict(enumerate(geometric(num_patches, ratio, modules)))


class LinearScore(Dropper):
    """Scores that are linear in the tokens: score = x . weight, behind an optional LayerNorm. Cropr at inference."""

    def __init__(self, keep: int, weight: Tensor, norm: nn.Module | None = None, select: str = "top"):
        super().__init__(keep)
        if select not in SELECTIONS:
            raise ValueError(f"unknown selection {select!r}; valid: {', '.join(SELECTIONS)}")
        self.register_buffer("weight", weight.detach().clone())  # [D]
        self.norm = norm if norm is not None else nn.Identity()
        self.select = select

    @property
    def seeded(self) -> bool:
        return self.select == "sample"

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return 0 if self.keep >= num_live else (num_live + num_prefix) * embed_dim

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        # All tokens, then the patches: a slice of x would be copied, a slice of the scores is not.
        scores = F.linear(self.norm(tokens.x), self.weight[None]).squeeze(-1)[:, tokens.num_prefix :]
        return select(scores, self.select, tokens, tokens.x.shape[-1])


def select(scores: Tensor, how: str, tokens: Tokens, width: int) -> Tensor:
    """Raw `scores` [B, N] turned so that the highest are to stay. "sample" draws without replacement, in proportion to
    the softmax of the scaled scores (Gumbel noise, a function of the image and the grid position)."""
    if how == "sample":
        assert tokens.seed is not None
        noise = -(-uniform(tokens.seed, tokens.positions(), tokens.num_live).log()).log()
        return scores * width**-0.5 + noise
    return -scores if how == "lowest" else scores


class CroprModule(Dropper):
    """Router, aggregator and auxiliary head behind one block.

    The router scores each token by its unscaled dot product with the queries, summed over heads and queries. While
    training, the aggregator attends to all tokens (class token too) and the head classifies what it found. All of it
    reads the tokens detached (`detach=False` is an ablation), so the backbone learns from the main loss only.
    """

    def __init__(
        self,
        keep: int,
        embed_dim: int,
        num_classes: int,
        queries: int = 1,
        heads: int = 1,
        q_proj: bool = False,
        k_proj: bool = False,
        v_proj: bool = False,
        pre_norm: bool = False,
        mlp: bool = True,
        mlp_ratio: float = 4.0,
        detach: bool = True,
        select: str = "top",
    ):
        super().__init__(keep)
        if embed_dim % heads:
            raise ValueError(f"{heads} heads do not divide the width {embed_dim}")
        if select not in SELECTIONS:
            raise ValueError(f"unknown selection {select!r}; valid: {', '.join(SELECTIONS)}")

        def projection(wanted: bool) -> nn.Module:
            return nn.Linear(embed_dim, embed_dim, bias=False) if wanted else nn.Identity()

        self.num_heads, self.detach, self.select = heads, detach, select
        self.queries = nn.Parameter(torch.empty(1, queries, embed_dim))
        trunc_normal_(self.queries, std=embed_dim**-0.5)
        self.pre_attn_norm = nn.LayerNorm(embed_dim, eps=1e-6) if pre_norm else nn.Identity()
        self.q_proj, self.k_proj, self.v_proj = projection(q_proj), projection(k_proj), projection(v_proj)
        self.out_proj = nn.Linear(embed_dim, embed_dim) if heads > 1 else nn.Identity()
        self.mlp_norm = nn.LayerNorm(embed_dim, eps=1e-6) if mlp else nn.Identity()
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio)) if mlp else None
        self.aux_head = nn.Sequential()
        self.aux_head.add_module("norm", nn.LayerNorm(embed_dim, eps=1e-5))
        self.aux_head.add_module("linear", nn.Linear(embed_dim, num_classes))

    def folded_weight(self) -> Tensor:
        """[D] all queries and heads and the projections of queries and keys in one vector: raw scores are linear."""
        q = self.q_proj(self.queries).sum(dim=(0, 1))
        return q if isinstance(self.k_proj, nn.Identity) else q @ self.k_proj.weight

    def fold(self) -> LinearScore:
        norm = None if isinstance(self.pre_attn_norm, nn.Identity) else self.pre_attn_norm
        return LinearScore(self.keep, self.folded_weight(), norm, self.select)

    @property
    def seeded(self) -> bool:
        return self.select == "sample"

    def macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return 0 if self.keep >= num_live else (num_live + num_prefix) * embed_dim

    @torch.no_grad()
    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        return self.fold().score(tokens)

    def predict(self, x: Tensor) -> Tensor:
        """Auxiliary logits [B, M, C] out of all tokens `x` [B, T, D]."""
        x = self.pre_attn_norm(x.detach() if self.detach else x)
        q = self.q_proj(self.queries).expand(x.shape[0], -1, -1)
        q, k, v = (self._heads(part) for part in (q, self.k_proj(x), self.v_proj(x)))
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found = self.out_proj(found)
        found = found if self.mlp is None else found + self.mlp(self.mlp_norm(found))
        return self.aux_head(found)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if self.training:
            tokens = replace(tokens, aux=(*tokens.aux, self.predict(tokens.x)))
        return super().forward(tokens)


class CroprObjective(Objective):
    """Main loss plus `weight` times the loss of every auxiliary head. In classification each query is asked for the
    class of the image; M queries count 1 / M each."""

    name = "CE + sum of auxiliary CE"

    def __init__(self, criterion: Criterion, weight: float = 1.0):
        super().__init__(criterion)
        self.weight = weight

    def __call__(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        tokens = model.forward_features(batch.images)
        terms = {"main": Term(self.criterion(model.forward_head(tokens), batch.target), "label")}
        for i, logits in enumerate(tokens.aux):
            losses = [self.criterion(query, batch.target) for query in logits.unbind(1)]
            terms[f"aux_{i}"] = Term(sum(losses[1:], start=losses[0]) / len(losses), "label", self.weight)
        return terms, self.counts(model, batch)


def place(
    vit: nn.Module,
    num_patches: int,
    *,
    rate: float | None = None,
    ratio: float | None = None,
    llf: bool = False,
    first_extra: int | None = None,
    **options: Any,
) -> dict[int, CroprModule]:
    """A module behind each block that `module_keeps` names; `options` are those of `CroprModule`."""
    keeps = module_keeps(vit, num_patches, rate=rate, ratio=ratio, llf=llf, first_extra=first_extra)
    return {i: CroprModule(keep, vit.embed_dim, vit.num_classes, **options) for i, keep in keeps.items()}


def scales(vit: nn.Module, num_patches: int, *, llf: bool = False, first_extra: int | None = None) -> list[Scale]:
    """A constant rate up to the largest whole one, and below the floor that it sets a geometric schedule. (A fraction
    more would still fit, and would leave the last blocks next to nothing.)"""
    modules = len(vit.blocks) - (2 if llf else 1)
    extra = int(vit.num_prefix_tokens == 1) if first_extra is None else first_extra
    most = float((num_patches - extra - 1) // modules)
    return [Scale("constant", "rate", most, 0.0), Scale("geometric", "ratio", 1 / num_patches, 1.0)]
