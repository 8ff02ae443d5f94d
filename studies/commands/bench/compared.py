"""Two timings of the same settings against each other: what is faster, and what is not told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.records.store import read_result
from studies.commands.bench.asked import BEST

__all__ = ["compare", "compared_lines"]

SETTING = ("backbone", "task", "window", "img_size", "batch", "dtype", "mode", "num_threads", "loader")
NOISY, FASTER, SLOWER, ALIKE = "too noisy to tell", "faster", "slower", "not told apart"
WHAT = {"images_per_s": "images/s, A / B", "speedup": "speedup over dense, A / B"}

Record = dict[str, Any]


def compare(a: Path, b: Path, across: bool = False) -> Record:
    """Of each setting and variant that both have: images/s of A over those of B, and the same of the speedup over
    dense, each with the 95 % interval that rounds leave and what it says of A. A difference between sessions (clock,
    neighbours) is in the first, and cancels in the second.

    Raises ValueError, FileNotFoundError, CorruptRecord: no record, no setting in common, or another device, unless
    `across`."""
    first, second = records_of(a), records_of(b)
    shared = [key for key in first if key in second]
    if not shared:
        said = "; ".join(f"{path}: {', '.join(map(words, found))}" for path, found in ((a, first), (b, second)))
        raise ValueError(f"{a} and {b} have no setting in common ({said})")
    devices = [sorted({found[key]["device_name"] for key in shared}) for found in (first, second)]
    if devices[0] != devices[1] and not across:
        named = " and ".join(f"{path} on {', '.join(names)}" for path, names in zip((a, b), devices, strict=True))
        raise ValueError(f"other devices: {named}; --across-devices compares them all the same")
    return {
        "a": about(a, [first[key] for key in shared]),
        "b": about(b, [second[key] for key in shared]),
        "settings": [of_setting(key, first[key], second[key]) for key in shared],
    }


def records_of(path: Path) -> dict[tuple, Record]:
    """By setting; of several of one setting the newest. `path`: a folder of `bench --out`, that of a record, or a
    record."""
    files = [path] if path.is_file() else [*path.glob("result.json"), *sorted(path.glob("speed/*/result.json"))]
    if not files:
        raise ValueError(f"{path} holds no record of bench; give a folder of `bench --out`, or one in its speed/")
    found: dict[tuple, Record] = {}
    for record in sorted(map(read_result, files), key=lambda record: record["provenance"]["finished"]):
        if not {"mode", "samples_s"} <= record.keys() | record["variants"][0].keys():
            raise ValueError(f"{path} holds a record without samples or mode, made before they were kept")
        batch = BEST if "batch_search" in record else record["batch_size"]
        found[tuple((record | {"batch": batch}).get(key) for key in SETTING)] = record
    return found


def about(path: Path, records: list[Record]) -> Record:
    """What is said of one side."""
    origins = [record["provenance"] for record in records]
    return {
        "path": str(path),
        "device_name": ", ".join(sorted({record["device_name"] for record in records})),
        "torch": ", ".join(sorted({origin["packages"].get("torch", "unknown") for origin in origins})),
        "commit": ", ".join(sorted({str(origin.get("commit"))[:10] for origin in origins})),
        "finished": max(origin["finished"] for origin in origins),
    }


def of_setting(key: tuple, a: Record, b: Record) -> Record:
    others = {row["variant"]: row for row in b["variants"]}
    noisy = not all(record.get("self_check", {"quiet": True})["quiet"] for record in (a, b))
    rows = [
        {"variant": row["variant"]} | of_variant(row, others[row["variant"]], a, b, noisy)
        for row in a["variants"]
        if row["variant"] in others
    ]
    batches = {"batch_size": [a["batch_size"], b["batch_size"]]}
    return dict(zip(SETTING, key, strict=True)) | batches | {"noisy": noisy, "variants": rows}


def of_variant(own: Record, other: Record, a: Record, b: Record, noisy: bool) -> Record:
    """A / B of both figures; None where one of the two was not timed."""
    from studies.measure.speed_record import median_ratio

    def judged(first: list[float] | None, second: list[float] | None) -> Record | None:
        if not first or not second:
            return None
        ratio = median_ratio(first, second)
        return ratio | {"verdict": NOISY if noisy else verdict(ratio)}

    rates = [[record["batch_size"] / s for s in row["samples_s"]] if timed(row) else None for row, record in
             ((own, a), (other, b))]  # fmt: skip
    speedups = [speedups_of(row, record) for row, record in ((own, a), (other, b))]
    return {"images_per_s": judged(*rates), "speedup": judged(*speedups)}


def timed(row: Record) -> bool:
    return row["images_per_s"]["median"] is not None


def speedups_of(row: Record, record: Record) -> list[float] | None:
    """Round by round; None of the dense model itself."""
    dense = next(other for other in record["variants"] if other["variant"] == record["dense"])
    if row["variant"] == record["dense"] or not (timed(row) and timed(dense)):
        return None
    return [of / own for of, own in zip(dense["samples_s"], row["samples_s"], strict=True)]


def verdict(ratio: dict[str, Any]) -> str:
    """What the interval of A / B says of A."""
    if ratio["low"] is None or ratio["low"] <= 1 <= ratio["high"]:
        return ALIKE
    return FASTER if ratio["low"] > 1 else SLOWER


def words(setting: tuple) -> str:
    """A setting as a reader has it."""
    backbone, task, window, img_size, batch, dtype, mode, threads, loader = setting
    more = [f", window {window}"] * (window is not None) + [f", beside the loader of {loader}"] * (loader is not None)
    return f"{backbone}, {task}, {img_size} px, batch {batch}, {dtype}, {mode}, {threads} threads{''.join(more)}"


def compared_lines(found: Record) -> Iterator[str]:
    """What a person reads of `compare`."""
    for side in ("a", "b"):
        one = found[side]
        yield (
            f"{side.upper()}: {one['path']}, {one['device_name']}, torch {one['torch']}, commit {one['commit']}, "
            f"{one['finished']}"
        )
    judged = 0
    for setting in found["settings"]:
        yield ""
        yield words(tuple(setting[key] for key in SETTING)) + "; median [95 % interval]"
        if setting["noisy"]:
            yield "a self-check found the machine too noisy"
        rows = [[row["variant"], *(_cell(row[key]) for key in WHAT)] for row in setting["variants"]]
        judged += sum(row[key] is not None for row in setting["variants"] for key in WHAT)
        table = [["variant", *WHAT.values()], *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        yield from ("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in table)
    yield ""
    yield (
        f"{judged} comparisons: of 20 that are alike one is told apart by chance. Intervals are over the rounds of one "
        "session each; what differs between sessions, such as the clock, is in images/s and cancels in the speedup."
    )


def _cell(ratio: Record | None) -> str:
    if ratio is None:
        return "-"
    ends = "no interval" if ratio["low"] is None else f"{ratio['low']:.3f}, {ratio['high']:.3f}"
    return f"{ratio['median']:.3f} [{ends}] {ratio['verdict']}"
