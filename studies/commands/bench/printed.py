"""What a person reads of the records of `bench`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from results.figures.numbers import Unit, macs_unit
from studies.commands.bench.headlines import headline_lines, headlines
from studies.commands.bench.loaded import loader_lines

__all__ = ["check_lines", "lines"]

HEADER = [
    "variant", "{}", "of linear layers", "MAC ratio", "images/s", "latency at batch 1, ms", "speedup",
    "its median, 95 %", "speedup / MAC ratio", "x random on the same schedule",
]  # fmt: skip
WHOLE = ["whole images/s", "whole speedup"]
LOADED = ["with the loader, images/s", "its speedup", "limited by"]
ENERGY = ["J/image", "W"]
RANK = ["rank"]


def lines(records: list[dict[str, Any]]) -> Iterator[str]:
    """What a person reads: for each record its setting, a table of its variants, and what is flagged; then what they
    come to."""
    for record in records:
        yield from _setting(record)
        whole, ranked = "whole" in record, any(row.get("rank") for row in record["variants"])
        unit = macs_unit(row["macs_g"]["total"] for row in record["variants"])
        if whole:
            yield from _about_whole(record, unit)
        loaded, energy = "end_to_end" in record, record.get("energy", {}).get("measured", False)
        titles = HEADER + WHOLE * whole + LOADED * loaded + ENERGY * energy + RANK * ranked
        header = [title.format(unit.name) for title in titles]
        if "self_check" in record:
            yield from check_lines([record["self_check"]])
        table = [
            header,
            *(
                _cells(row, whole, unit)
                + _loaded(row) * loaded
                + _energy(row) * energy
                + [f"{row.get('rank') or '-'}"] * ranked
                for row in record["variants"]
            ),
        ]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        for row in table:
            cells = [
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            ]
            yield "  ".join(cells).rstrip()
        if loaded:
            yield from loader_lines(record)
        yield from (f"{row['variant']}: {flag}" for row in record["variants"] for flag in row["flags"])
        yield from (f"{row['variant']}: unreachable, floor {row['floor']:.3f}" for row in record["unreachable"])
        yield ""
    yield from headline_lines(headlines(records))


def check_lines(checks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Whether a difference of 5 % would be seen."""
    for check in checks:
        seen = f"quiet enough to see {check['band']:.0%}" if check["quiet"] else "too noisy to rank"
        yield f"self-check, {check['dtype']}, {check['num_threads']} threads: {seen}: {check['why']}"


def _setting(record: dict[str, Any]) -> Iterator[str]:
    mode = "" if record["mode"] == "eager" else f", {record['mode']}"
    count = record["num_threads"]
    threads = "" if record["device"] == "cuda" else f", {count} thread{'s' * (count > 1)}"
    yield (
        f"{record['backbone']}, {record['img_size']} px, batch {record['batch_size']} ({record['scenario']}), "
        f"{record['dtype']}{mode}, {record['device_name']}{threads}, {record['rounds']} interleaved rounds"
        f"{_why(record)}; median [5th, 95th percentile]"
    )
    if loader := record.get("end_to_end"):
        by = f"{loader['workers']} workers" if loader["workers"] else "this process"
        yield (
            f"end to end: {loader['num_items']:,} test images of {loader['dataset']} by {by}, decoded, transformed and "
            f"transferred: {_spread(loader['images_per_s'], 1)} images/s alone"
        )
    if not record.get("energy", {"measured": True})["measured"]:
        yield f"energy: not measured ({record['energy']['why']})"
    if search := record.get("batch_search"):
        rates = ", ".join(f"{number:.1f} at {batch}" for batch, number in search["images_per_s"].items())
        yield f"batch {record['batch_size']} is the best of {search['variant']}: images/s {rates}; {search['ended']}"


def _why(record: dict[str, Any]) -> str:
    """So many rounds."""
    known = f"every ratio was known to {100 * (record.get('precision') or 0):g} %"
    return {"precision": f" until {known}", "time": f", before {known}"}.get(record.get("stopped_by", ""), "")


def _about_whole(record: dict[str, Any], unit: Unit) -> Iterator[str]:
    """What stands behind the encoder, and how the whole was timed."""
    behind = record["variants"][0]["detector"]
    regions = f"{behind['num_proposals']:,} proposals and {behind['num_detections']} detections"
    yield (
        f"of the encoder; behind it pyramid {unit.text(behind['pyramid_macs_g'], 4)} and heads "
        f"{unit.text(behind['heads_macs_g'], 4)} {unit.name}, for {regions}"
    )
    yield f"whole: with pyramid, heads and what follows, batch 1, {regions} of an image, fixed as weights are random"


def _cells(row: dict[str, Any], whole: bool, unit: Unit) -> list[str]:
    macs, of_whole = row["macs_g"], row.get("whole") or {}
    figures = [_spread(of_whole.get("images_per_s"), 2), _spread(of_whole.get("ratio"), 3)]
    return [
        row["variant"], *("-" if cost is None else unit.text(cost, 4) for cost in (macs["total"], macs.get("linear"))),
        _fixed(row["mac_ratio"], 2), _spread(row["images_per_s"], 1), _spread(row["latency_ms"], 2),
        _spread(row["ratio"], 3), _interval(row["ratio"], 3), _fixed(row["speedup_per_mac_ratio"], 3),
        _spread(row["ratio_to_random"], 3), *(figures if whole else []),
    ]  # fmt: skip


def _loaded(row: dict[str, Any]) -> list[str]:
    both = row.get("end_to_end")
    if both is None:
        return ["-"] * len(LOADED)
    return [_spread(both["images_per_s"], 1), _spread(both["ratio"], 3), both["limited_by"]]


def _energy(row: dict[str, Any]) -> list[str]:
    own = row.get("energy") or {}
    return [_fixed(own.get("j_per_image"), 4), _fixed(own.get("watts"), 1)]


def _fixed(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _spread(value: dict[str, Any] | None, decimals: int) -> str:
    if value is None or value["median"] is None:
        return "-"
    median, p5, p95 = (f"{value[key]:.{decimals}f}" for key in ("median", "p5", "p95"))
    return f"{median} [{p5}, {p95}]"


def _interval(value: dict[str, Any], decimals: int) -> str:
    """Of the median; of few rounds there is none."""
    if value.get("low") is None:
        return "-"
    return f"{value['low']:.{decimals}f} to {value['high']:.{decimals}f}"
