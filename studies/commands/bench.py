"""`bench`: speed and cost of reducers on one backbone, printed as lines or as one JSON document, kept as records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cropr.nearest import one_of
from results.figures.numbers import Unit, macs_unit
from results.records.schema import SCHEMA, Study, read
from results.records.store import Claim, read_result, write_json
from studies.commands.options import backbone_of, parse_budgets, parse_sizes, resolve_device
from studies.models.methods import parse
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.measure.bench import Candidates
    from studies.measure.detector import Whole

__all__ = ["Bench", "lines", "run"]

STUDY = {"study": "bench", "dataset": "no data"}
DTYPES = ("float32", "bfloat16", "float16")
COCO_CLASSES = 80  # of detectors, as they have no other data here
HEADER = [
    "variant", "{}", "of linear layers", "MAC ratio", "images/s", "latency at batch 1, ms", "speedup",
    "speedup / MAC ratio", "x random on the same schedule",
]  # fmt: skip
WHOLE = ["whole images/s", "whole speedup"]


@dataclass(frozen=True)
class Bench:
    """What `bench` takes, as it was typed; cli.py says what each is."""

    backbone: str
    reducers: str
    budgets: str
    batch_sizes: str
    img_sizes: str | None
    rounds: int
    dtype: str  # one, or several
    device: str
    compiled: bool
    out: Path | None
    task: str = "classification"
    num_classes: int | None = None  # None: the model's own
    window: str | None = None  # None: attention over the whole grid


def run(options: Bench, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """One speed record for each image size, dtype and batch size, with random weights. With `out` each is kept
    in out/speed/ as soon as it is there; one that is there already is read, not measured again. Raises ValueError,
    OSError."""
    from cropr.windows import Windows
    from studies.measure.bench import candidates, variants_of
    from studies.models.backbones import create_backbone, describe

    if options.window is not None:
        options = replace(options, window=str(Windows.parse(options.window)))
    dtypes = parse_dtypes(options.dtype)
    device, batches = resolve_device(options.device), parse_sizes("batch size", options.batch_sizes)
    sizes = [None] if options.img_sizes is None else parse_sizes("image size", options.img_sizes)
    one_of("task", options.task, TASKS)
    dense, detector = TASKS[options.task].dense, TASKS[options.task].detector
    classes = options.num_classes or (COCO_CLASSES if detector else None)
    variants = variants_of(parse(options.reducers, dense), parse_budgets(options.budgets), dense)
    name, checkpoint = backbone_of(options.backbone)
    patch = describe(name)["patch_size"]
    if not dense and (bad := [size for size in sizes if size is not None and size % patch]):
        raise ValueError(f"patches of {patch} px do not divide images of {bad[0]} px")
    vits = [
        create_backbone(
            name,
            img_size=size,
            num_classes=classes,
            pretrained=False,
            checkpoint=checkpoint,
            detector=detector,
            window=options.window,
        )
        for size in sizes
    ]
    if options.out is not None:
        _identify(options)
    records = []
    for vit in vits:
        found = candidates(vit, variants)
        for dtype in dtypes:
            one = replace(options, dtype=dtype)
            records += [_record(one, found, device, batch, progress) for batch in batches]
    return records


def parse_dtypes(text: str) -> list[str]:
    """float32,bfloat16 -> names of types, each once. Raises ValueError."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        one_of("dtype", name, DTYPES)
    return list(dict.fromkeys(names))


