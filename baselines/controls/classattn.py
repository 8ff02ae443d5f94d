"""Control: the patches that the class token attends to stay: EViT's score, nothing fused, on Cropr's schedule.

Letters: B images, P prefix tokens, N live patches, T = P + N, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens

__all__ = ["ClassAttention", "ClassAttentionScore"]


class ClassAttentionScore(Dropper):
    """Scores [B, N]: attention of the class query to each patch, a mean over heads. `attn_dim`: H E."""

    inside = True
    taps = ("q", "k")
    class_token = True

    def __init__(self, keep: int, rest: str = "drop", attn_dim: int = 0):
        super().__init__(keep, rest)
        self.attn_dim = attn_dim

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        return (num_live + num_prefix) * self.attn_dim

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert attended is not None
        return attended.prefix_attention(1).mean(dim=1)[:, 0, tokens.num_prefix :]

    def fusion_weight(self, scores: Tensor, kept: Tensor) -> Tensor:
        return scores.scatter(1, kept, 0.0)  # attention already is a weight


@dataclass(frozen=True, kw_only=True)
class ClassAttention(OnCroprSchedule):
    """Control: the patches that the class token attends to stay, on Cropr's schedule."""

    name = "classattn"
    label = "Class attention"
    role = "control"
    reducer = ClassAttentionScore

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        attn = vit.blocks[block].attn
        return ClassAttentionScore(keep, self.at_reducer, attn.num_heads * attn.head_dim)
