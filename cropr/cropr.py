"""Token Cropr: cross-attention pruning with auxiliary heads that are gone after training.

Bergner, Lippert, Mahendran, "Token Cropr: Faster ViTs for Quite a Few Tasks", arXiv 2412.00965 (release: MIT). Written
from the paper and a description of the release. What differs: queries, heads and projections fold into one vector of
scores also while training; with several queries the auxiliary loss is the mean of theirs (the release has none); where
a model pools by average, the release averages over its prefix tokens as well, and here what the backbone does is done
(`run --pool avg+prefix`).

Letters: B images, P prefix tokens, N live patches, T = P + N, L patches of the full grid, D width, M queries, H heads,
E = D / H, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.method import Training, option
from cropr.method.objective import Counts, Criterion, Labelled, Objective, Term, Terms
from cropr.reducer import Dropper, Reducer
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import linear
from cropr.tokens.random_bits import uniform
from cropr.tokens.rest import softmax_of_dropped

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = ["Cropr", "CroprModule", "CroprObjective", "LinearScore"]

SELECTIONS = ("top", "lowest", "sample")
AUXILIARY = ("dense", "presence", "grid")
CELLS = 16  # queries of aux=grid


class LinearScore(Dropper):
    """Scores that are linear in the tokens: score = x . weight, behind an optional LayerNorm. Cropr at inference."""

    def __init__(
        self, keep: int, embed_dim: int, norm_eps: float | None = None, select: str = "top", rest: str = "drop"
    ):
        super().__init__(keep, rest)
        check_selection(select)
        self.embed_dim, self.norm_eps, self.select = embed_dim, norm_eps, select
        self.register_buffer("weight", torch.zeros(embed_dim))  # [D]
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(embed_dim, norm_eps)

    @property
    def seeded(self) -> bool:
        return self.select == "sample"

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return (num_live + num_prefix) * embed_dim

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        return linear_score(tokens, self.weight, self.norm, self.select)

    def fusion_weight(self, scores: Tensor, kept: Tensor) -> Tensor:
        return softmax_of_dropped(scores * self.embed_dim**-0.5, kept)  # scaled, as the aggregator does


def check_selection(select: str) -> None:
    """Raise ValueError for one that there is not."""
    if select not in SELECTIONS:
        raise ValueError(f"unknown selection {select!r}; valid: {', '.join(SELECTIONS)}")


def linear_score(tokens: Tokens, weight: Tensor, norm: nn.Module, how: str) -> Tensor:
    """[B, N] what `select` makes of x . weight, `weight` [D], for each patch."""
    # All tokens, then the patches: a slice of x would be copied, a slice of the scores is not.
    scores = linear(norm(tokens.x), weight[None]).squeeze(-1)[:, tokens.num_prefix :]
    return select(scores, how, tokens, tokens.x.shape[-1])


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
        rest: str = "drop",
    ):
        super().__init__(keep, rest)
        from timm.layers import Mlp, trunc_normal_  # not above: methods are listed without the seconds that timm takes

        if embed_dim % heads:
            raise ValueError(f"{heads} heads do not divide the width {embed_dim}")
        if select not in SELECTIONS:
            raise ValueError(f"unknown selection {select!r}; valid: {', '.join(SELECTIONS)}")

        def projection(wanted: bool) -> nn.Module:
            return nn.Linear(embed_dim, embed_dim, bias=False) if wanted else nn.Identity()

        self.num_heads, self.detach, self.select = heads, detach, select
        self.queries = nn.Parameter(torch.empty(1, queries, embed_dim))
        if not self.queries.is_meta:  # where counts alone are wanted
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
        eps = self.pre_attn_norm.eps if isinstance(self.pre_attn_norm, nn.LayerNorm) else None
        folded = LinearScore(self.keep, self.queries.shape[-1], eps, self.select, self.rest)
        folded.weight, folded.norm = self.folded_weight().detach().clone(), self.pre_attn_norm
        return folded

    @property
    def seeded(self) -> bool:
        return self.select == "sample"

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return (num_live + num_prefix) * embed_dim

    @torch.no_grad()
    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        return linear_score(tokens, self.folded_weight(), self.pre_attn_norm, self.select)

    def fusion_weight(self, scores: Tensor, kept: Tensor) -> Tensor:
        return self.fold().fusion_weight(scores, kept)

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


@dataclass(frozen=True, kw_only=True)
class Cropr(OnCroprSchedule):
    """Cross-attention pruning with auxiliary heads that are gone after training."""

    name = "cropr"
    label = "Cropr"
    paper = "arXiv 2412.00965"
    licence = "MIT"
    version = 2
    standard = True
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"lr": (0.5, 1.0), "backbone_lr": (1.0, 4.0)}
    learns = "queries, aggregators and auxiliary heads, from the auxiliary loss alone"
    reducer = CroprModule

    aux: str | None = option(
        None, "what the queries of dense tasks are asked for: dense, the class of each patch; presence, which classes "
        "are in the image (one query); grid, which are in each cell of a coarse grid",
        choices=AUXILIARY, unset="the class of the image; dense tasks: dense, in detection presence",
    )  # fmt: skip
    queries: int | None = option(
        None, "learned queries of each module", low=1, high=2**16,
        unset="1; dense tasks: as aux= says, one for each patch, 1 or 16",
    )  # fmt: skip
    heads: int = option(1, "heads of the cross-attention", low=1)
    q_proj: bool = option(False, "project the queries")
    k_proj: bool = option(False, "project the keys")
    v_proj: bool = option(False, "project the values")
    pre_norm: bool = option(False, "LayerNorm in front of the module")
    mlp: bool = option(True, "MLP behind the aggregator, in training")
    mlp_ratio: float = option(4.0, "width of that MLP, in widths of the model", above=0)
    detach: bool = option(True, "the auxiliary loss does not reach the backbone")
    select: str = option("top", "which patches stay: of the highest scores, the lowest, or drawn", choices=SELECTIONS)
    weight: float = option(1.0, "of each auxiliary loss", low=0)

    def check(self) -> None:
        super().check()
        if not self.dense and self.aux is not None:
            raise ValueError(f"aux={self.aux} of {self.name} is for dense tasks; classification asks for the class")
        if self.aux == "presence" and self.queries not in (None, 1):
            raise ValueError(f"aux=presence of {self.name} has one query, not {self.queries}; see aux=grid")
        if self.aux == "grid" and math.isqrt(queries := self.queries or CELLS) ** 2 != queries:
            raise ValueError(
                f"aux=grid of {self.name} has as many queries down as across: 4, 9, 16, ..., not {queries}"
            )

    @property
    def cells(self) -> tuple[int, int] | None:
        """Rows and columns of the grid whose cells are asked for; None where patches are."""
        side = {"presence": 1, "grid": math.isqrt(self.queries or CELLS)}.get(str(self.aux))
        return None if side is None else (side, side)

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        labels = vit.num_classes if self.cells else getattr(vit.head, "num_labels", vit.num_classes)
        queries = math.prod(self.cells) if self.cells else self.queries or 1
        return CroprModule(
            keep, vit.embed_dim, labels, queries,
            self.heads, self.q_proj, self.k_proj, self.v_proj,
            self.pre_norm, self.mlp, self.mlp_ratio, self.detach, self.select, self.at_reducer,
        )  # fmt: skip

    def asking(self, vit: nn.Module) -> Cropr:
        """Itself with the auxiliary task of the paper where none is given."""
        from cropr.dense import reads_maps

        return replace(self, aux=self.aux or ("presence" if reads_maps(vit) else "dense")) if self.dense else self

    def place(self, vit: nn.Module, num_patches: int) -> Mapping[int, Reducer]:
        method = self.asking(vit)
        if method.aux == "dense":
            if self.queries not in (None, num_patches):
                raise ValueError(f"a dense task has one query for each patch ({num_patches}), not {self.queries}")
            method = replace(method, queries=num_patches)
        return super(Cropr, method).place(vit, num_patches)

    def objective(self, training: Training) -> Objective:
        from cropr.method.dense_objective import CroprDenseObjective

        if self.dense:
            cells = self.asking(training.model.vit).cells
            return CroprDenseObjective(training.criterion, self.weight, self.ramp(training), cells)
        return CroprObjective(training.criterion, self.weight)

    def training_cost(self, budget: float | None) -> float:
        return (budget or 1.0) + 0.3
