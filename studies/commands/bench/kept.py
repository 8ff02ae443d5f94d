"""The records of `bench` in a folder: one for each measurement, and which study they are of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.records.schema import SCHEMA, Study, read
from results.records.store import Claim, read_result, write_json
from studies.commands.bench.asked import BEST, Bench, Setting
from studies.commands.bench.headlines import headlines
from studies.commands.bench.loaded import loader_said
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.measure.bench import Candidates

__all__ = ["claimed", "folder_of", "identify", "study_of", "write_headlines"]

STUDY = {"study": "bench", "dataset": "no data"}


def study_of(options: Bench) -> dict[str, Any]:
    """What is the same of all records of a folder."""
    said = STUDY | {"task": options.task, "backbone": options.backbone}
    return said | ({"window": options.window} if options.window else {}) | loader_said(options)


def identify(options: Bench) -> None:
    """Say what is in `out`, or compare. Raises ValueError where it holds another backbone or task."""
    from studies.study import writable

    if options.out is None:
        return
    writable(options.out)
    if not (options.out / "study.json").exists():
        write_json(options.out / "study.json", {"schema": SCHEMA, **study_of(options), "data_fingerprint": "none"})
        return
    there = read(options.out / "study.json", Study)
    for key, value in ({"window": None, "loader": None} | study_of(options)).items():
        if there.get(key) != value:
            raise ValueError(f"{options.out} holds records of {key} {there.get(key)}, not {value}; give another --out")


def write_headlines(out: Path) -> None:
    """Of all records in `out`."""
    records = [read_result(path) for path in sorted((out / "speed").glob("*/result.json"))]
    write_json(out / "headlines.json", {"schema": SCHEMA, "headlines": headlines(records)})


def claimed(folder: Path) -> Claim:
    folder.mkdir(parents=True, exist_ok=True)
    return Claim(folder)


def folder_of(options: Bench, found: Candidates, device: str, setting: Setting) -> Path | None:
    """Where the record of a measurement is kept: its name says the setting, and holds a digest of all that it is of."""
    import torch

    if options.out is None:
        return None
    rounds = options.rounds or [options.precision, options.max_seconds]
    content = [
        options.backbone,
        sorted(found.models),
        *setting,
        rounds,
        options.task,
        options.window,
        found.num_classes,
    ]
    content += [*loader_said(options).values(), options.data] if options.end_to_end else []
    content += ["whole"] if TASKS[options.task].detector else []
    digest = hashlib.sha256(json.dumps([*content, torch.__version__]).encode()).hexdigest()[:8]
    batch = setting.batch_size or BEST
    return options.out / "speed" / f"{device}-{found.img_size}px-b{batch}-{digest}"
