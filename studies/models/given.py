"""Methods of a user's own: a file, a module, or an installed package with an entry point of the group GROUP.

Loading one runs its code. So it happens only where the user names it, never because a record does; a job of the same
command carries what was named, and loads the copy beside the records, whose digest must be the one that was named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cropr.method import Method
from results.records.files import path_of

if TYPE_CHECKING:
    from cropr.tokens import Tokens
    from studies.models.reducers import Built

__all__ = [
    "GROUP",
    "METHODS",
    "Origin",
    "approved",
    "blamed",
    "declared",
    "find",
    "give",
    "keep_copies",
    "place_of",
    "try_out",
]

GROUP = "cropr_study.methods"
METHODS: dict[str, type[Method]] = {}  # those given in this process, by `name#digest`
SETTING = ("dense", "seed", "other")  # fields of Method that are no options
DIGEST = 8  # hexadecimal digits
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a method came from: what the user named, its file, and the digest of that file."""

    source: str
    file: Path
    digest: str


def declared(module: ModuleType) -> list[type[Method]]:
    """The methods that a module ends in: subclasses with a name of their own."""
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method)]
    return [c for c in found if c.__module__ == module.__name__ and "name" in vars(c)]


def find(name: str) -> type[Method] | None:
    """The method of a file, a module or an entry point; None where `name` looks like none. Raises ValueError."""
    if name.endswith(".py") or "/" in name or ("." in name and "#" not in name):
        return give(name)
    return give(name) if name in offered() else None


def offered() -> dict[str, str]:
    """What installed packages offer by the entry-point group: name -> module."""
    return {point.name: point.value.partition(":")[0] for point in metadata.entry_points(group=GROUP)}


def give(source: str, digest: str | None = None) -> type[Method]:
    """Load the method of `source` and make it known. `digest`: of the file that is expected.

    Raises ValueError with file, line and rule: it is missing, does not import, has no method or two, or another digest.
    """
    file, module_name = _located(source)
    own = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST]
    if digest is not None and own != digest:
        raise ValueError(f"{file} has changed since it was given: its digest is {own}, not {digest}")
    own_name = f"_given_{file.stem}_{hashlib.sha256(bytes(file)).hexdigest()[:4]}_{own}"
    module = _loaded(file, module_name or own_name, from_file=module_name is None)
    found = declared(module)
    if len(found) != 1:
        named = ", ".join(f"{c.__name__} (line {_line(c)})" for c in found) or "none"
        raise ValueError(
            f"{file}: a method is one file with one declaration, a subclass of cropr.method.Method that has a `name`; "
            f"found: {named}"
        )
    (cls,) = found
    _check_declaration(cls, file)
    cls.origin = Origin(source, file, own)
    METHODS[f"{cls.name}#{own}"] = cls
    return cls


def _located(source: str) -> tuple[Path, str | None]:
    """(file, name of its module; None: it is no part of a package). Raises ValueError."""
    if source.endswith(".py") or "/" in source:
        file = path_of(source)
        if not file.is_file():
            raise ValueError(f"the method {source} does not exist: no such file")
        return file.resolve(), None
    name = offered().get(source, source)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"the method {source} is no module that can be found ({name}); or give a file, ./NAME.py")
    return Path(spec.origin), name


def _loaded(file: Path, name: str, from_file: bool) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file) if from_file else importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        line = error.lineno if isinstance(error, SyntaxError) else _last_line_in(error, file)
        raise ValueError(f"{file}, line {line}: does not import: {type(error).__name__}: {error}") from None
    return module


