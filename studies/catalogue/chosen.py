"""Values that `cropr-study tune` chose on validation items: NAME.json beside the study's file says which, among what,
and where."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import TypedDict

from results.records.files import CorruptRecord
from results.records.schema import read

__all__ = ["Factors", "factors_in", "shipped"]

Factors = dict[str, dict[str, float]]  # method -> setting -> factor of the recipe's value


class Chosen(TypedDict):
    """What was chosen for a method."""

    factors: dict[str, float]


class ChosenFile(TypedDict):
    """A file that `tune` wrote."""

    methods: dict[str, Chosen]


def shipped(study: str) -> Path | None:
    """The file of a study of the catalogue, if it has one."""
    path = Path(__file__).with_name(f"{study.replace('-', '_')}.json")
    return path if path.exists() else None


def factors_in(path: Path) -> Factors:
    """What a file says. Raises ValueError for one that `tune` did not write, FileNotFoundError."""
    try:
        return {method: chosen["factors"] for method, chosen in read(path, ChosenFile)["methods"].items()}
    except CorruptRecord as error:
        raise ValueError(f"{path} is no file that `cropr-study tune` wrote: {error.reason}") from None
