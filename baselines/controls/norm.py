"""Control: the patches of the largest norm stay. No learning, no attention read.

Letters: B images, N live patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.tokens.precision import wide_type

__all__ = ["Norm", "NormScore"]


class NormScore(Dropper):
    """Scores [B, N]: the Euclidean norm of each patch [B, N, D]."""

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        return torch.linalg.vector_norm(tokens.patches, dim=-1, dtype=wide_type(tokens.x))


@dataclass(frozen=True, kw_only=True)
class Norm(OnCroprSchedule):
    """Control: the patches of the largest norm stay."""

    name = "norm"
    label = "Norm"
    role = "control"
    reducer = NormScore
