"""The question that a study declared and its answer, in a sentence: Markdown, terminal, and plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isnan
from typing import Any

from rich.panel import Panel
from rich.text import Text

from results.html.content import About
from results.pages.tables import escape_markdown
from results.statistics.question import Answered

__all__ = ["about", "json_values", "markdown", "terminal"]

_STYLE = {"yes": "green", "no": "red", "not decided": "yellow"}
_MAX_ON_TERMINAL = 8


def markdown(asked: Sequence[Answered]) -> str:
    """Each question with its answers; empty where none was declared."""
    lines = []
    for one in asked:
        lines += [f"**{escape_markdown(_head(one, len(asked)))}**", ""]
        lines += [f"- {escape_markdown(answer.sentence)}" for answer in one.answers] + [""]
    return "".join(f"{line}\n" for line in lines)


def terminal(asked: Sequence[Answered]) -> list[Panel]:
    """The same for the terminal, a box for each question."""
    boxes = []
    for one in asked:
        text = Text(_head(one, len(asked)), style="bold")
        for answer in one.answers[:_MAX_ON_TERMINAL]:
            text.append(f"\n{answer.sentence}", style=f"not bold {_STYLE[answer.verdict]}")
        if more := len(one.answers) - _MAX_ON_TERMINAL:
            text.append(f"\n{more} more in answer.json" if more > 0 else "", style="not bold dim")
        boxes.append(Panel(text, title="question", title_align="left", border_style=_STYLE[one.verdict]))
    return boxes


def about(study: About, one: Answered | None) -> About:
    """What the page says of a study, with its question and the answers where it declared one."""
    if one is None:
        return study
    return replace(study, question=_head(one, 1), answer=" ".join(answer.sentence for answer in one.answers))


def json_values(asked: Sequence[Answered]) -> list[dict[str, Any]]:
    """For other programs; what is not a number is null."""
    return [
        {
            "study": one.study, "question": one.question, "asked": one.asked, "verdict": one.verdict,
            "answers": [{key: _plain(value) for key, value in asdict(answer).items()} for answer in one.answers],
        }
        for one in asked
    ]  # fmt: skip


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and isnan(value) else value


def _head(one: Answered, num_studies: int) -> str:
    study = f"{one.study}: " if num_studies > 1 else ""
    if len(one.answers) == 1:
        return f"{study}{one.asked} {one.verdict.capitalize()}."
    counts = ", ".join(f"{verdict} for {one.counts[verdict]}" for verdict in _STYLE if verdict in one.counts)
    return (
        f"{study}{one.asked} {one.verdict.capitalize()}. Of {len(one.answers)} variants, each on its own: {counts} "
        "(intervals not corrected for their number)."
    )
