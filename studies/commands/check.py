"""`check`: a method against the rules that every method keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from studies.models.methods import parse_one

if TYPE_CHECKING:
    from studies.conformance.suite import Result

__all__ = ["passed", "run_checks", "show_results"]


def run_checks(reducer: str, progress: Callable[[str], None]) -> list[Result]:
    """A row for each rule. Raises ValueError for what is no method."""
    method = parse_one(reducer)
    from studies.conformance.suite import run

    return run(method, progress)


def passed(results: list[Result]) -> bool:
    return all(result.state != "failed" for result in results)


def show_results(results: list[Result]) -> None:
    """A table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("rule", "", "detail"):
        table.add_column(column)
    colours = {"passed": "green", "failed": "bold red", "not applicable": "dim"}
    for result in results:
        table.add_row(result.rule, result.state, result.detail, style=colours[result.state])
    Console().print(table, markup=False)
