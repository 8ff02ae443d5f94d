"""Values that `cropr-study tune` chose on validation items: NAME.json beside the study's file says which, among what,
and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results.records.files import read_json

__all__ = ["Factors", "factors_in", "shipped"]

Factors = dict[str, dict[str, float]]  # method -> setting -> factor of the recipe's value


def shipped(study: str) -> Path | None:
    """The file of a study of the catalogue, if it has one."""
    path = Path(__file__).with_name(f"{study.replace('-', '_')}.json")
    return path if path.exists() else None


def factors_in(path: Path) -> Factors:
    """What a file says. Raises ValueError for one that `tune` did not write, OSError."""
    try:
        content: Any = read_json(path)
        return {
            method: {str(key): float(value) for key, value in chosen["factors"].items()}
            for method, chosen in content["methods"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no file that `cropr-study tune` wrote: {error!r}") from None
