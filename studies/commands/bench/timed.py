"""The measurements of `bench`, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

from results.records.schema import SCHEMA
from results.records.store import read_result, write_json
from studies.commands.bench.asked import Bench, Plan, Setting, plan
from studies.commands.bench.kept import claimed, folder_of, identify, study_of, write_headlines
from studies.commands.bench.loaded import loader_of
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.measure.bench import Candidates
    from studies.measure.detector import Whole

__all__ = ["run", "self_checks"]

Say = Callable[[str], None]


def run(options: Bench, progress: Say) -> list[dict[str, Any]]:
    """One speed record for each image size, dtype, mode, number of threads and batch size, with random weights. With
    `out` each is kept in out/speed/ as soon as it is there; one that is there already is read, not measured again; what
    all records there come to is in out/headlines.json. Variants are ranked where the machine is quiet (`known_pair`).
    Raises ValueError, OSError; studies.measure.NotCompiled."""
    from studies.measure.bench import candidates

    asked = plan(options)
    identify(asked.options)
    records, checks = [], Checks(asked, progress)
    for vit in asked.vits:
        found = candidates(vit, asked.variants)
        records += [record_of(asked, found, setting, checks, progress) for setting in asked.settings]
    if options.out is not None:
        write_headlines(options.out)
    return records


def self_checks(options: Bench, progress: Say) -> list[dict[str, Any]]:
    """Is the machine quiet enough, for each dtype and number of threads? Kept in out/self_check.json."""
    if options.end_to_end:
        raise ValueError("--self-check times a known pair of blocks and loads nothing; leave out --end-to-end")
    asked = plan(options)
    identify(asked.options)
    checks = Checks(asked, progress)
    found = list({(one.dtype, one.threads): checks.of(one) for one in asked.settings}.values())
    if options.out is not None:
        write_json(options.out / "self_check.json", {"schema": SCHEMA, "checks": found})
    return found


class Checks:
    """Whether the machine is quiet: looked at when it is first asked for, once for each dtype and number of threads."""

    def __init__(self, asked: Plan, progress: Say):
        self.asked, self.progress = asked, progress
        self.found: dict[tuple, dict[str, Any]] = {}

    def of(self, setting: Setting) -> dict[str, Any]:
        from studies.measure.modes import num_threads
        from studies.measure.probes import known_pair

        key = (setting.dtype, setting.threads)
        if key not in self.found:
            with num_threads(setting.threads):
                self.found[key] = known_pair(
                    self.asked.vits[0], device=self.asked.device, dtype=setting.dtype,
                    progress=lambda text: self.progress(f"self-check: {text}"),
                )  # fmt: skip
        return self.found[key]


def record_of(asked: Plan, found: Candidates, setting: Setting, checks: Checks, progress: Say) -> dict[str, Any]:
    """One interleaved measurement of all variants, or the record of it."""
    from studies.measure.modes import num_threads
    from studies.measure.speed_record import ranks

    folder = folder_of(asked.options, found, asked.device, setting)
    said = f"{found.img_size} px, {setting}"
    with nullcontext() if folder is None else claimed(folder):
        if folder is not None and (folder / "result.json").exists():
            progress(f"{said}: read from {folder}")
            return read_result(folder / "result.json")
        check = checks.of(setting)
        with num_threads(setting.threads):
            timing = timed(asked, found, setting, lambda text: progress(f"{said}: {text}"))
        rank = ranks(timing["variants"]) if check["quiet"] else {}
        for row in timing["variants"]:
            row["rank"] = rank.get(row["variant"])
        identity = {"id": folder.name if folder else None, "schema": SCHEMA, "status": "done", "quick": False}
        record = identity | study_of(asked.options) | timing | {"self_check": check}
        if folder is not None:
            write_json(folder / "result.json", record)
    return record


def timed(asked: Plan, found: Candidates, setting: Setting, progress: Say) -> dict[str, Any]:
    """The record of `time_candidates`, with its provenance and, where the batch was looked for, what was seen."""
    from studies.measure.bench import best_of, time_candidates
    from studies.runs.provenance import now, provenance

    started, options = now(), asked.options
    common: Any = {"device": asked.device, "dtype": setting.dtype, "mode": setting.mode, "progress": progress}
    batch, search = setting.batch_size, {}
    if batch is None:
        batch, seen = best_of(found, **common)
        search = {"batch_search": seen}
    timing = time_candidates(
        found, _whole(found) if TASKS[options.task].detector else None, batch_size=batch, rounds=options.rounds,
        precision=options.precision / 100, max_seconds=options.max_seconds,
        loader=loader_of(asked.data, options, batch), **common,
    )  # fmt: skip
    fingerprint = "none" if asked.data is None else asked.data.fingerprint
    origin = provenance(asked.device, dtype=setting.dtype, seeds={}, fingerprint=fingerprint, started=started)
    return timing | search | {"provenance": origin}


def _whole(found: Candidates) -> Whole:
    """Detectors with random weights, on one image."""
    import torch

    from studies.measure.detector import Whole

    return Whole(cast(Any, found.models), torch.randn(1, 3, found.img_size, found.img_size), fixed=True)
