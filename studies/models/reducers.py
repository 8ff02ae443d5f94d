"""Reduced models at a budget, and what they are trained for, from the specs of reducers.

Nothing heavy is imported until a model is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from studies.reducer_specs import FUSION, Spec, parse_one

if TYPE_CHECKING:
    from torch import nn

    from cropr.dense_objective import Curriculum
    from cropr.objective import Criterion, Objective
    from cropr.vit import ReducedViT

__all__ = ["Built", "Unreachable", "build", "make_objective", "reduce"]

TOLERANCE = 0.01  # of a budget, by which the cheapest setting of a schedule may exceed it


class Unreachable(ValueError):
    """No value of the reducer's parameter meets the budget; `floor` is the smallest share it can reach."""

    def __init__(self, spec: Spec, budget: float, floor: float):
        super().__init__(f"{spec} cannot reach {budget:g} of the dense MACs; its floor is {floor:.3f}")
        self.floor = floor


@dataclass(frozen=True)
class Built:
    """A reduced model and what it costs: shares of the dense MACs, scoring included."""

    model: ReducedViT
    reached: float
    kind: str  # of schedule
    native: dict[str, Any]  # the reducer's own parameter


def build(
    vit: nn.Module,
    spec: Spec,
    budget: float | None = None,
    img_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    dense: bool = False,
) -> Built:
    """`vit` reduced by `spec`, at a `budget` in (0, 1] (None: at its own parameter). `seed` is that of random pruning.
    `dense`: for logits of every pixel; dropped patches come back by last-layer fusion if the spec says nothing else,
    EViT does not fuse them, and Cropr has one query for each patch.

    Raises Unreachable, or ValueError for what the model does not have.
    """
    from cropr.dense import ON_FULL_GRID, DenseViT, padded
    from cropr.macs import count, dense_macs
    from cropr.vit import ReducedViT, grid_of

    if dense and img_size is not None:
        img_size = padded(vit, img_size)
    rows, columns = grid_of(vit, img_size)
    place, extra = spec.values(spec.method.place), spec.values(spec.method.model)
    fusion = fusion_of(spec, dense)
    options = {key: value for key, value in extra.items() if key not in FUSION} | {"img_size": img_size}
    options |= {"fusion": fusion} if dense else {"llf": fusion == "llf"}
    make: Callable[..., ReducedViT] = DenseViT if dense else ReducedViT
    if spec.name == "none":
        return Built(make(vit, **options), 1.0, "dense", {})
    module = import_module(spec.method.module)
    if "inflect" in place:
        place["r"] = (place.get("r", 0.0), place.pop("inflect"))
    if spec.name == "dynamicvit":
        options.setdefault("policy", "exact")
    if dense:
        place |= _dense_defaults(spec, place, rows * columns)
    full = fusion in ON_FULL_GRID
    needs_llf = {"llf": full} if spec.name in ("cropr", "random") else {}
    native, kind = {key: place[key] for key in spec.method.native if key in place}, "native"
    if not native:
        if budget is None:
            raise ValueError(f"{spec} needs a budget or one of its own parameters: {', '.join(spec.method.native)}")
        kind, native = _solve(vit, spec, budget, rows * columns, {**place, **needs_llf}, full, dense)
    if spec.name == "random":
        place["seed"] = seed
    model = make(vit, module.place(vit, rows * columns, **{**place, **needs_llf, **native}), **options)
    whole = dense_macs(vit, rows * columns, decoder=dense)
    return Built(model, count(model).total / whole, kind, native)


def fusion_of(spec: Spec, dense: bool) -> str | None:
    """What `spec` makes of dropped patches (see cropr/dense.py); None for a method that drops none. Raises ValueError
    for a contradiction, or for what only a dense task can do."""
    given = spec.values(FUSION)
    if not set(FUSION) <= set(spec.method.model):
        return None
    said = {given["fusion"]} if "fusion" in given else set()
    said |= {"llf" if given["llf"] else "none"} if "llf" in given else set()
    if len(said) > 1:
        raise ValueError(f"{spec} says two things of dropped patches; give only fusion=")
    fusion = said.pop() if said else "llf" if dense else "none"
    if not dense and fusion not in ("llf", "none"):
        raise ValueError(f"fusion={fusion} is for dense tasks; {spec.name} in classification: llf or none")
    return fusion


