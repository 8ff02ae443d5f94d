"""ATS: patches are sampled by the attention that the class token pays them and the norm of their values.

Fayyaz et al., "Adaptive Token Sampling For Efficient Vision Transformers", arXiv 2111.15667 (release: Apache-2.0).
Written from a description in words. What differs: the number of patches is fixed, so that a batch, a budget, an export
and a compiled graph have one shape; the adaptive number of the paper, as many as the samples happen to hit, is not
supported. Ours are therefore: as many samples as patches stay; a sample that hits a patch which is taken moves on to
the next higher score that is free (at the top: to the next lower one); a single sample is the end of the distribution;
and the schedule, which is Cropr's. Fused, those that leave count by their significance.

Letters: B images, P prefix tokens, N live patches, T = P + N, K kept ones, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import wide_type

__all__ = ["AdaptiveTokenSampling", "SampledScore", "sample"]


def sample(share: Tensor, num: int) -> Tensor:
    """`num` different places [B, num] in ascending `share` [B, N], which sums to 1: for each of `num` points, evenly
    spaced from the smallest cumulative share above 0 to 1, the place of the nearest cumulative share, or else one free.
    """
    cumulative = share.cumsum(dim=1)
    cumulative = cumulative / cumulative[:, -1:].clamp(min=torch.finfo(share.dtype).tiny)
    start = cumulative.where(cumulative > 0, 1.0).amin(dim=1, keepdim=True)
    step = torch.arange(num, device=share.device)
    points = start + (1 - start) * (step.to(share.dtype) / (num - 1) if num > 1 else 1.0)
    above = (cumulative.unsqueeze(1) < points.unsqueeze(2)).sum(dim=2)  # the first that is no smaller
    above = above.clamp(max=share.shape[1] - 1)
    below = (above - 1).clamp(min=0)
    lower_is_nearer = points - cumulative.gather(1, below) < cumulative.gather(1, above) - points
    nearest = below.where(lower_is_nearer, above)
    # A running maximum of (place - sample) leaves each sample at least one place behind the last one. Neither it nor
    # searchsorted is in ONNX.
    ahead = (nearest - step).unsqueeze(1).masked_fill(step > step.unsqueeze(1), -share.shape[1]).amax(dim=2)
    return (ahead + step).minimum(step + share.shape[1] - num)


class SampledScore(Dropper):
    """Scores [B, N]: the significance of each patch, and 1 more for those that are sampled (not at random: the points
    are evenly spaced). The significance is the attention that the class token pays the patch, summed over heads, times
    the norm of its value over all heads, as a share of the sum over patches. `attn_dim`: H E.
    """

    inside = True
    taps = ("q", "k", "v")
    class_token = True

    def __init__(self, keep: int, rest: str = "drop", attn_dim: int = 0):
        super().__init__(keep, rest)
        self.attn_dim = attn_dim

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return (num_live + num_prefix) * self.attn_dim

    def significance(self, tokens: Tokens, attended: Attended) -> Tensor:
        """[B, N], which sums to 1."""
        assert attended.v is not None
        attention = attended.prefix_attention(1).sum(dim=1)[:, 0]  # [B, T]
        norm = torch.linalg.vector_norm(attended.v, dim=(1, 3), dtype=wide_type(attended.v))  # [B, T]
        found = (attention * norm)[:, tokens.num_prefix :]
        return found / found.sum(dim=1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert attended is not None
        share = self.significance(tokens, attended)
        ascending = tokens.rank(share, tokens.num_live, whole=True).flip(1)
        taken = ascending.gather(1, sample(share.gather(1, ascending), self.keep_of(tokens.num_live)))
        return share + torch.zeros_like(share).scatter(1, taken, 1.0)

    def fusion_weight(self, scores: Tensor, kept: Tensor) -> Tensor:
        return scores.scatter(1, kept, 0.0)


@dataclass(frozen=True, kw_only=True)
class AdaptiveTokenSampling(OnCroprSchedule):
    """Patches are sampled by class attention and the norm of their values; a fixed number of them."""

    name = "ats"
    label = "ATS (fixed count)"
    paper = "arXiv 2111.15667"
    licence = "Apache-2.0"
    counts_scoring = True
    reducer = SampledScore

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        attn = vit.blocks[block].attn
        return SampledScore(keep, self.at_reducer, attn.num_heads * attn.head_dim)
