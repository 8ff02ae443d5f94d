"""Control: the patches with something to predict stay, by the labels. No method: it reads what it is to predict.

Letters: B images, N live patches, L patches of the full grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens

__all__ = ["Oracle", "OracleScore"]


class OracleScore(Dropper):
    """Scores [B, N]: 1 where the labels of an image have something, 0 elsewhere, ties in grid order. Without labels
    (`tokens.truth` is None, as when a model is timed) all are equal; whatever trains or scores a model gives them."""

    reads_truth = True

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        position = tokens.positions()
        if tokens.truth is None:
            return -position.float()
        here = tokens.truth.gather(1, position.clamp(min=0)) * (position >= 0)
        return here.float() * tokens.grid - position.float()


@dataclass(frozen=True, kw_only=True)
class Oracle(OnCroprSchedule):
    """Control: the patches with something to predict stay. No method: it reads the labels."""

    name = "oracle"
    label = "Oracle"
    role = "control"
    reads_labels = True
    reducer = OracleScore
