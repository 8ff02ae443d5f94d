"""Reduced models at a budget. Nothing heavy is imported until a model is built."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cropr.method import Method
from studies.models.given import blamed
from studies.models.methods import parse_one

if TYPE_CHECKING:
    from torch import nn

    from cropr.vit import ReducedViT

__all__ = ["Built", "Unreachable", "build", "reduce"]

TOLERANCE = 0.01  # of a budget, by which the cheapest setting of a schedule may exceed it


class Unreachable(ValueError):
    """No value of the method's parameter meets the budget; `floor` is the smallest share it can reach."""

    def __init__(self, method: Method, budget: float, floor: float):
        super().__init__(f"{method} cannot reach {budget:g} of the dense MACs; its floor is {floor:.3f}")
        self.floor = floor


@dataclass(frozen=True)
class Built:
    """A reduced model and what it costs: shares of the dense MACs, scoring included."""

    model: ReducedViT
    method: Method  # with the parameter that sets the cost
    reached: float
    kind: str  # of schedule

    @property
    def native(self) -> dict[str, Any]:
        """The method's own parameter."""
        return self.method.native


def build(
    vit: nn.Module,
    method: Method,
    budget: float | None = None,
    img_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> Built:
    """`vit` reduced by `method`, at a `budget` in (0, 1] (None: at its own parameter). `seed` is that of what it draws.

    Raises Unreachable, or ValueError for what the model does not have.
    """
    with blamed(type(method)):
        return _build(vit, replace(method, seed=seed), budget, img_size)


def _build(vit: nn.Module, method: Method, budget: float | None, img_size: int | tuple[int, int] | None) -> Built:
    from cropr.dense import DenseViT, padded
    from cropr.macs import count, dense_macs
    from cropr.vit import ReducedViT, check_backbone, grid_of

    check_backbone(vit)  # what is asked of it below would fail in its depth
    if method.dense and img_size is not None:
        img_size = padded(vit, img_size)
    grid_size = grid_of(vit, img_size)
    kind = "native"
    if method.unsearched:
        _refuse_unsearched(vit, method, budget)
    if method.takes_budget:
        if budget is None:
            own = ", ".join(key for key, option in method.options().items() if option.sets_cost)
            raise ValueError(f"{method} needs a budget or one of its own parameters: {own}")
        kind, method = _solve(vit, method, budget, grid_size)
    options: dict[str, Any] = {"img_size": img_size, "policy": method.policy}
    reducers = method.place(vit, math.prod(grid_size))
    model: ReducedViT
    if method.dense:
        model = DenseViT(vit, reducers, fusion=_fusion(method), **options)
    else:
        model = ReducedViT(vit, reducers, llf=method.rest == "llf", **options)
    if method.role == "dense":
        kind = "dense"
    return Built(model, method, count(model).total / dense_macs(vit, grid_size, decoder=method.dense), kind)


def _refuse_unsearched(vit: nn.Module, method: Method, budget: float | None) -> None:
    """Raise Unreachable, or the ValueError that says who searches."""
    from studies.models.learned import stand_in

    stand_in(vit, method, budget)
    raise ValueError(
        f"{method}: its counts are searched on training items with a trained model, which `cropr-study run` does, and "
        "studies.models.learned.search(); there is neither here. Give the counts that a search found, as its run's "
        "record says them"
    )


def _fusion(method: Method) -> str | None:
    """What a dense model makes of patches that left (see cropr/dense.py); None: its own way with those that merge."""
    return {None: None, "squeeze": None, "drop": "none"}.get(method.rest, method.rest)


def _solve(vit: nn.Module, method: Method, budget: float, grid_size: tuple[int, int]) -> tuple[str, Method]:
    """(kind of schedule, the method with its parameter) that meets the budget, by the first way that can."""
    if method.other is not None:
        kind, other = _solve(vit, method.other, budget, grid_size)
        return kind, replace(method, other=other)
    import torch

    from cropr.macs import dense_macs, planned_macs
    from cropr.schedule import solve

    num_patches = math.prod(grid_size)
    whole, floor = dense_macs(vit, grid_size, decoder=method.dense), 1.0

    def at(parameter: str, value: float) -> Method:
        change: dict[str, Any] = {parameter: value}
        return replace(method, **change)

    for scale in method.scales(vit, num_patches):

        def share(value: float, parameter: str = scale.parameter) -> float:
            with torch.device("meta"):  # counts need no weights
                reducers = at(parameter, value).place(vit, num_patches)
            macs = planned_macs(vit, reducers, grid_size, llf=method.on_full_grid, decoder=method.dense)
            return (macs.total if method.counts_scoring else macs.total - macs.scoring) / whole

        lowest = share(scale.cheapest)
        if budget >= (1 - TOLERANCE) * lowest:
            value, _ = solve(share, scale.cheapest, scale.dearest, budget)
            return scale.kind, at(scale.parameter, value)
        floor = min(floor, lowest)
    raise Unreachable(method, budget, floor)


def reduce(
    vit: nn.Module, spec: str, budget: float | None = None, img_size: int | None = None, dense: bool = False
) -> ReducedViT:
    """A timm model, reduced: `reduce(timm.create_model("deit_small_patch16_224"), "evit:keep=0.7")`."""
    return build(vit, parse_one(spec, dense), budget, img_size).model
