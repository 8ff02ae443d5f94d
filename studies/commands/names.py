"""`list`: the names that options take, as plain values and for a reader."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator
from typing import Any

from cropr.method import Method
from studies.commands.options import one_of

__all__ = ["names", "show"]

HEADER = ("name", "option", "default", "meaning")
KINDS = ["reducers", "studies", "datasets", "backbones"]


def names(what: str, pattern: str | None = None) -> dict[str, dict[str, Any]]:
    """Name -> what there is to say of it; of `backbones` the embedded ones, or all that match a `pattern` such as
    "deit*". Raises ValueError."""
    one_of("list", what, KINDS)
    if pattern is not None and what != "backbones":
        raise ValueError(f"a pattern chooses backbones, not {what}")
    if what == "reducers":
        return _reducers()
    if what == "backbones":
        return _backbones(pattern)
    from studies.data.datasets import DATASETS
    from studies.study import STUDIES

    table = {name: study.summary for name, study in STUDIES.items()} if what == "studies" else DATASETS
    return {name: {"summary": text} for name, text in table.items()}


def _reducers() -> dict[str, dict[str, Any]]:
    from studies.models.methods import known

    return {name: described(cls) for name, cls in known().items()}


def described(cls: type[Method]) -> dict[str, Any]:
    """All that a declaration says, in plain values."""
    options = {
        name: {
            "default": option.shown if option.default is None else option.default,
            "dense_default": option.default_for(True) if option.default is not None else option.shown,
            "type": option.valid,
            "choices": list(option.choices),
            "meaning": option.meaning,
            "sets_cost": option.sets_cost,
        }
        for name, option in cls.options().items()
    }
    reducer = cls.reducer
    return {
        "summary": cls.summary(), "label": cls.label, "role": cls.role, "paper": cls.paper, "licence": cls.licence,
        "version": cls.version, "standard": cls.standard, "learns": cls.learns, "needs": cls.needs(),
        "taps": list(reducer.taps) if reducer else [],
        "inside_block": bool(reducer and reducer.inside), "fused_attention": cls.fused_attention,
        "reads_labels": cls.reads_labels, "options": options,
    }  # fmt: skip


def _backbones(pattern: str | None) -> dict[str, dict[str, Any]]:
    from studies.models.backbones import EMBEDDED, describe

    if pattern is None:
        return {name: describe(name) for name in EMBEDDED}
    import timm

    found = {}
    for name in [*fnmatch.filter(EMBEDDED, pattern), *timm.list_models(pattern)]:
        try:
            found[name] = describe(name)
        except ValueError:  # not of the kinds that can be reduced
            continue
    if not found:
        raise ValueError(f"no backbone that can be reduced matches {pattern!r}; for example: deit*")
    return found


def show(what: str, found: dict[str, dict[str, Any]]) -> None:
    """Print `names`: a table on a terminal, plain lines elsewhere."""
    rows = list(_rows(found))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in HEADER if what == "reducers" else ("name", ""):
            table.add_column(column)
        for row in rows:
            table.add_row(*row, style="bold" if row[0] and what == "reducers" else "")
        Console().print(table)
    else:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if what == "backbones":
        print("Others: list backbones 'deit*'; any VisionTransformer or Eva of timm, or NAME=FILE for a checkpoint.")


def _rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name, entry in found.items():
        if "options" not in entry:
            yield name, entry.get("summary") or _architecture(entry)
            continue
        yield name, "", "", entry["summary"]
        for option, value in entry["options"].items():
            yield "", option, json.dumps(value["default"]).strip('"'), value["meaning"]


def _architecture(entry: dict[str, Any]) -> str:
    size = "{class} {img_size} px, patch {patch_size}, width {embed_dim}, depth {depth}, {num_heads} heads".format(
        **entry
    )
    return f"{size}, {'pretrained by timm' if entry['pretrained'] else entry['kind']}"
