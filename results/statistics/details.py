"""What a metric is made of: its details, such as AP by size of objects, and how many objects keep a token."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from results.records.frames import run_frame
from results.records.schema import Declared
from results.records.store import Records
from results.statistics.analysis import Analysis, compared
from results.statistics.curves import variant_frame
from results.statistics.metrics.replicates import Replicates
from results.statistics.metrics.statistic import STATISTICS

__all__ = ["SIZES", "coverage_frame", "detail_frame", "light"]

SIZES = ("small", "medium", "large")
_VARIANT = ["study", "curve", "variant", "status", "role", "budget_asked", "budget_reached", "floor", "seeds"]
_OVER_RANDOM = [f"over_random{part}_points" for part in ("", "_low", "_high")]


def detail_frame(
    studies: Sequence[Records],
    metrics: Sequence[Declared],
    read: Mapping[str, tuple[pd.DataFrame, Replicates]] = MappingProxyType({}),
) -> pd.DataFrame:
    """One row per metric and finished variant: `percent` mean over seeds, `sd_points` over them (NaN of one), and of
    details that have a statistic the difference to random pruning at the same counts, `over_random_points` with `_low`
    and `_high`; NaN elsewhere. `read`: what is known of some of them, by name."""
    rows = []
    for metric in metrics:
        runs, replicates = read.get(metric["name"]) or (run_frame(studies, metric["name"]), None)
        resampled = metric.get("of") and metric.get("statistic")
        variants = compared(runs, replicates) if resampled else variant_frame(runs)
        variants = variants[variants["status"] == "done"]
        values = 100 * runs["metric"]
        rows.append(
            variants.reindex(columns=[*_VARIANT, *_OVER_RANDOM]).assign(
                metric=metric["name"],
                label=metric["label"],
                percent=[values[members].mean() for members in variants["members"]],
                sd_points=[values[members].std(ddof=1) for members in variants["members"]],
            )
        )
    return pd.concat(rows, ignore_index=True)


def light(metric: Declared) -> bool:
    """Whether a metric is a detail of which little is held of each run, so that all runs can be read at once."""
    statistic = STATISTICS.get(metric.get("statistic", ""))
    return bool(metric.get("of")) and statistic is not None and statistic.resamples is None


def coverage_frame(found: Analysis) -> pd.DataFrame:
    """One row per variant whose records have a coverage, block behind which it reduces, and size of objects ("all" and
    SIZES), summed over seeds: `objects`, those of them that are `covered` by a live token, `covered_percent`. Behind
    the last block also, of those with and without a token, how many were `missed`; NaN elsewhere."""
    rows = []
    for variant in found.variants.to_dict("records"):
        held = [one for one in found.runs["coverage"].to_numpy()[variant["members"]] if isinstance(one, dict)]
        if not held:
            continue
        objects, with_token, without = (
            _with_all(np.sum([one[key] for one in held], axis=0))
            for key in ("objects", "missed_with_token", "missed_without_token")
        )
        behind = np.sum([one["covered"] for one in held], axis=0)  # [blocks, sizes]
        for number, (block, covered) in enumerate(zip(held[0]["blocks"], behind, strict=True), 1):
            last = number == len(behind)
            for size, total, live, *missed in zip(
                ("all", *SIZES), objects, _with_all(covered), with_token, without, strict=True
            ):
                rows.append(
                    {key: variant[key] for key in _VARIANT}
                    | {"block": block, "last": last, "size": size, "objects": total, "covered": live}
                    | {"covered_percent": 100 * live / total if total else np.nan}
                    | {f"missed_{which}_token": n if last else np.nan
                       for which, n in zip(("with", "without"), missed, strict=True)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _with_all(counts: np.ndarray) -> list[int]:
    """Of all sizes, then of each."""
    return [int(counts.sum()), *map(int, counts)]
