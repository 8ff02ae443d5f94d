"""The summary as CSV, Markdown and a terminal table. Costs are multiply-accumulates (MACs)."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = [
    "NOTHING", "budget", "columns_of", "escape_markdown", "fixed", "glossary", "markdown", "number", "pairs_markdown",
    "pipes", "scores_markdown", "scores_of", "signed", "summary_frame", "terminal",
]  # fmt: skip

NOTHING = "–"
MIXED = "†"  # marks a row whose records were not all made alike; a note says what differs

_SPEED = [
    "images_per_s_median", "images_per_s_p5", "images_per_s_p95", "ratio_to_dense_median", "ratio_to_dense_p5",
    "ratio_to_dense_p95", "latency_ms_median", "latency_ms_p5", "latency_ms_p95", "peak_memory_mib",
]  # fmt: skip
_WHOLE = [f"{key}_{part}" for key in ("whole_images_per_s", "ratio_to_dense_whole") for part in ("median", "p5", "p95")]
_IDENTITY = [
    "study", "curve", "variant", "reducer", "role", "label", "status", "budget_asked", "budget_reached", "floor",
    "schedule_kind", "seeds", "num_items", "clusters",
]  # fmt: skip
_REST = [
    "train_peak_memory_mib", "train_s", "objective", "lr", "own", "epochs", "on_front", "mixed", "findings",
    "speed_findings", "rest", "tokens",
    "metric_name", "metric_label", "metric_statistic", "quick", "task", "dataset",
    "backbone", "data_fingerprint", "options", "method_version", "commit", "device_name", "dtype", "num_threads",
    "sdpa_backend",
]  # fmt: skip

OVER_RANDOM = "to random at the same counts, points (p)"
_COSTS = (
    "images/s", "× dense", "latency, ms", "decoder, GMACs", "peak memory, MiB: inference / training", "training, s",
    "objective", "lr", "settings of its own",
)  # fmt: skip
Cell = Callable[[Any], str]  # a row of the summary (named tuple) -> text


def summary_frame(variants: pd.DataFrame, speeds: pd.DataFrame) -> pd.DataFrame:
    """One row per variant with all figures, units in the names of the columns; what was not measured is empty.
    `is_dense` and the unit-free `metric…` columns leave as `<metric>_percent`."""
    frame = variants.copy()
    metric = frame["metric_name"].iat[0]
    shares = {f"metric{part}": f"{metric}{part}_percent" for part in ("", "_low", "_high", "_best", "_masked")}
    frame = frame.rename(columns=shares)
    frame[list(shares.values())] *= 100
    frame["macs_percent_of_dense"] = 100 * frame["macs_g"] / frame["macs_dense_g"]
    whole = len(speeds) > 0 and speeds["whole_images_per_s_median"].notna().any()
    speed = [*_SPEED, *(_WHOLE if whole else [])]
    shown = pd.DataFrame(columns=["study", "variant", *speed])
    if len(speeds):
        shown = speeds[speeds["shown"]].copy()
        shown.loc[shown["ratio_only"], [column for column in speed if not column.startswith("ratio")]] = float("nan")
    frame = frame.merge(shown[["study", "variant", *speed]], on=["study", "variant"], how="left")
    differences = [f"difference{part}_points" for part in ("", "_low", "_high")]
    over_random = [f"over_random{part}_points" for part in ("", "_low", "_high")]
    costs = ["macs_g", "macs_percent_of_dense", "macs_backbone_g", "macs_scoring_g", "macs_dense_g", "params_m"]
    seldom = [column for column in ("macs_linear_g", "macs_decoder_g", "macs_pyramid_g") if frame[column].notna().any()]
    seldom += ["macs_heads_g", "num_proposals", "num_detections"] if "macs_pyramid_g" in seldom else []
    costs[costs.index("macs_dense_g") : costs.index("macs_dense_g")] = seldom
    chance = [*over_random, "over_random_p", "over_random_p_holm"]
    chance += ["p_front", "p_beats_dense", "p_beats_random", "detectable_points", "over_random_detectable_points"]
    chance += ["lost_percent", "won_percent"]
    measured = [*shares.values(), *differences, "p", "p_holm", *chance, "min_p_seeds"]
    return frame[[*_IDENTITY, *measured, *costs, *speed, *_REST]]


def markdown(summary: pd.DataFrame, notes: Sequence[str], title: str, box: str = "") -> str:
    """The whole table with its notes, under a `box`."""
    below = "".join(f"- {escape_markdown(note)}\n" for note in notes)
    return f"# {title}\n\n{box}\n{_body(summary, columns_of(summary))}\n\n{below}"


def scores_markdown(summary: pd.DataFrame) -> str:
    """What is said of a further metric: the table without what it shares with that of the first."""
    return f"## {summary['metric_label'].iat[0]}\n\n{_body(summary, scores_of(summary))}\n"


def _body(summary: pd.DataFrame, columns: dict[str, Cell]) -> str:
    return pipes([*columns], [[cell(row) for cell in columns.values()] for row in summary.itertuples()])


def glossary(variants: pd.DataFrame) -> str:
    """A line for each method: what it is, and its paper; empty where the records do not say."""
    rows = variants.dropna(subset="about").drop_duplicates("reducer")
    return "".join(f"- {escape_markdown(f'{row.reducer}: {row.about}')}\n" for row in rows.itertuples())


def pairs_markdown(pairs: pd.DataFrame, metric: str = "") -> str:
    """Differences between methods at the same budget, in a further `metric`."""
    header = ["budget", "method", "minus", "difference, points", "95 % interval", "p", "p (Holm)"]
    rows = [
        [
            f"{row.budget_asked:g}", row.method, row.other_method, signed(row.difference_points),
            f"[{signed(row.difference_low_points)}, {signed(row.difference_high_points)}]", p_text(row.p),
            p_text(row.p_holm),
        ]
        for row in pairs.sort_values("budget_asked", ascending=False, kind="stable").itertuples()
    ]  # fmt: skip
    return f"## Between methods at the same budget{metric and ': '}{metric}\n\n{pipes(header, rows)}\n"


def terminal(summaries: Sequence[pd.DataFrame], notes: Sequence[str], title: str) -> Group:
    """What fits 100 characters, of the first metric with its costs; the rest stands in table.md."""
    first, *others = summaries
    shown = [_terminal_table(first, columns_of(first, brief=True), title)]
    for other in others:
        brief = columns_of(other, brief=True)
        shown.append(_terminal_table(other, {name: brief[name] for name in brief if name not in _COSTS}, ""))
    return Group(*shown, Text("\n".join(["bold: on the Pareto front", *notes]), style="dim"))


def _terminal_table(summary: pd.DataFrame, columns: dict[str, Cell], title: str) -> Table:
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "budget") else "right")
    for row in summary.itertuples():
        style = "dim" if row.status == "unreachable" else "bold" if row.on_front else ""
        table.add_row(*(Text(cell(row)) for cell in columns.values()), style=style)
    return table


_DETECTOR: dict[str, Cell] = {
    "pyramid / heads, GMACs (proposals)": lambda row: (
        NOTHING
        if pd.isna(row.macs_pyramid_g)
        else f"{number(row.macs_pyramid_g)} / {number(row.macs_heads_g)} ({row.num_proposals:,.0f})"
    ),
}
_WHOLE_MODEL: dict[str, Cell] = {
    "whole model, images/s": lambda row: _spread(row, "whole_images_per_s"),
    "whole model, × dense": lambda row: _spread(row, "ratio_to_dense_whole"),
}


def scores_of(summary: pd.DataFrame) -> dict[str, Cell]:
    """The columns that differ from metric to metric, and what rows are told by."""
    return {name: cell for name, cell in columns_of(summary).items() if name not in _COSTS}


def columns_of(summary: pd.DataFrame, brief: bool = False) -> dict[str, Cell]:
    """Titles of all columns, or of those that fit a terminal, and what stands in them."""
    metric, name = summary[["metric_name", "metric_label"]].iloc[0]
    columns: dict[str, Cell] = {
        "method": lambda row: row.curve + (MIXED if row.mixed else ""),
        "budget": budget,
        "GMACs (scoring)": lambda row: (
            number(row.macs_g) + (f" ({number(row.macs_scoring_g, 2)})" if row.macs_scoring_g > 0 else "")
        ),
        f"{name}, %": lambda row: _accuracy(row, metric),
        f"{name} of best epoch, on the items it is chosen by, %": lambda row: fixed(
            getattr(row, f"{metric}_best_percent"), 1
        ),
        "to dense, points (p)": _difference,
        OVER_RANDOM: lambda row: _points(row.over_random_points, row.over_random_p_holm),
        "P(front)": lambda row: _share(row.p_front),
        "P(a run beats one of dense / random)": lambda row: (
            f"{_share(row.p_beats_dense)} / {_share(row.p_beats_random)}"
        ),
        "images/s": lambda row: _spread(row, "images_per_s"),
        "× dense": lambda row: _spread(row, "ratio_to_dense"),
        "latency, ms": lambda row: number(row.latency_ms_median),
        **({"linear layers, GMACs": lambda row: number(row.macs_linear_g)} if "macs_linear_g" in summary else {}),
        **({"decoder, GMACs": lambda row: number(row.macs_decoder_g)} if "macs_decoder_g" in summary else {}),
        **(_DETECTOR if "macs_pyramid_g" in summary else {}),
        **(_WHOLE_MODEL if "whole_images_per_s_median" in summary else {}),
        "peak memory, MiB: inference / training": lambda row: _memory(row),
        "training, s": lambda row: number(row.train_s),
        "objective": lambda row: NOTHING if pd.isna(row.objective) else str(row.objective),
        "lr": lambda row: NOTHING if pd.isna(row.lr) else f"{row.lr:g}",
        "settings of its own": lambda row: NOTHING if pd.isna(row.own) else row.own or NOTHING,
    }
    if summary[f"{metric}_masked_percent"].notna().any():
        title = f"{name} with dropped tokens masked, as in training, %"
        columns[title] = lambda row: fixed(getattr(row, f"{metric}_masked_percent"), 1)
    if not brief:
        return columns
    kept = (
        "method",
        "budget",
        "GMACs (scoring)",
        f"{name}, %",
        "to dense, points (p)",
        OVER_RANDOM,
        "images/s",
        "× dense",
        "latency, ms",
    )
    columns |= {
        "images/s": lambda row: number(row.images_per_s_median),
        "× dense": lambda row: number(row.ratio_to_dense_median),
    }
    return {name: columns[name] for name in kept}


def number(value: float, digits: int = 3) -> str:
    """Significant digits without exponents: 0.0251, 4.60, 61.6, 12,345."""
    if pd.isna(value):
        return NOTHING
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{decimals}f}"


def signed(value: float) -> str:
    """Points with a sign and one decimal."""
    return NOTHING if pd.isna(value) else f"{value:+.1f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p value as papers write it."""
    return NOTHING if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def fixed(value: float, decimals: int) -> str:
    """With so many decimals."""
    return NOTHING if pd.isna(value) else f"{value:.{decimals}f}"


