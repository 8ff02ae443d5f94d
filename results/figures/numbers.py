"""Numbers as people read them: significant digits, signs, and units that fit."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

__all__ = ["NOTHING", "Unit", "fixed", "macs_unit", "number", "p_text", "signed"]

NOTHING = "–"


class Unit(NamedTuple):
    """Of multiply-accumulates: 48.3 MMACs are `per_giga` = 1,000 times 0.0483 · 10⁹."""

    name: str
    power: str
    per_giga: float

    def text(self, giga: float, digits: int = 3) -> str:
        """`giga` · 10⁹ MACs in this unit."""
        return number(giga * self.per_giga, digits)


_UNITS = (Unit("TMACs", "10¹²", 1e-3), Unit("GMACs", "10⁹", 1.0), Unit("MMACs", "10⁶", 1e3), Unit("kMACs", "10³", 1e6))


def macs_unit(giga: Iterable[float]) -> Unit:
    """The largest unit of which the largest of some costs (10⁹ MACs; NaN: unknown) holds at least one."""
    most = max((value for value in giga if value > 0), default=1.0)
    return next((unit for unit in _UNITS if most * unit.per_giga >= 1), _UNITS[-1])


def number(value: float, digits: int = 3) -> str:
    """Significant digits without exponents: 0.0251, 4.60, 61.6, 12,345."""
    if pd.isna(value):
        return NOTHING
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{decimals}f}"


def signed(value: float) -> str:
    """Points with a sign and one decimal."""
    return NOTHING if pd.isna(value) else f"{value:+.1f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p value as papers write it."""
    return NOTHING if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def fixed(value: float, decimals: int) -> str:
    """With so many decimals."""
    return NOTHING if pd.isna(value) else f"{value:.{decimals}f}"
