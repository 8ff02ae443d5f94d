"""Texts of the command line to values. Each raises ValueError that names the bad value and the valid ones."""

from __future__ import annotations

from collections.abc import Iterable

from cropr.nearest import one_of
from results.records.files import path_of

__all__ = ["backbone_of", "give_methods", "parse_budgets", "parse_sizes", "resolve_device"]


SMALLEST_BUDGET = 0.01  # what is below it is a slip of the pen


def parse_budgets(text: str) -> list[float]:
    """0.8,0.65,0.5 -> floats in (0, 1], each once."""
    budgets = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise ValueError(
                f"budget {part!r} is not a number; budgets are shares of the dense MACs, such as 0.5"
            ) from None
        if not SMALLEST_BUDGET <= value <= 1:
            raise ValueError(
                f"budget {part} is outside [{SMALLEST_BUDGET}, 1]; budgets are shares of the dense MACs, such as 0.5"
            )
        budgets.append(value)
    return list(dict.fromkeys(budgets))


def backbone_of(text: str) -> tuple[str, str | None]:
    """The name of a model, and the file of its weights: NAME=FILE, or a FILE that says which model it is of. Raises
    ValueError."""
    from studies.models.backbones import described_by
    from studies.models.checkpoints import is_checkpoint

    name, equals, file = text.partition("=")
    if equals and not file:
        raise ValueError(f"{text!r} names no file; a checkpoint is written NAME=FILE")
    if not file and is_checkpoint(name):
        name, file = described_by(name), name
    return name, str(path_of(file).absolute()) if file else None


def parse_sizes(kind: str, text: str) -> list[int]:
    """1,16 -> whole numbers from 1 on, each once. `kind`: what they are sizes of."""
    parts = [part.strip() for part in text.split(",")]
    if bad := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        raise ValueError(f"{kind} {bad[0]!r} is no whole number from 1 on")
    return list(dict.fromkeys(map(int, parts)))


def resolve_device(name: str) -> str:
    """auto, cpu or cuda -> a device that is there."""
    import torch

    one_of("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch finds no GPU here; valid: auto, cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def give_methods(sources: Iterable[str] | None) -> None:
    """Load the user's own methods that a command's records name. Raises ValueError."""
    from studies.models.given import give

    for source in sources or ():
        give(source)
