"""DynamicViT: predictors learn which tokens to keep, under a mask, with a teacher; at inference the best ones stay.

Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", arXiv 2106.02034
(release: MIT). Written from the paper and a description of the release. What differs: any number of patches and of
prefix tokens; patches are ranked by the margin of the two logits, which has the order of the release's log-probability
and goes on where that has rounded to 0.

Letters: B images, P prefix tokens, N live patches, L patches of the full grid, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.dropping import Dropping
from cropr.method import Training, option, renamed
from cropr.method.objective import Counts, Criterion, Labelled, Objective, Term, Terms
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import linear
from cropr.tokens.rest import squeeze_masked

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = [
    "DynamicViT", "DynamicViTMethod", "DynamicViTObjective", "Predictor", "distillation_loss", "ratio_loss",
]  # fmt: skip


class Predictor(nn.Module):
    """Patches [B, N, D] and a policy [B, N] -> log-probabilities [B, N, 2] to keep (0) and to drop (1) each."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.in_norm = nn.LayerNorm(embed_dim, eps=1e-5)
        self.in_linear = nn.Linear(embed_dim, embed_dim)
        self.out_linear1 = nn.Linear(embed_dim, embed_dim // 2)
        self.out_linear2 = nn.Linear(embed_dim // 2, embed_dim // 4)
        self.out_linear3 = nn.Linear(embed_dim // 4, 2)

    def forward(self, x: Tensor, policy: Tensor) -> Tensor:
        return F.log_softmax(self.logits(x, policy), dim=-1)

    def logits(self, x: Tensor, policy: Tensor) -> Tensor:
        local, shared = F.gelu(self.in_linear(self.in_norm(x))).chunk(2, dim=-1)
        weight = policy.to(x.dtype).unsqueeze(-1)
        # An image may have lost all its patches in training: its mean is 0 then, not 0 / 0.
        mean = (shared * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
        x = torch.cat([local, mean.expand_as(shared)], dim=-1)
        x = F.gelu(self.out_linear2(F.gelu(self.out_linear1(x))))
        return linear(x, self.out_linear3.weight, self.out_linear3.bias)


class DynamicViT(Dropper):
    """A predictor in front of a block. With a policy in `tokens` (training) it marks the tokens to drop; without one
    (inference) the `keep` most probable ones stay."""

    def __init__(self, keep: int, embed_dim: int, rest: str = "drop"):
        super().__init__(keep, rest)
        self.embed_dim = embed_dim
        self.predictor = Predictor(embed_dim)

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return num_live * sum(p.weight.numel() for p in self.predictor.children() if isinstance(p, nn.Linear))

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        logits = self.predictor.logits(tokens.patches, tokens.patches.new_ones(tokens.patches.shape[:2]))
        return logits[..., 0] - logits[..., 1]  # the order of the probabilities, which saturate at 1 and 0

    def decide(self, log_prob: Tensor) -> Tensor:
        """[B, N] 1 keep, 0 drop: drawn with a straight-through gradient while training, the likelier one otherwise."""
        if self.training:
            return F.gumbel_softmax(log_prob, tau=1.0, hard=True)[..., 0]
        return (log_prob[..., 0] > log_prob[..., 1]).float()

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        if tokens.policy is None:
            return super().forward(tokens, attended)
        keep = self.decide(self.predictor(tokens.patches, tokens.policy).float()) * tokens.policy
        if self.rest == "squeeze":
            patches = squeeze_masked(tokens.patches, tokens.policy, keep)
            tokens = replace(tokens, x=torch.cat([tokens.x[:, : tokens.num_prefix], patches], dim=1))
        return replace(tokens, policy=keep, aux=(*tokens.aux, keep))


def ratio_loss(decisions: list[Tensor], ratios: list[float], batch_mean: bool = False) -> Tensor:
    """Squared distance of the share kept from its target, summed over the stages and over the images. `batch_mean`: of
    the batch's mean share, counted once for each image."""
    shares = [keep.mean(dim=1) for keep in decisions]
    shares = [share.mean().expand(len(share)) for share in shares] if batch_mean else shares
    terms = [((share - ratio) ** 2).sum() for share, ratio in zip(shares, ratios, strict=True)]
    return sum(terms[1:], start=terms[0])


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student's classes [B, C] from the teacher's, a sum over the batch."""
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)


def kept_tokens(keep: Tensor) -> Tensor:
    """[] how many of `keep` [B, N] are 1."""
    return (keep.detach() > 0.5).sum()


def token_loss(student: Tensor, teacher: Tensor, keep: Tensor, kind: str = "mse") -> Tensor:
    """Distance of normed patches [B, N, D] from the teacher's, summed over the tokens with `keep` [B, N] of 1. "mse",
    or "kl" between softmaxes over the width."""
    if kind == "mse":
        distance = (student - teacher).square().mean(dim=-1)
    else:
        ours, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
        distance = (theirs.exp() * (theirs - ours)).sum(dim=-1)
    return (distance.float() * (keep.detach() > 0.5)).sum()


class DynamicViTObjective(Objective):
    """CE + ratio_weight / 3 * ratio loss + distill_weight * (KL to the teacher + distance of kept tokens).

    `teacher`: the same pretrained model, a `ReducedViT` without reducers; it is frozen here.
    """

    name = "CE + ratio + KL and token distillation"

    def __init__(
        self,
        criterion: Criterion,
        teacher: nn.Module,
        ratios: list[float],
        ratio_weight: float = 2.0,
        distill_weight: float = 0.5,
        ce_weight: float = 1.0,
        token: str = "mse",
        batch_mean: bool = False,
    ):
        super().__init__(criterion)
        self.teacher = teacher.eval().requires_grad_(False)
        self.ratios, self.token, self.batch_mean = ratios, token, batch_mean
        self.separable = not batch_mean  # the square of a mean over the batch is no sum over its images
        self.ratio_weight, self.distill_weight, self.ce_weight = ratio_weight, distill_weight, ce_weight

    def __call__(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        with torch.no_grad():
            theirs = self.teacher.forward_features(batch.images)
            teacher = self.teacher.forward_head(theirs), theirs.patches
        tokens = model.forward_features(batch.images)
        decisions = list(tokens.aux)
        terms = self.combine(model.forward_head(tokens), tokens.patches, decisions, batch.target, *teacher)
        return terms, self.count(decisions[-1], batch.target)

    def counts(self, model: ReducedViT, batch: Labelled) -> Counts:
        """A pass through the model: which tokens stay is its decision (with the same random numbers, the same one)."""
        with torch.no_grad():
            return self.count(model.forward_features(batch.images).aux[-1], batch.target)

    def count(self, keep: Tensor, target: Tensor) -> Counts:
        """Labels, images, and tokens that are finally kept, `keep` [B, N]."""
        images = torch.full((), len(keep), device=keep.device)
        return {"label": self.criterion.count(target), "image": images, "kept": kept_tokens(keep)}

    def combine(
        self,
        logits: Tensor,
        patches: Tensor,
        decisions: list[Tensor],
        target: Tensor,
        teacher_logits: Tensor,
        teacher_patches: Tensor,
    ) -> Terms:
        """The loss out of what student and teacher returned."""
        classes = Term(self.criterion(logits, target), "label", self.ce_weight)
        return {"ce": classes, **self.distil(logits, patches, decisions, teacher_logits, teacher_patches)}

    def distil(
        self, logits: Tensor, patches: Tensor, decisions: list[Tensor], teacher_logits: Tensor, teacher_patches: Tensor
    ) -> Terms:
        """What does not need labels."""
        ratio = ratio_loss(decisions, self.ratios, self.batch_mean)
        token = token_loss(patches, teacher_patches, decisions[-1], self.token)
        return {
            "ratio": Term(ratio, "image", self.ratio_weight / len(self.ratios)),
            "kl": Term(distillation_loss(logits, teacher_logits), "image", self.distill_weight),
            "token": Term(token, "kept", self.distill_weight),
        }


class DynamicViTDenseObjective(DynamicViTObjective):
    """The same for dense prediction (the paper has none): CE of the labelled pixels, KL of the classes of every patch
    (not for a detector, whose patches have none), and the distance of kept tokens.

    `teacher`: a `DenseViT` without reducers.
    """

    name = "CE + ratio + KL of classified patches and token distillation"

    def __call__(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        from cropr.dense import DenseViT, reads_maps

        assert isinstance(model, DenseViT) and isinstance(self.teacher, DenseViT)
        with torch.no_grad():
            theirs = self.teacher.forward_features(batch.images)
            teacher_logits = self.teacher.patch_logits(theirs)
        tokens = model.forward_features(batch.images)
        logits, decisions = model.patch_logits(tokens), list(tokens.aux)
        pixels = model.upsample(logits, batch.images.shape[-2:])
        distil = self.distil(
            logits.flatten(0, 1), tokens.patches, decisions, teacher_logits.flatten(0, 1), theirs.patches
        )
        terms = {"ce": Term(self.criterion(pixels, batch.target), "label", self.ce_weight), **distil}
        kl = terms.pop("kl")
        if not reads_maps(model.vit):
            terms["kl"] = kl._replace(weight=self.distill_weight / model.num_patches)  # a mean over patches too
        return terms, self.count(decisions[-1], batch.target)


@dataclass(frozen=True, kw_only=True)
class DynamicViTMethod(Dropping):
    """Learned predictors choose the patches that stay, trained under a mask with a teacher."""

    name = "dynamicvit"
    label = "DynamicViT"
    paper = "arXiv 2106.02034"
    licence = "MIT"
    version = 3
    standard = True
    learns = "predictors, from the ratio loss, the distillation and the task's own loss"
    fused_attention = False
    reducer = DynamicViT
    schedules = ("staged",)
    in_front = True
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"lr": (0.5, 1.0), "backbone_lr": (1.0, 10.0)}

    ratio_weight: float = option(2.0, "of the loss that holds the share of kept tokens", low=0)
    distill_weight: float = option(0.5, "of both distillation losses", low=0)
    token: str = option("mse", "distance of kept tokens from the teacher's", choices=("mse", "kl"))
    batch_mean: bool = option(False, "hold the share over the batch instead of in each image")
    attention: str = option(
        "exact", "under the mask in training: exact, or sdpa (approximate, fused)", choices=("exact", "sdpa")
    )

    @classmethod
    def respell(cls, given: Mapping[str, str], dense: bool) -> Mapping[str, str]:
        """`policy=` was the older name of `attention=`; `eval_mode=` asked for a score that every record has now."""
        new = renamed(cls.name, given, policy="attention")
        if (mode := new.pop("eval_mode", "topk")) not in ("topk", "masked"):
            raise ValueError(f"{cls.name}: option eval_mode cannot be {mode!r}; valid: topk, masked")
        return super().respell(new, dense)

    def check(self) -> None:
        super().check()
        if self.rest == "fuse":
            raise ValueError(
                f"rest=fuse of {self.name}: its training marks tokens and removes none: there is no place for a fused "
                "one; valid here: drop, squeeze, llf"
            )

    def own(self, epochs: int) -> tuple[Self, dict[str, Any]]:
        """The backbone learns at a hundredth of the rate, and not at all in the first 5 of 30 epochs."""
        return self, {"backbone_lr": 0.01, "freeze_backbone_epochs": epochs * 5 / 30}

    @property
    def policy(self) -> str:
        return self.attention

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        return DynamicViT(keep, vit.embed_dim, self.at_reducer)

    def objective(self, training: Training) -> Objective:
        if training.teacher is None:
            raise ValueError(f"{self.name} is trained with a teacher")
        model, teacher = training.model, training.teacher()
        if self.kind == "staged":
            assert self.ratio is not None
            ratios = [self.ratio ** (stage + 1) for stage in range(len(model.reducers))]
        else:
            ratios = [reducer.keep / model.num_patches for reducer in model.reducers.values()]
        from cropr.dense import DenseViT
        from cropr.vit import ReducedViT

        kind, plain = (DynamicViTDenseObjective, DenseViT) if self.dense else (DynamicViTObjective, ReducedViT)
        teacher = plain(teacher, img_size=model.img_size)
        return kind(
            training.criterion, teacher, ratios, self.ratio_weight, self.distill_weight, token=self.token,
            batch_mean=self.batch_mean,
        )  # fmt: skip

    def training_cost(self, budget: float | None) -> float:
        return 2.0  # all tokens under a mask, and a teacher
