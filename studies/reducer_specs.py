"""The names of the reducers and their options, as they are written: `cropr:llf=true,queries=4`.

METHODS is the one table of names. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.nearest import nearest

__all__ = ["FUSION", "METHODS", "Method", "Spec", "parse", "parse_one"]

Converter = Callable[[str], Any]  # text of an option -> its value; ValueError if it is none


def ints(text: str) -> tuple[int, ...]:
    """Block indices written 3/6/9."""
    return tuple(int(part) for part in text.split("/"))


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def eval_mode(text: str) -> str:
    if text not in ("topk", "masked"):
        raise ValueError(text)
    return text


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
    scoring: Mapping[str, Converter] = field(default_factory=dict)
    learns: bool = False  # has weights of its own: off the shelf it would choose at random
    version: int = 1  # part of the name of a run: raise it when the method computes something else

    @property
    def options(self) -> dict[str, Converter]:
        return {**self.place, **self.objective, **self.model, **self.scoring}


_MODULES: dict[str, Converter] = {"rate": float, "ratio": float, "first_extra": int}
FUSION: dict[str, Converter] = {"llf": boolean, "fusion": str}  # what becomes of dropped patches; llf=true: fusion=llf
METHODS: dict[str, Method] = {
    "none": Method("", "the dense model, fine-tuned like the others", ()),
    "random": Method(
        "baselines.random_pruning",
        "patches leave at random, on Cropr's schedule",
        ("rate", "ratio"),
        _MODULES,
        {"curriculum": boolean},
        FUSION,
        version=2,
    ),
    "cropr": Method(
        "cropr.cropr",
        "cross-attention pruning with auxiliary heads",
        ("rate", "ratio"),
        _MODULES
        | {"queries": int, "heads": int, "q_proj": boolean, "k_proj": boolean, "v_proj": boolean, "pre_norm": boolean}
        | {"mlp": boolean, "mlp_ratio": float, "detach": boolean, "select": str},
        {"weight": float, "curriculum": boolean},
        FUSION,
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
        FUSION,
    ),
    "dynamicvit": Method(
        "baselines.dynamicvit",
        "learned predictors, with a teacher",
        ("ratio",),
        {"ratio": float, "blocks": ints},
        {"ratio_weight": float, "distill_weight": float, "token": str, "batch_mean": boolean},
        {**FUSION, "policy": str},
        {"eval_mode": eval_mode},
        learns=True,
        version=2,
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
    specs = [parse_one(piece.strip()) for piece in pieces]
    if twice := {str(spec) for spec in specs if specs.count(spec) > 1}:
        raise ValueError(f"reducer named twice: {', '.join(sorted(twice))}")
    return specs


def parse_one(text: str) -> Spec:
    """One spec. Raises ValueError."""
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