def _check_declaration(cls: type[Method], file: Path) -> None:
    """Raise ValueError naming the line of what is no declaration."""
    from studies.models.methods import builtin

    where = f"{file}, line {_line(cls)}: {cls.__name__}"
    if not getattr(vars(cls).get("__dataclass_params__"), "frozen", False):
        raise ValueError(f"{where} is no frozen dataclass; put @dataclass(frozen=True, kw_only=True) above it")
    if not isinstance(cls.name, str) or not NAME.fullmatch(cls.name):
        raise ValueError(f"{where} has the name {cls.name!r}; valid: small letters, digits and _, a letter first")
    if cls.name in builtin():
        raise ValueError(f"{where} has the name {cls.name!r}, which is one of the project's own; give it another")
    if not isinstance(getattr(cls, "label", None), str):
        raise ValueError(f"{where} has no label, its name in tables and figures")
    if cls.place is Method.place:
        raise ValueError(f"{where} has no place(vit, num_patches), which says where its reducers are")
    extra = [f.name for f in dataclasses.fields(cls) if f.name not in SETTING and not f.metadata]
    if extra:
        raise ValueError(f"{where}: the field {extra[0]} is no option; make it with cropr.method.option")
    try:
        cls.options()
    except (TypeError, NameError) as error:
        raise ValueError(f"{where}: {error}") from None


def approved(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(source, digest) of the given methods among specs, for a job: what the user has named in this process."""
    wanted = {name.partition(":")[0] for name in names if "#" in name.partition(":")[0]}
    if missing := sorted(wanted - METHODS.keys()):
        raise ValueError(f"the method {missing[0]} is a user's own file: give it again, --method ./FILE.py")
    return tuple(_copy_of(METHODS[name]) for name in sorted(wanted))


def _copy_of(cls: type[Method]) -> tuple[str, str]:
    """Source and digest; a file is named by that of its copy, see `keep_copies`."""
    origin: Origin = cls.origin
    is_module = not (origin.source.endswith(".py") or "/" in origin.source)
    return (origin.source if is_module else f"methods/{cls.name}-{origin.digest}.py"), origin.digest


def keep_copies(names: Iterable[str], out: Path) -> None:
    """Copy the files of the given methods among specs into the record directory. Raises ValueError, OSError."""
    from results.records.files import write_bytes

    for source, digest in approved(names):
        if source.startswith("methods/") and not (out / source).exists():
            (out / "methods").mkdir(exist_ok=True)
            cls = next(cls for name, cls in METHODS.items() if name.endswith(f"#{digest}"))
            write_bytes(out / source, cls.origin.file.read_bytes())


@contextmanager
def blamed(cls: type[Method]) -> Iterator[None]:
    """What goes wrong in a given method is a ValueError with its file and line."""
    origin: Origin | None = getattr(cls, "origin", None)
    try:
        yield
    except Exception as error:
        line = None if origin is None else _last_line_in(error, origin.file)
        if origin is None or line is None or str(origin.file) in str(error):
            raise
        raise ValueError(f"{origin.file}, line {line}: {type(error).__name__}: {error}") from error


def try_out(built: Built) -> None:
    """Pass two images through a model of a given method. Raises ValueError with file, line and rule: an error, other
    counts than it declares, values that are no numbers."""
    origin: Origin | None = built.method.origin
    if origin is None:
        return
    import torch

    from cropr.reducer import observed

    model = built.model.eval()
    size = [n * p for n, p in zip(model.grid_size, model.vit.patch_embed.patch_size, strict=True)]

    def look(block: str, args: tuple, tokens: Tokens) -> None:
        i, reducer = int(block), model.reducers[block]
        seen, said = tokens.x.shape[1], model.token_counts()[i][2]
        where = f"{origin.file}, line {_line(type(reducer))}: {type(reducer).__name__} at block {i}"
        if seen != said:
            raise ValueError(f"{where} returns {seen} tokens, and its count_after says {said}")
        if not tokens.x.isfinite().all():
            raise ValueError(f"{where} returns values that are no numbers")

    watching = observed(dict(model.reducers.items()), look)
    with watching, torch.no_grad(), torch.random.fork_rng(devices=[]), blamed(type(built.method)):
        model(torch.randn(2, 3, *size))


def place_of(error: BaseException) -> str | None:
    """`mine.py, line 12` where an error was raised in, or below, a given method."""
    for cls in METHODS.values():
        origin: Origin = cls.origin
        if (line := _last_line_in(error, origin.file)) is not None:
            return f"{origin.file.name}, line {line}"
    return None


def _last_line_in(error: BaseException, file: Path) -> int | None:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return frames[-1].lineno if frames else None


def _line(cls: type) -> int:
    return inspect.getsourcelines(cls)[1]