def budget(row: Any) -> str:
    """Of a variant: asked and reached, or why it was not."""
    if row.role == "dense":
        return "dense"
    asked = row.variant.partition(":")[2] or row.variant if pd.isna(row.budget_asked) else f"{row.budget_asked:.2f}"
    if row.status == "unreachable":
        return f"{asked}: unreachable, floor {fixed(row.floor, 2)}"
    return f"{asked} → {fixed(row.budget_reached, 3)}"


def _accuracy(row: Any, metric: str) -> str:
    low, high = (getattr(row, f"{metric}_{end}_percent") for end in ("low", "high"))
    half = "" if pd.isna(low) else f" ± {(high - low) / 2:.1f}"
    return fixed(getattr(row, f"{metric}_percent"), 1) + half


def _difference(row: Any) -> str:
    return _points(row.difference_points, row.p_holm)


def _points(points: float, p: float) -> str:
    return signed(points) + ("" if pd.isna(p) else f" ({p_text(p)})")


def _spread(row: Any, what: str) -> str:
    median, low, high = (getattr(row, f"{what}_{statistic}") for statistic in ("median", "p5", "p95"))
    return number(median) + ("" if pd.isna(low) else f" [{number(low)}, {number(high)}]")


def _share(share: float) -> str:
    """Of resamples: a share that is not all of them is not shown as 1."""
    return NOTHING if pd.isna(share) else "> 0.99" if 0.995 <= share < 1 else f"{share:.2f}"


def _memory(row: Any) -> str:
    both = (row.peak_memory_mib, row.train_peak_memory_mib)
    return NOTHING if all(pd.isna(value) for value in both) else " / ".join(number(value) for value in both)


def pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(escape_markdown(cell) for cell in line) + " |" for line in lines)


def escape_markdown(text: str) -> str:
    """One line that Markdown shows as it is, also in a table."""
    return re.sub(r"([|*_<`])", r"\\\1", text).replace("\n", " ")
