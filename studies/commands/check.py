"""`check`: is it a method? The rules of studies/conformance/ on one method, a user's own or the project's."""

from __future__ import annotations

import sys

from studies.conformance.suite import RULES, Result, run
from studies.models.methods import GROUPS, parse_one

__all__ = ["check", "show"]

STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def check(spec: str) -> list[Result]:
    """What each rule says of the method of `spec`: a name, or a file, with options. Raises ValueError."""
    from rich.console import Console

    if spec in GROUPS:
        raise ValueError(f"check takes one method, not {spec}")
    method = parse_one(spec)
    with Console(stderr=True).status("") as status:
        return run(method, progress=lambda rule: status.update(f"{rule} ({[*RULES].index(rule) + 1} of {len(RULES)})"))


def show(results: list[Result]) -> None:
    """Print a table on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in Result._fields:
            table.add_column(column, no_wrap=column != "detail")
        for result in results:
            style = STYLES[result.state]
            table.add_row(result.rule, f"[{style}]{result.state}[/]", escape(shown(result)))
        Console().print(table)
    else:
        width = max(len(result.rule) for result in results)
        for result in results:
            print(f"{result.rule:<{width}}  {result.state:<14}  {shown(result)}".rstrip())


def shown(result: Result) -> str:
    """The detail, and behind a failure the rule itself."""
    return result.detail if result.state != "failed" else f"{result.detail}. Rule: {RULES[result.rule].meaning}"
