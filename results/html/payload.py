"""What the script of the page plots: numbers of the summaries by axis, in the units that the tables have.

Letters: V variants (rows of the summaries).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.figures.numbers import macs_unit
from results.html.content import Content
from results.statistics.curves import GROUP

__all__ = ["payload"]

_DIGITS = 6  # significant, of what is plotted
_PUBLISHED = {"macs": ("macs_g", "macs_percent_of_dense"), "images_per_s": (None, "ratio_to_dense_median")}


def payload(content: Content) -> dict[str, Any]:
    """Plain values for JSON; None where something was not measured.

    curves: [V] names, `groups` [V] numbers of what may be compared, `dense` and `outside` (on no front) [V];
    metrics, costs: axes, each with `label`, `absolute` and `relative` triples of value, low and high [3, V];
    seeds: [metrics, V, runs] values; published: points of papers by axis.
    """
    first = content.summaries[0]
    groups = first.groupby(GROUP, dropna=False, sort=False).ngroup()
    values = {
        "curves": first["curve"].to_list(),
        "groups": groups.to_list(),
        "dense": (first["role"] == "dense").to_list(),
        "outside": first["no_method"].astype(bool).to_list(),
        "doubted": [(first["findings"] != "").to_list(), (first["speed_findings"] != "").to_list()],
        "metrics": [_metric(summary) for summary in content.summaries],
        "costs": [axis for axis in _costs(first, groups) if _some(axis)],
        "seeds": [[[_plain(one) for one in own] for own in column] for column in _by_metric(content)],
        "seed_names": [list(map(str, point.seeds)) for point in content.points],
        "runs": [list(point.runs) for point in content.points],
        "commands": [point.command for point in content.points],
        "csv": list(content.csv),
        "latex": dict(content.latex),
        "published": _published(content),
        "show_published": content.show_published,
    }
    return values


def _metric(summary: pd.DataFrame) -> dict[str, Any]:
    name, label = summary[["metric_name", "metric_label"]].iloc[0]
    kind = " accuracy" if summary["metric_statistic"].iat[0] == "mean" else ""
    at_zero = {  # dense minus itself
        f"difference{end}_points": summary[f"difference{end}_points"].mask(summary["role"] == "dense", 0.0)
        for end in ("", "_low", "_high")
    }
    return {
        "name": name,
        "label": f"{label}{kind}, %",
        "relative_label": f"{label} minus dense, points",
        "absolute": _triple(summary, f"{name}{{}}_percent", ("", "_low", "_high")),
        "relative": _triple(summary.assign(**at_zero), "difference{}_points", ("", "_low", "_high")),
    }


def _costs(summary: pd.DataFrame, groups: pd.Series) -> list[dict[str, Any]]:
    """MACs, throughput, latency, memory and tokens: what is less is better, but of throughput."""
    unit = macs_unit(summary["macs_g"])
    spread = ("_median", "_p5", "_p95")
    tokens = summary["tokens"].map(lambda text: np.mean(json.loads(text)) if isinstance(text, str) else np.nan)
    frame = summary.assign(mean_tokens=tokens.astype(float), macs=summary["macs_g"] * unit.per_giga)
    axes = [
        ("macs", f"MACs per image, {unit.power}", "MACs, % of dense", "macs", ("",)),
        ("images_per_s", "throughput, images/s", "throughput, multiple of dense", "images_per_s{}", spread),
        ("latency_ms", "latency of one image, ms", "latency, % of dense", "latency_ms{}", spread),
        ("memory", "peak memory of inference, MiB", "peak memory, % of dense", "peak_memory_mib", ("",)),
        ("tokens", "live tokens, mean over blocks", "live tokens, % of dense", "mean_tokens", ("",)),
    ]  # fmt: skip
    found = []
    for key, label, relative, columns, ends in axes:
        more = key == "images_per_s"
        absolute = _triple(frame, columns, ends)
        ratios = _triple(frame, "ratio_to_dense{}", spread) if more else _to_dense(frame, absolute, groups)
        found.append(
            {"name": key, "label": label, "relative_label": relative, "more": more, "absolute": absolute,
             "relative": ratios}
        )  # fmt: skip
    return found


def _to_dense(frame: pd.DataFrame, absolute: list[list[float | None]], groups: pd.Series) -> list[list[float | None]]:
    """Percent of the dense model of the same group; without one there is none."""
    dense = frame["role"] == "dense"
    base = pd.Series(absolute[0], dtype=float).where(dense.to_numpy()).groupby(groups.to_numpy()).transform("first")
    return [[_plain(100 * value) for value in pd.Series(row, dtype=float) / base] for row in absolute]


def _triple(frame: pd.DataFrame, columns: str, ends: Sequence[str]) -> list[list[float | None]]:
    names = [columns.format(end) for end in ends]
    names *= 3 if len(names) == 1 else 1
    return [[_plain(value) for value in frame[name]] for name in names]


def _by_metric(content: Content) -> list[list[Sequence[float]]]:
    return [[point.values[i] for point in content.points] for i in range(len(content.summaries))]


def _published(content: Content) -> list[dict[str, Any]]:
    """Points of papers; of their throughput the ratio to their own dense model alone."""
    rows = content.published
    if rows is None:
        return []
    metric = content.summaries[0]["metric_name"].iat[0]
    unit = macs_unit(content.summaries[0]["macs_g"])
    rows = rows.assign(macs_g=rows["macs_g"] * unit.per_giga)
    found = []
    for _, row in rows.iterrows():
        costs = {
            axis: [None if column is None else _plain(row[column]) for column in columns]
            for axis, columns in _PUBLISHED.items()
        }
        scores = [_plain(row[f"{metric}_percent"]), _plain(row["difference_points"])]
        said = f"{row['backbone']}, {row['dataset']}; {row['setting']}"
        found.append(
            {"method": row["method"].partition(":")[0], "said": said, "source": row["source"],
             "secondary": bool(row["secondary"]), "costs": costs, "scores": scores}
        )  # fmt: skip
    return found


def _some(axis: dict[str, Any]) -> bool:
    return any(value is not None for value in [*axis["absolute"][0], *axis["relative"][0]])


def _plain(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(f"{float(value):.{_DIGITS}g}")
