"""Rows of runs to rows of variants: what is averaged, what belongs to one curve, and what is on the front.

A variant is a reducer with its options at one budget; its seeds are averaged. Records that differ in what makes figures
incomparable (GROUP and the rest of _CURVE) are kept apart, and their curves get names that say so. Records that differ
in what should not matter but might (commit, device, versions) are averaged and flagged. Nothing is mixed silently.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pandas as pd

from results.records.frames import PACKAGE

__all__ = ["GROUP", "mixed_notes", "pareto_front", "twin_notes", "variant_frame", "variant_name"]

GROUP = ["study", "task", "dataset", "backbone", "data_fingerprint", "quick"]  # differences are taken within a group

_CURVE = [*GROUP, "reducer", "options", "method_version", "objective", "lr", "own", "epochs"]
_VARIANT = [*_CURVE, "variant", "status"]
_FLAGGED = ["commit", "dirty", "python", "device", "device_name", "dtype", "evaluator"]  # and every package
_MEAN = [
    "budget_reached", "floor", "metric", "metric_before", "metric_lowest", "metric_best", "metric_last",
    "metric_masked", "macs_g", "macs_backbone_g", "macs_scoring_g", "macs_linear_g", "macs_decoder_g", "macs_dense_g",
    "macs_pyramid_g", "macs_heads_g", "num_proposals", "num_detections", "params_m",
    "num_items", "train_peak_memory_mib", "train_s",
]  # fmt: skip
_FIRST = [
    "metric_name",
    "metric_label",
    "metric_statistic",
    "role",
    "rest",
    "tokens",
    "about",
    "no_method",
    "label",
    "budget_asked",
    "schedule_kind",
    "commit",
    "device_name",
    "dtype",
    "num_threads",
    "sdpa_backend",
]


def variant_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: means over its seeds, the name of its `curve`, what is `mixed` in it, and its `members` (row
    numbers in `runs`, by seed). The dense model comes first in its group, then curves by name, budgets downwards."""
    groups = runs.groupby(_VARIANT, dropna=False, sort=False)
    frame = groups[_MEAN].mean().join(groups[_FIRST].first()).reset_index()
    number = groups.ngroup().to_numpy()
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    flags = _flags(runs)
    frame["members"] = pd.Series(members, dtype=object)
    frame["seeds"] = groups["seed"].nunique().to_numpy()
    frame["mixed"] = ["; ".join(dict.fromkeys(flag for row in rows for flag in flags[row])) for rows in members]
    frame["curve"] = _curve_names(frame)
    frame["is_dense"] = frame["role"] == "dense"
    frame = frame.sort_values(
        [*GROUP, "is_dense", "curve", "budget_asked", "macs_g"],
        ascending=[True] * len(GROUP) + [False, True, False, False],
        ignore_index=True,
    )
    frame["on_front"] = _on_front(frame)
    return frame


def variant_name(variant: Any) -> str:
    """Of a row of the frame: its curve, and where it lies on it; curves without a budget are named by their options."""
    asked = variant.budget_asked
    return variant.curve if variant.is_dense or pd.isna(asked) else f"{variant.curve} at {asked:g}"


def pareto_front(x: np.ndarray, y: np.ndarray, maximise_x: bool) -> np.ndarray:
    """Which points [n] no other point beats: y larger and x larger (or smaller) is better. NaN is never on the front;
    equal points are on it together."""
    worse = np.column_stack([-x if maximise_x else x, -y]).astype(float)  # [n, 2], smaller is better in both
    front = np.zeros(len(worse), dtype=bool)
    finite = np.isfinite(worse).all(axis=1)
    if finite.any():
        points, inverse = np.unique(worse[finite], axis=0, return_inverse=True)  # sorted by x, then by y
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], points[:-1, 1]]))
        front[finite] = (points[:, 1] < best_before)[inverse]
    return front


def mixed_notes(runs: pd.DataFrame) -> list[str]:
    """One sentence for every flagged column in which the records of a study differ: what, and in how many."""
    notes = []
    for study, rows in runs[runs["status"] != "timed"].groupby("study", sort=False):
        for column in _flagged(runs):
            (usual, _), *others = Counter(rows[column].fillna("absent")).most_common()
            rest = f"{'the others' if len(others) == 1 else 'most'} with {usual}"
            for value, count in others:
                verb = "was" if count == 1 else "were"
                notes.append(f"{study}: {count} of {len(rows)} records {verb} made with {_say(column, value)}, {rest}.")
    return notes


