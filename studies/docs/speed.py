"""docs/speed.md: what the kept records of speed say. Records of `bench --out` lie in docs/records/speed/NAME/, those of
the scripts of tests/benchmarks beside them, and those of GPUs in docs/records/gpu/DEVICE/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.figures.numbers import NOTHING
from results.records.files import read_json
from studies.docs.arrives import arrives
from studies.docs.rows import head, line
from studies.docs.steps import STEPS, steps_table

__all__ = ["RECORDS", "speed_page"]

RECORDS = Path(__file__).parents[2] / "docs" / "records"
HEAD = (
    "Made by `make docs` from the records in [docs/records](records). Random weights and images; all variants of a "
    "table run interleaved in one process, and ratios are of the same rounds: median [5th, 95th percentile]. "
    "**speedup**: throughput over the dense model's; **of the MACs**: speedup over dense MACs / own MACs, 1 where all "
    "that the arithmetic promises arrives; **× random**: throughput over random pruning's on the same schedule, what "
    "choosing costs (1: nothing). Where others kept cores busy, images/s say little and ratios less than their "
    "intervals: `tests/benchmarks/keep.sh` measures anew on an idle machine."
)
YARDSTICKS = (
    "Time of a plain implementation of the same equations, with explicit attention softmax(QKᵀ/√d)V and the same "
    "weights (tests/benchmarks/plain.py), over ours, in the same rounds: above 1 ours is faster. Median [95 % "
    "bootstrap interval]. Processor time, where it is said, is that of the process: other work runs on the machine."
)
TRAINING = (
    "Forward, loss, backward and AdamW over those of the dense model, in the same rounds: median [95 % bootstrap "
    "interval]. `teacher` is the forward pass of the dense model without gradients alone, which a method with a "
    "teacher makes in every step."
)
ROUNDED = (
    "Patches that a bfloat16 model keeps and its float32 model does not, %, behind the first and the last reducer; "
    "with scores in float32, as they are computed here, and with scores that are rounded to bfloat16, as they were. "
    "(Random pruning draws from the bits of an image, which bfloat16 rounds: others leave.)"
)


def speed_page(records: Path = RECORDS) -> str:
    """The page of what lies in `records`."""
    lines = ["# Speed", "", HEAD]
    kept = [read_json(path) for path in sorted((records / "speed").glob("*/speed/*/result.json"))]
    if summary := arrives(kept):
        lines += ["", "## What arrives", "", *summary]
    for title in dict.fromkeys(map(_title, kept)):
        lines += ["", f"## {title}"]
        for record in sorted((r for r in kept if _title(r) == title), key=_order):
            lines += ["", *_table(record)]
    for name, title, section in (
        ("yardsticks", "Beside plain implementations", _yardsticks),
        ("steps", "Where a pass goes", _steps),
        ("training", "A training step", _training),
        ("ranking", "Scores in bfloat16", _rounded),
    ):
        if found := sorted((records / "speed").glob(f"{name}*.json")):
            lines += ["", f"## {title}", "", *section([read_json(path) for path in found])]
    return "\n".join([*lines, "", "## GPU", "", *_gpu(records / "gpu")]) + "\n"


def _title(record: dict[str, Any]) -> str:
    return f"{record['backbone']}, {record['img_size']} px, {record['task']}"


def _order(record: dict[str, Any]) -> tuple:
    return -len(record["dtype"]), record["dtype"], record["mode"] != "eager", record["batch_size"]


def _setting(record: dict[str, Any]) -> str:
    return f"batch {record['batch_size']}, {record['dtype']}, {record['mode']}"


def _machine(record: dict[str, Any], timed: dict[str, Any] | None = None) -> str:
    """Where, by which commit, how often, and what else ran."""
    origin, timed = record["provenance"], timed or record
    load = timed.get("load_of_others")
    others = "load of others unknown" if load is None else f"others kept {load:.2f} cores busy"
    num = timed.get("num_threads", origin["num_threads"])
    threads = "" if origin["device"] == "cuda" else f", {num} thread{'s' * (num != 1)}"
    clock = ", processor time" if timed.get("clock") == "processor" else ""
    dirty = " (changed)" if origin["dirty"] else ""
    return (
        f"{origin['device_name']}{threads}, torch {origin['packages']['torch']}, commit {origin['commit'][:7]}{dirty}, "
        f"{timed['rounds']} rounds{clock}, {others}"
    )


def _table(record: dict[str, Any]) -> Iterator[str]:
    """One measurement of `bench`."""
    yield f"**{_setting(record)}** ({_machine(record)})"
    yield ""
    yield from head("variant", "MAC ratio", "images/s", "speedup", "of the MACs", "× random")
    for row in record["variants"]:
        yield line(
            f"`{row['variant']}`", f"{row['mac_ratio']:.2f}", _spread(row["images_per_s"], 1),
            _spread(row["ratio"], 2), _number(row["speedup_per_mac_ratio"], 2), _spread(row["ratio_to_random"], 2),
        )  # fmt: skip
    for row in record["unreachable"]:
        yield line(f"`{row['variant']}`", f"unreachable, floor {row['floor']:.3f}", *[NOTHING] * 4)


def _yardsticks(files: list[dict[str, Any]]) -> Iterator[str]:
    yield YARDSTICKS
    timed = [(record, file) for file in files for record in file["records"]]
    names = list(dict.fromkeys(name for record, _ in timed for name in record["yardsticks"]))
    yield ""
    yield from head("", *(f"{r['img_size']} px, batch {r['batch_size']}" for r, _ in timed))
    for name in names:
        yield line(f"`{name}`", *(_interval(record["yardsticks"].get(name)) for record, _ in timed))
    yield ""
    for record, file in timed:
        yield (
            f"* {record['backbone']} at {record['budget']:g} of the MACs, {record['img_size']} px, batch "
            f"{record['batch_size']}: {_machine(file, record)}."
        )


def _steps(records: list[dict[str, Any]]) -> list[str]:
    lines = [STEPS]
    for record in records:
        for setting in record["settings"]:
            where = f"{setting['backbone']} at {setting['budget']:g} of the MACs, {setting['img_size']} px"
            machine = _machine(record, setting)
            lines += ["", f"**{where}, batch {setting['batch_size']}** ({machine})", "", *steps_table(setting)]
    return lines


def _training(files: list[dict[str, Any]]) -> Iterator[str]:
    yield TRAINING
    yield ""
    names = list(dict.fromkeys(name for file in files for name in file["over_dense"]))
    yield from head("", *(f"{file['img_size']} px, batch {file['batch_size']}" for file in files))
    for name in names:
        yield line(f"`{name}`", *(_interval(file["over_dense"].get(name)) for file in files))
    yield ""
    for file in files:
        yield f"* {file['backbone']} at {file['budget']:g} of the MACs: {_machine(file)}."
        yield (
            "* The fused attention under a mask against the exact one, largest difference of a patch that stays over "
            "the standard deviation of patches, behind each block of a model with random weights:"
        )
        for how, deviations in file["deviation_of_blocks"].items():
            yield f"  * {how}: {', '.join(f'{value:.0e}' for value in deviations)}"


def _rounded(files: list[dict[str, Any]]) -> Iterator[str]:
    yield ROUNDED
    yield ""
    yield from head("model", "float32: first", "last", "rounded: first", "last")
    for file in files:
        for name, shares in file["other_patches"].items():
            yield line(f"`{name}`", *(f"{100 * s:.1f}" for how in ("not rounded", "rounded") for s in shares[how]))
    yield ""
    for file in files:
        yield f"* {file['what']}; commit {file['provenance']['commit'][:7]}."
        for record in file["costs"]:
            costs = ", ".join(f"`{name}` {_interval(cost)}" for name, cost in record["cost"].items())
            yield (
                f"* Time over that with rounded scores, batch {record['batch_size']}, bfloat16 "
                f"({_machine(file, record)}): {costs}."
            )


def _gpu(folder: Path) -> Iterator[str]:
    devices = sorted(path for path in folder.glob("*") if path.is_dir())
    if not devices:
        yield (
            "Not measured: none was there. `make gpu` runs the tests marked gpu and measures one in nine minutes. "
            "Joules per image and watts, read from NVML in the same rounds, have never been measured either."
        )
    for device in devices:
        kept = [read_json(path) for path in sorted(device.glob("*.json"))]
        yield f"### {kept[0]['provenance']['device_name']}"
        for record in kept:
            yield ""
            yield f"**{_gpu_setting(record['setting'])}** ({_machine(record)})"
            yield ""
            if record["setting"]["kind"] == "training":
                yield from head("", "steps of the dense model")
                yield from (line(f"`{name}`", _interval(ratio)) for name, ratio in record["over_dense"].items())
                continue
            energy = any(row.get("energy") for row in record["variants"])
            yield from head("variant", "MAC ratio", "images/s", "speedup", *["J/image", "W"] * energy)
            for row in record["variants"]:
                spreads = _spread(row["images_per_s"], 1), _spread(row["ratio"], 2)
                own = row.get("energy") or {}
                joules = [_number(own.get("j_per_image"), 4), _number(own.get("watts"), 0)] * energy
                yield line(f"`{row['variant']}`", f"{row['mac_ratio']:.2f}", *spreads, *joules)


def _gpu_setting(setting: dict[str, Any]) -> str:
    precision = {"float32": "float32, no TF32", "tf32": "float32 with TF32"}.get(setting["precision"])
    return (
        f"{setting['backbone']}, {setting['img_size']} px, batch {setting['batch_size']}, "
        f"{precision or setting['precision']}, {setting['kind']}"
    )


def _number(value: float | None, decimals: int) -> str:
    return NOTHING if value is None else f"{value:.{decimals}f}"


def _spread(value: dict[str, Any] | None, decimals: int) -> str:
    if value is None or value["median"] is None:
        return NOTHING
    return f"{value['median']:.{decimals}f} [{value['p5']:.{decimals}f}, {value['p95']:.{decimals}f}]"


def _interval(value: dict[str, Any] | None) -> str:
    return NOTHING if value is None else f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
