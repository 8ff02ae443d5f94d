"""What the records of `bench` come to: how much of the MAC ratio arrives, and from where on a reducer pays.

Only what was measured is said: between two sizes, and beyond them, nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = ["break_even", "headlines", "headline_lines"]

SAME = ("backbone", "task", "window", "device_name", "dtype", "mode", "num_threads")  # of what is said together
SIZES = {"batch_size": ("batch", "{}", "img_size"), "img_size": ("image size", "{} px", "batch_size")}

Record = dict[str, Any]


def headlines(records: Iterable[Record]) -> list[Record]:
    """For each setting but for sizes, and each variant but the dense one: `arrives`, the speedup over the MAC ratio at
    each size; `break_even` along batch and image size, see there; `reducers` and `kernel`, as the records have them."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.get(key) for key in SAME), []).append(record)
    found = []
    for setting, same in groups.items():
        ordered = sorted(same, key=lambda record: (record["img_size"], record["batch_size"]))
        rows: dict[str, list[Record]] = {}
        for record in ordered:
            sizes = {key: record[key] for key in SIZES}
            for row in record["variants"]:
                if row["variant"] != record["dense"] and row["ratio"]["median"] is not None:
                    rows.setdefault(row["variant"], []).append(sizes | row)
        variants = [{"variant": name} | of_variant(own) for name, own in rows.items()]
        found.append({key: value for key, value in zip(SAME, setting, strict=True)} | {"variants": variants})
    return found


def of_variant(rows: Sequence[Record]) -> Record:
    def said(key: str, of: str) -> list[Record]:
        return [{size: row[size] for size in SIZES} | {key: row.get(of)} for row in rows if row.get(of) is not None]

    return {
        "arrives": said("share", "speedup_per_mac_ratio"),
        "break_even": {size: along(size, rows) for size in SIZES},
        "reducers": said("time", "reducers"),
        "kernel": said("kernel", "kernel"),
    }


def along(size: str, rows: Sequence[Record]) -> list[Record]:
    """`break_even` over one size, for each value of the other."""
    fixed = SIZES[size][2]
    found = []
    for at in sorted({row[fixed] for row in rows}):
        ratios = {row[size]: row["ratio"] for row in rows if row[fixed] == at}
        found.append({fixed: at, "measured": sorted(ratios)} | break_even(ratios))
    return found


def break_even(ratios: dict[int, Record]) -> Record:
    """From a ratio to dense with its interval at each size: `slower_up_to`, the largest at which the whole interval is
    below 1, and `faster_from`, the smallest from which on all intervals are above it; None where there is none."""
    sizes, slower, faster = sorted(ratios), None, None
    for size in sizes:
        if ratios[size].get("high") is not None and ratios[size]["high"] < 1:
            slower = size
    for size in reversed(sizes):
        if ratios[size].get("low") is None or ratios[size]["low"] <= 1:
            break
        faster = size
    return {"slower_up_to": slower, "faster_from": faster}


def headline_lines(found: Iterable[Record]) -> Iterator[str]:
    """A line for each variant of each setting."""
    for setting in found:
        if not setting["variants"]:
            continue
        words = [setting["backbone"], setting["dtype"], setting["mode"] or "eager", setting["device_name"]]
        yield f"headlines: {', '.join(words)}, {setting['num_threads']} threads"
        for one in setting["variants"]:
            parts = [_arrives(one["arrives"]), *map(_break_even, SIZES, one["break_even"].values())]
            parts += [_reducers(one["reducers"]), _kernel(one["kernel"])]
            yield f"  {one['variant']}: {'; '.join(filter(None, parts))}"


def _at(row: Record) -> str:
    return f"{row['img_size']} px, batch {row['batch_size']}"


def _arrives(rows: Sequence[Record]) -> str:
    ordered = sorted(rows, key=lambda row: row["share"])
    ends = ordered[:1] + ordered[1:][-1:]
    shares = " and ".join(f"{row['share']:.0%} ({_at(row)})" for row in ends)
    return f"{shares} of the MAC ratio arrive" + ("" if len(ends) > 1 else "s")


def _break_even(size: str, found: Sequence[Record]) -> str:
    name, unit, fixed = SIZES[size]
    return f"break-even {name}: " + ", ".join(
        f"{_where(one, unit)} at {SIZES[fixed][1].format(one[fixed]) if fixed == 'img_size' else f'batch {one[fixed]}'}"
        for one in found
    )


def _where(one: Record, unit: str) -> str:
    slower, faster = one["slower_up_to"], one["faster_from"]
    if slower is not None and faster is not None:
        return f"{unit.format(faster)} (slower up to {unit.format(slower)})"
    if faster is not None:
        return f"none measured (faster from {unit.format(faster)} on)"
    if slower is not None:
        return f"none measured (slower up to {unit.format(slower)})"
    return "none measured (not told apart)"


def _reducers(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    return "reducers take " + ", ".join(
        f"{row['time']['ms']['median']:.2f} ms, {row['time']['share']:.1%} of a pass ({_at(row)})"
        for row in (*rows[:1], *rows[1:][-1:])
    )


def _kernel(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    lost = [row["kernel"] for row in rows if not row["kernel"]["kept"]]
    if not lost:
        return f"attention kernel kept ({rows[0]['kernel']['backend']})"
    return f"attention kernel lost ({lost[0]['backend']}): {lost[0]['why']}"
