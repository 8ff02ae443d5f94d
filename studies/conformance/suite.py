"""All rules on one method."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from cropr.method import Method
from studies.conformance import checks, checks_use
from studies.conformance.case import RULES, Case, NotApplicable, Rule
from studies.models.given import METHODS, blamed, place_of

__all__ = ["RULES", "Result", "run", "run_rule"]

State = Literal["passed", "failed", "not applicable"]
_ = (checks, checks_use)  # where the rules are


class Result(NamedTuple):
    rule: str
    state: State
    detail: str = ""


def run(method: type[Method] | Method, progress: Callable[[str], None] | None = None) -> list[Result]:
    """Every rule on `method` (a class: at its defaults). `progress` is told the name of each before it begins.

    Raises ValueError for a method that has no defaults that make sense.
    """
    if isinstance(method, type):
        with blamed(method):
            method = method()
    results = []
    for rule in RULES.values():
        if progress is not None:
            progress(rule.name)
        results.append(run_rule(rule, method))
    return results


def run_rule(rule: Rule, method: Method) -> Result:
    """One rule. What goes wrong in a user's code is told with file and line. Random numbers of the caller go on as if
    nothing had been drawn."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export and torch.compile, about their own insides
        try:
            found = rule.check(Case(method))
        except Exception as error:
            return Result(rule.name, "failed", told(error))
    if isinstance(found, NotApplicable):
        return Result(rule.name, "not applicable", found.reason)
    return Result(rule.name, "passed")


def told(error: Exception) -> str:
    """`mine.py, line 12: IndexError: ... (model: token)`, on one line."""
    place, text = place_of(error) or place_in(str(error)), str(error).strip().partition("\n")[0]
    if place is not None or not isinstance(error, AssertionError | ValueError):
        text = f"{type(error).__name__}: {text}"
    notes = ", ".join(getattr(error, "__notes__", []))
    return (f"{place}: " if place else "") + text + (f" ({notes})" if notes else "")


def place_in(text: str) -> str | None:
    """The same out of a message: torch.compile and torch.export tell there where in the code they gave up."""
    for cls in METHODS.values():
        if lines := re.findall(rf'File "{re.escape(str(cls.origin.file))}", line (\d+)', text):
            return f"{cls.origin.file.name}, line {lines[-1]}"
    return None