def twin_notes(runs: pd.DataFrame) -> list[str]:
    """A sentence for every variant that holds the same seed twice: its runs differ in something no column shows."""
    trained = runs[runs["status"] != "timed"]
    twins = trained[trained.duplicated([*_VARIANT, "seed"], keep=False)]
    return [
        f"{rows['study'].iloc[0]}: {', '.join(rows['id'])} are the same variant and seed but not the same "
        "configuration; their mean is shown."
        for _, rows in twins.groupby([*_VARIANT, "seed"], dropna=False)
    ]


def _on_front(variants: pd.DataFrame) -> np.ndarray:
    front = np.zeros(len(variants), dtype=bool)
    for _, rows in variants.groupby(GROUP, dropna=False):
        metric = rows["metric"].mask(rows["no_method"].astype(bool))  # what reads the labels beats nobody
        front[rows.index] = pareto_front(rows["macs_g"].to_numpy(), metric.to_numpy(), maximise_x=False)
    return front


def _flagged(runs: pd.DataFrame) -> list[str]:
    return [column for column in runs.columns if column in _FLAGGED or column.startswith(PACKAGE)]


def _say(column: str, value: str) -> str:
    if column == "dirty":
        return "uncommitted changes" if value == "True" else "a clean checkout"
    return f"{column.removeprefix(PACKAGE).replace('_', ' ')} {value}"


def _flags(runs: pd.DataFrame) -> list[list[str]]:
    """For every run, what it was made with that most runs of its study were not."""
    flags: list[list[str]] = [[] for _ in range(len(runs))]
    for _, rows in runs[runs["status"] != "timed"].groupby("study"):
        for column in _flagged(runs):
            values = rows[column].fillna("absent")
            usual = Counter(values).most_common(1)[0][0]
            for row, value in values[values != usual].items():
                flags[int(row)].append(_say(column, value))
    return flags


def _curve_names(variants: pd.DataFrame) -> list[str]:
    """The label of each variant, with what sets it apart where different curves have the same label."""
    keys = [
        tuple(None if pd.isna(value) else value for value in key) for key in variants[_CURVE].itertuples(index=False)
    ]
    trained = {key for key, status in zip(keys, variants["status"], strict=True) if status == "done"}
    keys = [key if key in trained else _completed(key, trained) for key in keys]
    curves: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for label, key in zip(variants["label"], keys, strict=True):
        curves[label].add(key)
    apart = {label: _telling(members) for label, members in curves.items()}
    return [
        ", ".join([label, *filter(None, (_aside(_CURVE[i], key[i]) for i in apart[label]))])
        for label, key in zip(variants["label"], keys, strict=True)
    ]


def _completed(key: tuple[Any, ...], trained: set[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The key of the trained curve that a variant belongs to which was not trained, and so lacks its objective; itself
    where there is none, or several."""
    fitting = [other for other in trained if all(own in (None, its) for own, its in zip(key, other, strict=True))]
    return fitting[0] if len(fitting) == 1 else key


def _telling(keys: set[tuple[Any, ...]]) -> list[int]:
    """Positions in _CURVE that tell `keys` apart. Where the study does, what it implies is left out, not `quick`."""
    differ = [i for i in range(len(_CURVE)) if len({key[i] for key in keys}) > 1]
    if 0 not in differ:
        return differ
    num_studies = len({key[0] for key in keys})
    implied = [
        i for i in differ if i and _CURVE[i] != "quick" and len({(key[0], key[i]) for key in keys}) == num_studies
    ]
    return [i for i in differ if i not in implied]


def _aside(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in ("study", "backbone", "dataset", "reducer", "objective"):
        return str(value)
    if column == "quick":
        return "smoke run" if value else ""
    if column == "data_fingerprint":
        return f"data {str(value)[:8]}"
    if column == "own":
        return str(value) or "the recipe of all"
    if column == "options":
        return value.strip("{}").replace('"', "").replace(": ", "=") or "defaults"
    return (
        f"{column.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{column.replace('_', ' ')} {value}"
    )
