"""Messages about a name that is not known: the bad one, those nearest to it, the valid ones. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest", "one_of"]


def did_you_mean(name: str, valid: Iterable[str], num: int = 1) -> str:
    """`; did you mean a or b?` with at most `num` of the `valid` names, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(valid), num)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest(kind: str, name: str, valid: Iterable[str]) -> str:
    """An error message: the bad value, the nearest match and the valid ones."""
    valid = sorted(valid)
    return f"unknown {kind} {name!r}{did_you_mean(name, valid) or '.'} Valid: {', '.join(valid) or 'none'}"


def one_of(kind: str, name: str, valid: Iterable[str]) -> None:
    """Raise ValueError with the nearest match unless `name` is one of `valid`."""
    valid = list(valid)
    if name not in valid:
        raise ValueError(nearest(kind, name, valid))
