"""Control: the patches stay that Cropr, trained the same way, would drop."""

from __future__ import annotations

from dataclasses import dataclass

from cropr.cropr import Cropr
from cropr.method import option

__all__ = ["Inverted"]


@dataclass(frozen=True, kw_only=True)
class Inverted(Cropr):
    """Control: the patches stay that Cropr would drop."""

    name = "inverted"
    label = "Inverted Cropr"
    role = "control"
    standard = False

    select: str = option("lowest", "which patches stay: those of Cropr's lowest scores", choices=("lowest",))