def _dense_defaults(spec: Spec, place: dict[str, Any], num_patches: int) -> dict[str, Any]:
    """Options of the reducers that a dense task wants otherwise. Raises ValueError for other numbers of queries."""
    if spec.name == "cropr":
        if place.get("queries", num_patches) != num_patches:
            raise ValueError(f"a dense task has one query for each patch ({num_patches}), not {place['queries']}")
        return {"queries": num_patches}
    return {"fuse": place.get("fuse", False)} if spec.name == "evit" else {}


def _solve(
    vit: nn.Module, spec: Spec, budget: float, num_patches: int, place: dict[str, Any], llf: bool, dense: bool
) -> tuple[str, dict[str, float]]:
    """(kind of schedule, native parameter) that meets the budget, by the first way of setting the cost that can."""
    import torch

    from cropr.macs import dense_macs, planned_macs
    from cropr.schedule import solve

    module, whole = import_module(spec.method.module), dense_macs(vit, num_patches, decoder=dense)
    hints = {key: value for key, value in place.items() if key in ("llf", "first_extra")}
    floor = 1.0
    for scale in module.scales(vit, num_patches, **hints):

        def share(value: float, parameter: str = scale.parameter) -> float:
            with torch.device("meta"):  # counts need no weights
                reducers = module.place(vit, num_patches, **place, **{parameter: value})
            macs = planned_macs(vit, reducers, num_patches, llf=llf, decoder=dense)
            # Cropr and random share one schedule, so what only one of them pays must not move it.
            return (macs.total - macs.scoring if spec.name in ("cropr", "random") else macs.total) / whole

        lowest = share(scale.cheapest)
        if budget >= (1 - TOLERANCE) * lowest:
            value, _ = solve(share, scale.cheapest, scale.dearest, budget)
            return scale.kind, {scale.parameter: value}
        floor = min(floor, lowest)
    raise Unreachable(spec, budget, floor)


def make_objective(
    spec: Spec,
    built: Built,
    criterion: Criterion,
    teacher: Callable[[], nn.Module] | None = None,
    epochs: int | None = None,
) -> Objective:
    """What the reduced model is trained for. `teacher()` makes the plain pretrained model, where a method wants one.
    `epochs`: of the training, for the curriculum of pruning rates that Cropr and random have in dense tasks."""
    from baselines.dynamicvit import DynamicViTDenseObjective, DynamicViTObjective
    from baselines.evit import EViTObjective
    from cropr.cropr import CroprObjective
    from cropr.dense import DenseViT
    from cropr.dense_objective import CroprDenseObjective, DenseObjective
    from cropr.objective import Objective

    options, dense = spec.values(spec.method.objective), built.model.dense
    if spec.name in ("cropr", "random"):
        wanted = options.pop("curriculum", dense)
        if not dense:
            if wanted:
                raise ValueError(f"curriculum=true of {spec.name} is for dense tasks")
            return CroprObjective(criterion, **options) if spec.name == "cropr" else Objective(criterion)
        curriculum = _curriculum(spec, built, epochs) if wanted and epochs else None
        kind = CroprDenseObjective if spec.name == "cropr" else DenseObjective
        return kind(criterion, curriculum=curriculum, **options)
    if spec.name == "evit":
        return EViTObjective(criterion, **options)
    if spec.name == "dynamicvit":
        if teacher is None:
            raise ValueError("dynamicvit is trained with a teacher")
        ratios = [built.native["ratio"] ** (stage + 1) for stage in range(len(built.model.reducers))]
        if dense:
            whole = DenseViT(teacher(), img_size=built.model.img_size)
            return DynamicViTDenseObjective(criterion, whole, ratios, **options)
        return DynamicViTObjective(criterion, teacher(), ratios, **options)
    return Objective(criterion)


def _curriculum(spec: Spec, built: Built, epochs: int) -> Curriculum:
    from cropr.dense_objective import Curriculum

    extra = 0
    if "rate" in built.native:
        first = spec.values(spec.method.place).get("first_extra")
        extra = int(built.model.num_prefix_tokens == 1) if first is None else first
    reducers: dict[int, Any] = {int(i): reducer for i, reducer in built.model.reducers.items()}
    return Curriculum(reducers, built.model.num_patches, epochs, extra)


def reduce(
    vit: nn.Module, spec: str, budget: float | None = None, img_size: int | None = None, dense: bool = False
) -> ReducedViT:
    """A timm model, reduced: `reduce(timm.create_model("deit_small_patch16_224"), "evit:keep=0.7")`."""
    return build(vit, parse_one(spec), budget, img_size, dense=dense).model
