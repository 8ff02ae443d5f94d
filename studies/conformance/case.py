"""A method under test, on models that are made anew for each question, and what a rule is.

Letters: B images, L patches of the full grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cropr.method import Method
from cropr.vit import ReducedViT
from studies.conformance.models import KINDS, tiny
from studies.models.reducers import Built, Unreachable, build

__all__ = ["RULES", "Case", "NotApplicable", "Refused", "close", "rule", "same"]

BUDGETS = (0.6, 0.75, 0.9)  # the first that can be met


@dataclass(frozen=True)
class NotApplicable:
    """A rule says nothing of this method, and why."""

    reason: str


class Refused(Exception):
    """The method says by name that it is not for this model, or a rule does not ask it."""


class Rule(NamedTuple):
    """`check(case)`: raises AssertionError or ValueError with what was expected and seen."""

    name: str
    meaning: str
    check: Callable[[Case], NotApplicable | None]


RULES: dict[str, Rule] = {}  # by name, in the order of definition; none depends on another


def rule(name: str, kinds: tuple[str, ...] = KINDS) -> Callable[[Callable[[Case, str], None]], Callable]:
    """Makes a rule of a function that asks a case about one kind of model; the docstring is its meaning. `kinds`: all
    that it is asked about; "": it chooses itself."""

    def decorate(ask: Callable[[Case, str], None]) -> Callable[[Case], NotApplicable | None]:
        def check(case: Case) -> NotApplicable | None:
            refusals = []
            for kind in kinds:
                try:
                    ask(case, kind)
                except Refused as refusal:
                    refusals.append(str(refusal))
                except Exception as error:
                    if kind:
                        error.add_note(f"model: {kind}")
                    raise
            return NotApplicable(refusals[0]) if len(refusals) == len(kinds) else None

        check.__doc__ = ask.__doc__
        RULES[name] = Rule(name, " ".join((ask.__doc__ or "").split()), check)
        return check

    return decorate


@dataclass(frozen=True)
class Case:
    """A method with its options. Nothing is kept between questions: the same seeds make the same models again."""

    method: Method

    def built(self, kind: str, method: Method | None = None) -> Built:
        """A tiny model of `kind`, reduced, in evaluation mode; where the cost is open, at the first budget that can be
        met. Raises Refused."""
        return self.reduce(tiny(kind), solved(method or self.method, kind))

    def model(self, kind: str) -> ReducedViT:
        return self.built(kind).model

    def reduce(self, vit: nn.Module, method: Method | None = None) -> Built:
        """The same of a given model."""
        method = method or self.method
        if method.reads_labels:
            raise Refused("it reads labels, and a model alone has none")
        for budget in BUDGETS if method.takes_budget else (None,):
            torch.manual_seed(1)
            try:
                built = build(vit, method, budget)
            except Unreachable as error:
                unreachable = error
                continue
            except ValueError as error:
                if names_itself(error, method):
                    raise Refused(str(error)) from None
                raise
            shake(built.model.reducers)
            built.model.eval()
            return built
        raise Refused(str(unreachable))


@lru_cache(maxsize=64)
def solved(method: Method, kind: str) -> Method:
    """The method with its cost set for a model of `kind`: solving takes longer than all that is asked then. Raises
    Refused."""
    return Case(method).reduce(tiny(kind)).method if method.takes_budget else method


def names_itself(error: ValueError, method: Method) -> bool:
    """It is a refusal, which says who refuses; not any ValueError of a user's code, told with the file's name."""
    cause = error.__cause__ or error
    names = [method.name, method.label, *([method.reducer.__name__] if method.reducer else [])]
    return isinstance(cause, ValueError) and any(name in str(cause) for name in names)


@torch.no_grad()
def shake(reducers: nn.Module) -> None:
    """Moves weights that start as zeros or ones, under which all scores would be the same."""
    for parameter in reducers.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter += 0.1 * fan_in**-0.5 * torch.randn_like(parameter)


# What rules say


def same(seen: Tensor, expected: Tensor, what: str) -> None:
    """Bit for bit."""
    differ(seen, expected, what)
    if not seen.equal(expected):
        raise AssertionError(f"{what}: expected bit for bit, differs by up to {gap(seen, expected):.3g}")


def close(seen: Tensor, expected: Tensor, what: str, atol: float = 2e-5, rtol: float = 1e-5) -> None:
    """Up to rounding."""
    differ(seen, expected, what)
    if not torch.allclose(seen, expected, atol=atol, rtol=rtol):
        raise AssertionError(f"{what}: expected within {atol:g}, differs by up to {gap(seen, expected):.3g}")


def differ(seen: Tensor, expected: Tensor, what: str) -> None:
    if seen.shape != expected.shape:
        raise AssertionError(f"{what}: expected {list(expected.shape)}, seen {list(seen.shape)}")


def gap(seen: Tensor, expected: Tensor) -> float:
    return (seen.double() - expected.double()).abs().max().item()


def without_cost(method: Method) -> Method:
    """The method with its cost open again."""
    change: dict[str, Any] = dict.fromkeys(method.native)
    return replace(method, **change)
