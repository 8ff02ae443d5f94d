"""Control: the patches whose keys are largest stay, by this block's attention.

Letters: B images, N live patches, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import wide_type

__all__ = ["KeyNorm", "KeyNormScore"]


class KeyNormScore(Dropper):
    """Scores [B, N]: the norm of each patch's key [B, H, N, E], a mean over heads. (RoPE leaves norms as they are.)"""

    inside = True
    taps = ("k",)

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        assert attended is not None
        keys = attended.k[:, :, tokens.num_prefix :]
        return torch.linalg.vector_norm(keys, dim=-1, dtype=wide_type(keys)).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class KeyNorm(OnCroprSchedule):
    """Control: the patches of the largest keys stay."""

    name = "keynorm"
    label = "Key norm"
    role = "control"
    reducer = KeyNormScore
