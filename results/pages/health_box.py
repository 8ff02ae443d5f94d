"""The health of a result as a box: Markdown, terminal, and plain values for JSON."""

from collections.abc import Iterator
from typing import Any

from rich.panel import Panel
from rich.text import Text

from results.html.content import Findings
from results.pages.tables import escape_markdown
from results.statistics.findings import Finding, Health

__all__ = ["json_values", "markdown", "parts", "terminal"]

_MAX_NAMES = 6  # of variants in one sentence; health.json has all


def markdown(health: Health) -> str:
    """A block quote: findings by check, each with what to do, then what could not be checked."""
    lines = [f"**Health. {_headline(health)}**", ""]
    for check, findings in _by_check(health):
        lines.append(f"- **{escape_markdown(check)}** {escape_markdown(findings[0].advice)}")
        lines += [f"  - {escape_markdown(_sentence(finding))}" for finding in findings]
    if health.findings and health.unchecked:
        lines.append("")
    if health.unchecked:
        lines.append(escape_markdown(_unchecked(health)))
    return "".join(f"> {line}".rstrip() + "\n" for line in lines)


def terminal(health: Health) -> Panel:
    """The same for the terminal."""
    text = Text(_headline(health))
    for check, findings in _by_check(health):
        text.append(f"\n{check}: ", style="bold").append(findings[0].advice)
        text.append("".join(f"\n  {_sentence(finding)}" for finding in findings))
    if health.unchecked:
        text.append(f"\n{_unchecked(health)}", style="dim")
    return Panel(text, title="health", title_align="left", border_style="yellow" if health.findings else "green")


def parts(health: Health) -> Findings:
    """The same in pieces, for the page."""
    checks = [(check, own[0].advice, [_sentence(finding) for finding in own]) for check, own in _by_check(health)]
    return Findings(_headline(health), checks, _unchecked(health) if health.unchecked else "")


def json_values(health: Health) -> dict[str, Any]:
    """Findings with the names of all variants, for other programs."""
    findings = [
        {
            "check": finding.check, "about": finding.about, "study": finding.study, "variants": list(finding.variants),
            "seen": finding.seen, "advice": finding.advice,
        }
        for finding in health.findings
    ]  # fmt: skip
    looked = {"checks": health.num_checks, "looked": health.num_looked}
    return looked | {"findings": findings, "not_checked": list(health.unchecked)}


def _headline(health: Health) -> str:
    if not health.findings:
        return f"Nothing found in {health.num_looked} of {health.num_checks} checks."
    number = len(health.findings)
    kinds = len(dict(_by_check(health)))
    marks = " Points that one sets apart are hollow." if any(finding.marks for finding in health.findings) else ""
    return f"{number} finding{'s' if number > 1 else ''} from {kinds} of {health.num_checks} checks.{marks}"


def _by_check(health: Health) -> Iterator[tuple[str, list[Finding]]]:
    for check in dict.fromkeys(finding.check for finding in health.findings):
        yield check, [finding for finding in health.findings if finding.check == check]


def _sentence(finding: Finding) -> str:
    names = finding.variants
    which = ", ".join(names)
    if not finding.marks:
        which = f"{len(names)} variants of {finding.study}"
    elif len(names) > _MAX_NAMES:
        which = f"{', '.join(names[: _MAX_NAMES - 1])} and {len(names) - _MAX_NAMES + 1} more"
    return f"{which}: {finding.seen}."


def _unchecked(health: Health) -> str:
    return f"Could not be checked: {'; '.join(health.unchecked)}."
