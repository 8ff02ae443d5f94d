"""The methods by name: those of the project, found by their files, and those that a user gives (see given.py).

A spec is a name with options, `cropr:rest=llf,queries=4`; `all` is the dense model and the standard five, `every` all
but controls.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import import_module
from typing import Any

from cropr.method import Method
from cropr.nearest import nearest
from studies.models import given

__all__ = ["ALL", "GROUPS", "ORDER", "builtin", "facts", "known", "parse", "parse_one", "reference"]

ALL = "all"
GROUPS: dict[str, Callable[[type[Method]], bool]] = {  # what one name stands for
    ALL: lambda cls: cls.standard,
    "every": lambda cls: cls.role != "control",
}
FILES = ("cropr.cropr",)  # beside all files of these packages, and of those below them
PACKAGES = ("baselines",)
ORDER = ("dense", "random", "method", "control")  # of roles, in lists


@cache
def builtin() -> dict[str, type[Method]]:
    """The project's own, the dense model first, controls last."""
    names = list(FILES)
    for package in map(import_module, PACKAGES):
        names += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if not m.ispkg]
    found = [cls for name in names for cls in given.declared(import_module(name))]
    return {cls.name: cls for cls in sorted(found, key=_place)}


def _place(cls: type[Method]) -> tuple[object, ...]:
    return ORDER.index(cls.role), not cls.standard, cls.name


def known() -> dict[str, type[Method]]:
    """All that a spec may name now."""
    return builtin() | given.METHODS


def reference() -> type[Method]:
    """The dense model, which the others are compared with."""
    return next(iter(builtin().values()))


def facts(method: Method) -> dict[str, Any]:
    """What a record says of a method."""
    about = {"label": method.label, "summary": method.summary(), "paper": method.paper}
    return {
        "reducer": method.known_as,
        "options": method.given,
        "label": method.title,
        "role": method.role,
        "rest": method.rest,
        "method": about | {"no_method": method.reads_labels},
    }


def parse(text: str, dense: bool = False) -> list[Method]:
    """Specs separated by commas; `a=b` after a spec is a further option of it. `dense`: for logits of every pixel.
    Raises ValueError."""
    pieces: list[str] = []
    for part in text.split(","):
        continues = pieces and "=" in part and ":" not in part
        pieces = [*pieces[:-1], f"{pieces[-1]},{part}"] if continues else [*pieces, part]
    methods: list[Method] = []
    for piece in map(str.strip, pieces):
        methods += _group(piece, dense) if piece in GROUPS else [parse_one(piece, dense)]
    names = [str(method) for method in methods]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"reducer named twice: {', '.join(sorted(twice))}")
    return methods


def _group(name: str, dense: bool) -> Iterable[Method]:
    return [cls(dense=dense) for cls in builtin().values() if GROUPS[name](cls)]


def parse_one(text: str, dense: bool = False, load: bool = True) -> Method:
    """One spec; a file (./mine.py), a module (package.module) or an entry point is loaded, unless not `load`. Raises
    ValueError."""
    name, colon, rest = text.partition(":")
    cls = known().get(name) or (given.find(name) if load else None)
    if cls is None:
        if "#" in name:
            raise ValueError(
                f"the method {name} is a user's own file; running it runs its code, so that a record's word is not "
                "enough: give the file again, --reducers ./FILE.py or --method ./FILE.py"
            )
        raise ValueError(
            nearest("reducer", name, [*(key for key in known() if "#" not in key), *given.offered(), *GROUPS])
        )
    options = rest.split(",") if colon else []
    if "" in options:
        raise ValueError(f"{text!r} has an empty option; options are written {name}:key=value,key=value")
    values = dict(item.partition("=")[::2] for item in options)
    keys = [item.partition("=")[0] for item in options]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{name}: option given twice: {', '.join(sorted(twice))}")
    with given.blamed(cls):
        return cls.parse(values, dense).resolved(partial(parse_one, load=load))
