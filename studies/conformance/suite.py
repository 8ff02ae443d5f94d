"""All rules over one method: a row each, which names the first model on which it fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

from cropr.method import Method
from studies.conformance.rules import RULES, NotApplicable
from studies.models.given import blamed, place_of

__all__ = ["Result", "run", "run_rule"]

State = Literal["passed", "failed", "not applicable"]


class Result(NamedTuple):
    """What became of one rule."""

    rule: str
    state: State
    detail: str


def run(method: Method, progress: Callable[[str], None] | None = None) -> list[Result]:
    """Every rule, one after the other; about half a minute."""
    results = []
    for rule in RULES:
        if progress is not None:
            progress(rule)
        results.append(run_rule(method, rule))
    return results


def run_rule(method: Method, rule: str) -> Result:
    """One rule on all kinds of models that it is held on."""
    check, kinds = RULES[rule]
    held, reasons = 0, []
    for kind in kinds:
        try:
            with warnings.catch_warnings(), blamed(type(method)):
                warnings.simplefilter("ignore")  # of torch's own compilers
                check(method, kind)
            held += 1
        except NotApplicable as reason:
            reasons.append(f"{kind}: {reason}")
        except Exception as error:
            where = place_of(error)
            said = str(error) or type(error).__name__
            return Result(rule, "failed", f"{kind}: {said if where is None or where.split(',')[0] in said else where}")
    if not held:
        return Result(rule, "not applicable", reasons[0])
    return Result(rule, "passed", f"{held} of {len(kinds)} models" + (f"; {reasons[0]}" if reasons else ""))