def _record(
    options: Bench, found: Candidates, device: str, batch_size: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """One interleaved measurement of all variants, or the record of it."""
    from studies.measure.bench import time_candidates
    from studies.runs.provenance import now, provenance

    folder = None if options.out is None else options.out / "speed" / _name(options, found, device, batch_size)
    setting = f"{found.img_size} px, batch {batch_size}, {options.dtype}"
    with nullcontext() if folder is None else _claimed(folder):
        if folder is not None and (folder / "result.json").exists():
            progress(f"{setting}: read from {folder}")
            return read_result(folder / "result.json")
        started = now()
        timing = time_candidates(
            found, batch_size=batch_size, device=device, dtype=options.dtype, compile=options.compiled,
            rounds=options.rounds, progress=lambda text: progress(f"{setting}: {text}"),
            whole=_whole(found) if TASKS[options.task].detector else None,
        )  # fmt: skip
        identity = {"schema": SCHEMA, "status": "done", "quick": False, **_study(options)}
        origin = provenance(device, dtype=options.dtype, seeds={}, fingerprint="none", started=started)
        record = {"id": folder.name if folder else None, **identity, **timing, "provenance": origin}
        if folder is not None:
            write_json(folder / "result.json", record)
    return record


def _whole(found: Candidates) -> Whole:
    """Detectors with random weights, on one image."""
    import torch

    from studies.measure.detector import Whole

    return Whole(cast(Any, found.models), torch.randn(1, 3, found.img_size, found.img_size), fixed=True)


def _study(options: Bench) -> dict[str, Any]:
    said = STUDY | {"task": options.task, "backbone": options.backbone}
    return said | ({"window": options.window} if options.window else {})


def _identify(options: Bench) -> None:
    """Say what is in `out`, or compare. Raises ValueError where it holds another backbone or task."""
    from studies.study import writable

    assert options.out is not None
    writable(options.out)
    if not (options.out / "study.json").exists():
        write_json(options.out / "study.json", {"schema": SCHEMA, **_study(options), "data_fingerprint": "none"})
        return
    there = read(options.out / "study.json", Study)
    for key, value in ({"window": None} | _study(options)).items():
        if there.get(key) != value:
            raise ValueError(f"{options.out} holds records of {key} {there.get(key)}, not {value}; give another --out")


def _claimed(folder: Path) -> Claim:
    folder.mkdir(parents=True, exist_ok=True)
    return Claim(folder)


def _name(options: Bench, found: Candidates, device: str, batch_size: int) -> str:
    import torch

    content = [options.backbone, sorted(found.models), options.dtype, options.compiled, options.rounds]
    content += [] if options.task == "classification" else [options.task]
    content += ["whole"] if TASKS[options.task].detector else []
    content += filter(None, [options.window])
    digest = hashlib.sha256(json.dumps([*content, torch.__version__]).encode()).hexdigest()[:8]
    return f"{device}-{found.img_size}px-b{batch_size}-{digest}"


def lines(records: list[dict[str, Any]]) -> Iterator[str]:
    """What a person reads: for each record its setting, a table of its variants, and what is flagged."""
    for record in records:
        arithmetic = record["dtype"] + (", compiled" if record["compiled"] else "")
        threads = "" if record["device"] == "cuda" else f", {record['num_threads']} threads"
        yield (
            f"{record['backbone']}, {record['img_size']} px, batch {record['batch_size']}, {arithmetic}, "
            f"{record['device_name']}{threads}, {record['rounds']} interleaved rounds; median [5th, 95th percentile]"
        )
        whole = "whole" in record
        unit = macs_unit(row["macs_g"]["total"] for row in record["variants"])
        if whole:
            yield from _about_whole(record, unit)
        header = [title.format(unit.name) for title in HEADER + WHOLE * whole]
        table = [header, *(_cells(row, whole, unit) for row in record["variants"])]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        for row in table:
            cells = [
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            ]
            yield "  ".join(cells).rstrip()
        yield from (f"{row['variant']}: {flag}" for row in record["variants"] for flag in row["flags"])
        yield from (f"{row['variant']}: unreachable, floor {row['floor']:.3f}" for row in record["unreachable"])
        yield ""


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
        _fixed(row["mac_ratio"], 2),
        _spread(row["images_per_s"], 1), _spread(row["latency_ms"], 2), _spread(row["ratio"], 3),
        _fixed(row["speedup_per_mac_ratio"], 3), _spread(row["ratio_to_random"], 3),
        *(figures if whole else []),
    ]  # fmt: skip


def _fixed(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _spread(value: dict[str, Any] | None, decimals: int) -> str:
    if value is None or value["median"] is None:
        return "-"
    median, p5, p95 = (f"{value[key]:.{decimals}f}" for key in ("median", "p5", "p95"))
    return f"{median} [{p5}, {p95}]"
