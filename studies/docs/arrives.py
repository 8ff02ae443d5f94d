"""How much of what the arithmetic promises arrives, in docs/speed.md: the records of `bench` in one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from results.figures.numbers import NOTHING
from studies.commands.bench.headlines import SIZES, headlines
from studies.docs.rows import head, line
from studies.measure.modes import COMPILED
from studies.models.methods import ALL, parse
from studies.tasks import TASKS

__all__ = ["arrives"]

BUDGET = 0.5
AIMS = {"eager": 0.9, "compiled": 0.95}  # of the MAC ratio, at least
SETTING = ("backbone", "task", "window", "img_size", "dtype", "mode", "batch_size", "device_name", "num_threads")
ABOUT = (
    f"Speedup over MAC ratio of the standard reducers at {BUDGET:g} of the MACs, 1 where all that the arithmetic "
    "promises arrives: median of the rounds, of the newest record of a setting. Bold: below what is aimed at, "
    f"{AIMS['eager']:.2f} as the model stands (eager) and {AIMS['compiled']:.2f} compiled."
)

Record = dict[str, Any]


def arrives(records: Iterable[Record]) -> list[str]:
    """Lines of Markdown; none without records of the standard reducers."""
    kept = [record for record in newest(records) if any(shares(record).values())]
    if not kept:
        return []
    names = list(dict.fromkeys(name for record in kept for name in shares(record)))
    titles = ["model", "batch", "dtype", "mode", *(f"`{name}`" for name in names)]
    lines = [ABOUT, "", *head(*titles)]
    below, told = 0, 0
    for record in kept:
        found, aim = shares(record), AIMS["compiled" if record["mode"] in COMPILED else "eager"]
        told += sum(share is not None for share in found.values())
        below += sum(share is not None and share < aim for share in found.values())
        model = f"{record['backbone']}, {record['img_size']} px, {record['task']}"
        cells = (cell(found.get(name), aim) for name in names)
        lines.append(line(model, str(record["batch_size"]), record["dtype"], record["mode"], *cells))
    return [*lines, "", f"{below} of {told} are below.", *break_even_lines(kept)]


def newest(records: Iterable[Record]) -> list[Record]:
    """Of each setting, in an order to read."""
    oldest_first = sorted(records, key=lambda record: record["provenance"]["finished"])
    found = {tuple(record.get(key) for key in SETTING): record for record in oldest_first}
    return sorted(
        found.values(),
        key=lambda r: (r["backbone"], r["img_size"], r["task"], r["dtype"] != "float32", r["dtype"],
                       r["mode"] != "eager", r["mode"], r["batch_size"]),
    )  # fmt: skip


def standard(task: str) -> dict[str, str]:
    """Name -> the variant of it."""
    methods = [method for method in parse(ALL, TASKS[task].dense) if method.takes_budget]
    return {method.name: f"{method}@{BUDGET:g}" for method in methods}


def shares(record: Record) -> dict[str, float | None]:
    """By reducer."""
    rows = {row["variant"]: row["speedup_per_mac_ratio"] for row in record["variants"]}
    return {name: rows.get(variant) for name, variant in standard(record["task"]).items()}


def cell(share: float | None, aim: float) -> str:
    if share is None:
        return NOTHING
    return f"**{share:.2f}**" if share < aim else f"{share:.2f}"


def break_even_lines(records: Sequence[Record]) -> Iterator[str]:
    """Where more than one size was measured: at which of them a reducer is slower than dense."""
    lines = []
    for setting in headlines(records):
        variants = {variant: name for name, variant in standard(setting["task"]).items()}
        said: dict[str, list[str]] = {}
        for one in setting["variants"]:
            for size, found in one["break_even"].items():
                for at in found:
                    if len(at["measured"]) > 1 and one["variant"] in variants:
                        said.setdefault(place(size, at), []).append(f"`{variants[one['variant']]}`")
        where = f"{setting['backbone']}, {setting['task']}, {setting['dtype']}, {setting['mode']}"
        lines += [f"* {where}, {text}: {', '.join(names)}" for text, names in said.items()]
    if lines:
        yield from (
            "",
            "Break-even, where several sizes were measured, by the 95 % intervals of the speedup over dense:",
            "",
        )
        yield from lines


def place(size: str, at: Record) -> str:
    """Along one size, at a value of the other."""
    name, unit, fixed = SIZES[size]
    other = SIZES[fixed][1].format(at[fixed]) if fixed == "img_size" else f"batch {at[fixed]}"
    measured = " and ".join(unit.format(value) for value in at["measured"])
    slower, faster = at["slower_up_to"], at["faster_from"]
    if faster == at["measured"][0]:
        found = "faster at each"
    elif slower is not None and faster is not None:
        found = f"break-even between {unit.format(slower)} and {unit.format(faster)}"
    elif slower is not None:
        found = f"slower up to {unit.format(slower)} at least"
    elif faster is not None:
        found = f"faster from {unit.format(faster)} on, below it not told apart"
    else:
        found = "not told apart"
    return f"{other}, {name} {measured}: {found}"
