"""Lines of a table in Markdown, of cells that are Markdown themselves."""

from __future__ import annotations

__all__ = ["head", "line"]


def head(*names: str) -> list[str]:
    """The names of the columns, and the line below them."""
    return [line(*names), "|---" * len(names) + "|"]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
