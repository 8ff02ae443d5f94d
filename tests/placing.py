"""Reducers of a method by its name, for tests that build models themselves."""

from __future__ import annotations

from typing import Any

from torch import nn

from cropr.method import Training
from cropr.objective import Objective
from cropr.reducer import Reducer
from studies.models.methods import builtin
from studies.models.reducers import Built


def place(name: str, vit: nn.Module, num_patches: int, *, llf: bool = False, **options: Any) -> dict[int, Reducer]:
    """What the method `name` puts at blocks. `llf`: for last-layer fusion."""
    options |= {"rest": "llf"} if llf else {}
    return dict(builtin()[name](**options).place(vit, num_patches))


def place_cropr(vit: nn.Module, num_patches: int, **options: Any) -> dict[int, Reducer]:
    return place("cropr", vit, num_patches, **options)


def place_random(vit: nn.Module, num_patches: int, **options: Any) -> dict[int, Reducer]:
    return place("random", vit, num_patches, **options)


def place_tome(vit: nn.Module, num_patches: int, *, r: Any, **options: Any) -> dict[int, Reducer]:
    """`r` as in the release: a number, (number, inflection), or a list."""
    if isinstance(r, tuple):
        r, options["inflect"] = r
    return place("tome", vit, num_patches, r=tuple(r) if isinstance(r, list) else r, **options)


def place_evit(vit: nn.Module, num_patches: int, **options: Any) -> dict[int, Reducer]:
    return place("evit", vit, num_patches, **options)


def place_dynamicvit(vit: nn.Module, num_patches: int, **options: Any) -> dict[int, Reducer]:
    return place("dynamicvit", vit, num_patches, **options)


def objective_of(built: Built, criterion: Any, teacher: Any = None, epochs: int | None = None) -> Objective:
    """What a built model is trained for."""
    return built.method.objective(Training(built.model, criterion, teacher, epochs))
