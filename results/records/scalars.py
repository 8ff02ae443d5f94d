"""Every run as one flat row, for data frames and spreadsheets: all scalars of its record, and of its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from results.records.files import CorruptRecord, read_json
from results.records.frames import study_names
from results.records.store import Records

__all__ = ["scalar_frame"]

_SHARES = ("top1", "miou")  # of records that were made before they declared their metrics


def scalar_frame(studies: Sequence[Records]) -> pd.DataFrame:
    """One row per run: `study` (its folder), `id`, `status`, `error` of what failed, and the scalars of result.json and
    of the recipe in config.json. Names of nested fields are joined by _, with a unit of the outer one at the end:
    macs_g.total is `macs_total_g`; a metric that is declared in percent is, as `final_top1_percent`. Lists are left
    out. In the order of studies and ids."""
    rows: list[dict[str, Any]] = []
    for study, name in zip(studies, study_names(studies), strict=True):
        runs = {run: _row(record, _recipe(f"{study.directory}/runs/{run}")) for run, record in study.runs.items()}
        runs |= {run: {"status": "failed", "error": error} for run, error in study.failures.items()}
        runs |= {run: {"status": state.state} for run, state in study.unfinished.items()}
        rows += [runs[run] | {"study": name, "id": run} for run in sorted(runs)]
    frame = pd.DataFrame(rows)
    first = [column for column in ("study", "id", "status", "error") if column in frame]
    return frame[[*first, *(column for column in frame if column not in first)]]


def _row(record: Mapping[str, Any], recipe: Any) -> dict[str, Any]:
    declared = record.get("metrics_declared") or [{"name": name, "unit": "%"} for name in _SHARES]
    shares = {metric["name"] for metric in declared if metric.get("unit") == "%"}
    row = {}
    for path, value in _scalars({**record, "recipe": recipe}):
        if path == ("metrics",):  # of a budget that could not be reached
            continue
        if path[0] == "metrics" and path[-1] in shares and value is not None:
            path, value = (*path[:-1], f"{path[-1]}_percent"), 100 * value
        row[_name(path[path[0] == "metrics" :])] = value
    return row


def _scalars(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, own in value.items():
            yield from _scalars(own, (*path, str(key)))
    elif not isinstance(value, list):
        yield path, value


def _name(path: Sequence[str]) -> str:
    outer, *inner = path
    if inner and outer.endswith("_g"):
        return "_".join([outer.removesuffix("_g"), *inner, "g"])
    return "_".join(path)


def _recipe(folder: str) -> Any:
    """As config.json has it; nothing where that cannot be read."""
    try:
        config = read_json(f"{folder}/config.json")
    except (FileNotFoundError, CorruptRecord):
        return {}
    return config.get("recipe") or {} if isinstance(config, dict) else {}
