"""`list`: the names that options take, as plain values and for a reader."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator
from typing import Any

from cropr.method import Method
from cropr.nearest import nearest, one_of
from studies.catalogue import Study, studies
from studies.catalogue.own import find_study

__all__ = ["names", "reads", "show"]

HEADER = ("name", "role", "summary", "options")
TEXTS = (
    "summary", "claim", "source", "command", "expected", "seen", "time", "values", "task", "reducers", "budgets",
)  # fmt: skip
KINDS = ["reducers", "studies", "datasets", "backbones"]


def names(what: str, pattern: str | None = None) -> dict[str, dict[str, Any]]:
    """Name -> what there is to say of it; of `backbones` the embedded ones, or all that match a `pattern` such as
    "deit*". Raises ValueError."""
    one_of("list", what, KINDS)
    if what == "reducers":
        return _reducers(pattern)
    if pattern is not None and what == "studies":
        study = find_study(pattern)
        return {study.name: _study(study)}
    if pattern is not None and what != "backbones":
        raise ValueError(f"a pattern chooses backbones, not {what}")
    if what == "backbones":
        return _backbones(pattern)
    if what == "studies":
        return {name: _study(study) for name, study in studies().items()}
    from studies.data.datasets import datasets

    return {
        name: {"summary": entry.summary, "tasks": list(entry.tasks), "splits": entry.splits, "folder": entry.folder}
        for name, entry in datasets().items()
    }


def _study(study: Study) -> dict[str, Any]:
    question = None if study.question is None else study.question.record()
    return {**{key: getattr(study, key) for key in TEXTS}, "question": question}


def _reducers(name: str | None) -> dict[str, dict[str, Any]]:
    from studies.models import given
    from studies.models.methods import builtin, known

    if name is None:
        return {key: described(cls) for key, cls in known().items()}
    cls = known().get(name) or given.find(name)
    if cls is None:
        raise ValueError(nearest("reducer", name, builtin()))
    return {name: described(cls)}


def described(cls: type[Method]) -> dict[str, Any]:
    """All that a declaration says, in plain values."""
    options = {
        name: {
            "default": option.default,
            "dense_default": option.default_for(True),
            "shown": option.shown,
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
    """Print `names`: a table on a terminal, plain lines elsewhere; of a single reducer a page."""
    if what in ("reducers", "studies") and len(found) == 1:
        name, entry = next(iter(found.items()))
        lines = page(name, entry) if what == "reducers" else [name, *(f"  {k:<10}{v}" for k, v in entry.items() if v)]
        print("\n".join(lines))
        return
    rows = list(_rows(found))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in HEADER if what == "reducers" else ("name", ""):
            table.add_column(column)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    else:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if what == "reducers":
        print("Options, paper and what a method needs: list reducers NAME; your own file: list reducers ./FILE.py")
    if what == "backbones":
        print("Others: list backbones 'deit*'; any VisionTransformer or Eva of timm, or NAME=FILE for a checkpoint.")


def page(name: str, entry: dict[str, Any]) -> list[str]:
    """The lines of `list reducers NAME`, and of the page of methods in the docs."""
    kept = "stays fused" if entry["fused_attention"] else "leaves the fused kernel in training"
    facts = {
        "paper": ", ".join(filter(None, (entry["paper"], entry["licence"] and f"release: {entry['licence']}"))),
        "role": entry["role"] + (" (reads the labels: no method)" if entry["reads_labels"] else ""),
        "learns": entry["learns"] or "nothing",
        "needs": ", ".join(entry["needs"]) or "any supported model",
        "reads": reads(entry),
        "place": "inside its block, before the MLP" if entry["inside_block"] else "behind its block",
        "attention": kept, "version": str(entry["version"]),
    }  # fmt: skip
    lines = [f"{name}: {entry['summary']}", *(f"  {key:<10}{text}" for key, text in facts.items() if text), "options"]
    for option, value in entry["options"].items():
        lines += [f"  {option} ({value['type']}; default: {value['shown']})", f"      {value['meaning']}"]
    return lines if entry["options"] else lines[:-1]


def reads(entry: dict[str, Any]) -> str:
    """What a reducer reads, in words."""
    if not entry["taps"]:
        return "the tokens"
    if not entry["inside_block"]:
        return "what the MLP of its block adds"
    return ", ".join(entry["taps"]) + " of its block's attention"


def _rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name, entry in found.items():
        if "options" in entry:
            yield name, entry["role"], entry["summary"], ", ".join(entry["options"])
        else:
            serves = [f"({', '.join(entry['tasks'])})"] if "tasks" in entry else []
            needs = [f"with --data {entry['folder']}"] if entry.get("folder") else []
            text = entry["summary"] if "summary" in entry else _architecture(entry)
            yield name, " ".join([", ".join([text, *needs]), *serves])


def _architecture(entry: dict[str, Any]) -> str:
    size = "{class} {img_size} px, patch {patch_size}, width {embed_dim}, depth {depth}, {num_heads} heads".format(
        **entry
    )
    return f"{size}, {'pretrained by timm' if entry['pretrained'] else entry['kind']}"
