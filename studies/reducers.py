"""The names of the reducers, their options, and reduced models at a budget.

METHODS is the one table of names. Nothing heavy is imported until a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from studies.nearest import nearest

if TYPE_CHECKING:
    from torch import nn

    from cropr.objective import Criterion, Objective
    from cropr.vit import ReducedViT

__all__ = ["METHODS", "Built", "Spec", "Unreachable", "build", "make_objective", "parse", "reduce"]

Converter = Callable[[str], Any]  # text of an option -> its value; ValueError if it is none
TOLERANCE = 0.01  # of a budget, by which the cheapest setting of a schedule may exceed it


def ints(text: str) -> tuple[int, ...]:
    """Block indices written 3/6/9."""
    return tuple(int(part) for part in text.split("/"))


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def rates(text: str) -> float | list[int]:
    """One rate, or one for each block written 8/0/8."""
    return [int(part) for part in text.split("/")] if "/" in text else float(text)


@dataclass(frozen=True)
class Method:
    """One reducer: where it lives, what it is, and which options it takes, by what they are options of."""

    module: str
    summary: str
    native: tuple[str, ...]  # parameters that set the cost; a budget solves for one of them
    place: Mapping[str, Converter] = field(default_factory=dict)
    objective: Mapping[str, Converter] = field(default_factory=dict)
    model: Mapping[str, Converter] = field(default_factory=dict)
    learns: bool = False  # has weights of its own: off the shelf it would choose at random
    version: int = 1  # part of the name of a run: raise it when the method computes something else

    @property
    def options(self) -> dict[str, Converter]:
        return {**self.place, **self.objective, **self.model}


_MODULES: dict[str, Converter] = {"rate": float, "ratio": float, "first_extra": int}
METHODS: dict[str, Method] = {
    "none": Method("", "the dense model, fine-tuned like the others", ()),
    "random": Method(
        "baselines.random_pruning",
        "patches leave at random, on Cropr's schedule",
        ("rate", "ratio"),
        _MODULES,
        model={"llf": boolean},
        version=2,
    ),
    "cropr": Method(
        "cropr.cropr",
        "cross-attention pruning with auxiliary heads",
        ("rate", "ratio"),
        _MODULES
        | {"queries": int, "heads": int, "q_proj": boolean, "k_proj": boolean, "v_proj": boolean, "pre_norm": boolean}
        | {"mlp": boolean, "mlp_ratio": float, "detach": boolean, "select": str},
        {"weight": float},
        {"llf": boolean},
        learns=True,
        version=2,
    ),
    "tome": Method(
        "baselines.tome", "similar tokens are merged", ("r",), {"r": rates, "inflect": float, "proportional": boolean}
    ),
    "evit": Method(
        "baselines.evit",
        "patches that the class token ignores leave or are fused",
        ("keep",),
        {"keep": float, "fuse": boolean, "blocks": ints},
        {"start": float, "span": float},
        {"llf": boolean},
    ),
    "dynamicvit": Method(
        "baselines.dynamicvit",
        "learned predictors, with a teacher",
        ("ratio",),
        {"ratio": float, "blocks": ints},
        {"ratio_weight": float, "distill_weight": float, "token": str, "batch_mean": boolean},
        {"llf": boolean, "policy": str},
        learns=True,
    ),
}


@dataclass(frozen=True)
class Spec:
    """A reducer with its options: `cropr:llf=true,queries=4`."""

    name: str
    options: tuple[tuple[str, str], ...] = ()  # sorted, as written

    def __str__(self) -> str:
        return self.name + (":" if self.options else "") + ",".join(f"{key}={value}" for key, value in self.options)

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def label(self) -> str:
        names = {"none": "Dense", "random": "Random", "cropr": "Cropr", "tome": "ToMe", "evit": "EViT"}
        label = names.get(self.name, "DynamicViT")
        return label if not self.options else f"{label} ({', '.join(f'{k}={v}' for k, v in self.options)})"

    @property
    def is_native(self) -> bool:
        """The cost is set by the reducer's own parameter."""
        return any(key in self.method.native for key, _ in self.options)

    def values(self, group: Mapping[str, Converter]) -> dict[str, Any]:
        """The options that belong to one group, parsed."""
        return {key: group[key](value) for key, value in self.options if key in group}


def parse(text: str) -> list[Spec]:
    """`all`, or specs separated by commas; `a=b` after a spec is a further option of it. Raises ValueError."""
    if text.strip() == "all":
        return [Spec(name) for name in METHODS]
    pieces: list[str] = []
    for part in text.split(","):
        continues = pieces and "=" in part and ":" not in part
        pieces = [*pieces[:-1], f"{pieces[-1]},{part}"] if continues else [*pieces, part]
    specs = [_parse_one(piece.strip()) for piece in pieces]
    if twice := {str(spec) for spec in specs if specs.count(spec) > 1}:
        raise ValueError(f"reducer named twice: {', '.join(sorted(twice))}")
    return specs


def _parse_one(text: str) -> Spec:
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise ValueError(nearest("reducer", name, [*METHODS, "all"]))
    method, options = METHODS[name], {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key not in method.options:
            raise ValueError(nearest(f"option of {name}", key, method.options))
        try:
            method.options[key](value)
        except ValueError:
            raise ValueError(f"option {key} of {name} cannot be {value!r}") from None
        options[key] = value
    return Spec(name, tuple(sorted(options.items())))


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


def build(vit: nn.Module, spec: Spec, budget: float | None = None, img_size: int | None = None, seed: int = 0) -> Built:
    """`vit` reduced by `spec`, at a `budget` in (0, 1] (None: at its own parameter). `seed` is that of random pruning.

    Raises Unreachable, or ValueError for what the model does not have.
    """
    from cropr.macs import count, dense_macs
    from cropr.vit import ReducedViT, grid_of

    if spec.name == "none":
        return Built(ReducedViT(vit, img_size=img_size), 1.0, "dense", {})
    module = import_module(spec.method.module)
    place, extra = spec.values(spec.method.place), spec.values(spec.method.model)
    if "inflect" in place:
        place["r"] = (place.get("r", 0.0), place.pop("inflect"))
    if spec.name == "dynamicvit":
        extra.setdefault("policy", "exact")
    rows, columns = grid_of(vit, img_size)
    needs_llf = {"llf": extra.get("llf", False)} if spec.name in ("cropr", "random") else {}
    native, kind = {key: place[key] for key in spec.method.native if key in place}, "native"
    if not native:
        if budget is None:
            raise ValueError(f"{spec} needs a budget or one of its own parameters: {', '.join(spec.method.native)}")
        kind, native = _solve(vit, spec, budget, rows * columns, {**place, **needs_llf}, extra.get("llf", False))
    if spec.name == "random":
        place["seed"] = seed
    reducers = module.place(vit, rows * columns, **{**place, **needs_llf, **native})
    model = ReducedViT(vit, reducers, img_size=img_size, **extra)
    return Built(model, count(model).total / dense_macs(vit, rows * columns), kind, native)


def _solve(
    vit: nn.Module, spec: Spec, budget: float, num_patches: int, place: dict[str, Any], llf: bool
) -> tuple[str, dict[str, float]]:
    """(kind of schedule, native parameter) that meets the budget, by the first way of setting the cost that can."""
    import torch

    from cropr.macs import dense_macs, planned_macs
    from cropr.schedule import solve

    module, dense = import_module(spec.method.module), dense_macs(vit, num_patches)
    hints = {key: value for key, value in place.items() if key in ("llf", "first_extra")}
    floor = 1.0
    for scale in module.scales(vit, num_patches, **hints):

        def share(value: float, parameter: str = scale.parameter) -> float:
            with torch.device("meta"):  # counts need no weights
                reducers = module.place(vit, num_patches, **place, **{parameter: value})
            macs = planned_macs(vit, reducers, num_patches, llf=llf)
            # Cropr and random share one schedule, so what only one of them pays must not move it.
            return (macs.backbone if spec.name in ("cropr", "random") else macs.total) / dense

        lowest = share(scale.cheapest)
        if budget >= (1 - TOLERANCE) * lowest:
            value, _ = solve(share, scale.cheapest, scale.dearest, budget)
            return scale.kind, {scale.parameter: value}
        floor = min(floor, lowest)
    raise Unreachable(spec, budget, floor)


def make_objective(
    spec: Spec, built: Built, criterion: Criterion, teacher: Callable[[], nn.Module] | None = None
) -> Objective:
    """What the reduced model is trained for. `teacher()` makes the plain pretrained model, where a method wants one."""
    from baselines.dynamicvit import DynamicViTObjective
    from baselines.evit import EViTObjective
    from cropr.cropr import CroprObjective
    from cropr.objective import Objective

    options = spec.values(spec.method.objective)
    if spec.name == "cropr":
        return CroprObjective(criterion, **options)
    if spec.name == "evit":
        return EViTObjective(criterion, **options)
    if spec.name == "dynamicvit":
        if teacher is None:
            raise ValueError("dynamicvit is trained with a teacher")
        ratios = [built.native["ratio"] ** (stage + 1) for stage in range(len(built.model.reducers))]
        return DynamicViTObjective(criterion, teacher(), ratios, **options)
    return Objective(criterion)


def reduce(vit: nn.Module, spec: str, budget: float | None = None, img_size: int | None = None) -> ReducedViT:
    """A timm model, reduced: `reduce(timm.create_model("deit_small_patch16_224"), "evit:keep=0.7")`."""
    return build(vit, _parse_one(spec), budget, img_size).model
