"""The summary as CSV, Markdown and a terminal table. Costs are multiply-accumulates (MACs)."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from results.figures.numbers import NOTHING, Unit, fixed, macs_unit, number, p_text, signed
from results.html.content import Grid

__all__ = [
    "NOTHING", "budget", "columns_of", "escape_markdown", "fixed", "glossary", "markdown", "number",
    "pairs_grid", "pipes", "scores_of", "section", "signed", "summary_frame", "terminal", "texts_of",
]  # fmt: skip

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
    "train_peak_memory_mib", "train_s", "objective", "lr", "own", "epochs", "on_front", "no_method", "mixed",
    "findings",
    "speed_findings", "rest", "tokens",
    "metric_name", "metric_label", "metric_statistic", "quick", "task", "dataset",
    "backbone", "data_fingerprint", "options", "method_version", "commit", "device_name", "dtype", "num_threads",
    "sdpa_backend",
]  # fmt: skip

OVER_RANDOM = "to random at the same counts, points (p)"
_COSTS = (
    "images/s", "× dense", "latency", "decoder", "peak memory", "training",
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
    if "ece" in frame:
        parts = ("", "_low", "_high")
        frame = frame.assign(**{f"ece{part}_percent": 100 * frame[f"ece{part}"] for part in parts})
        chance += [f"ece{part}_percent" for part in parts]
        chance += [*(f"ece_difference{part}_points" for part in parts), "ece_p_holm"]
    chance += [column for column in frame if column.startswith(("under_", "corrupted_"))]
    measured = [*shares.values(), *differences, "p", "p_holm", *chance, "min_p_seeds"]
    return frame[[*_IDENTITY, *measured, *costs, *speed, *_REST]]


def texts_of(summary: pd.DataFrame, columns: dict[str, Cell] | None = None) -> Grid:
    """The texts of all columns; of a further metric (with `scores_of`) those that it does not share with the first."""
    columns = columns_of(summary) if columns is None else columns
    rows = [[cell(row) for cell in columns.values()] for row in summary.itertuples()]
    return Grid(summary["metric_label"].iat[0], [*columns], rows)


def markdown(scores: Grid, notes: Sequence[str], title: str, box: str = "") -> str:
    """The whole table with its notes, under a `box`."""
    below = "".join(f"- {escape_markdown(note)}\n" for note in notes)
    return f"# {title}\n\n{box}\n{pipes(scores.header, scores.rows)}\n\n{below}"


def section(grid: Grid) -> str:
    """A further table under its heading, in Markdown; a folded one is a line that opens."""
    text = pipes(grid.header, grid.rows)
    if grid.folded:
        text = f"<details><summary>{len(grid.rows)} rows</summary>\n\n{text}\n\n</details>"
    return f"## {grid.heading}\n\n{text}\n" + (f"\n{grid.said}\n" if grid.said else "")


def glossary(variants: pd.DataFrame) -> Grid:
    """A row for each method: what it is, and its paper; empty where the records do not say."""
    rows = variants.dropna(subset="about").drop_duplicates("reducer")
    return Grid("Methods", ["method", "what it is"], [[row.reducer, row.about] for row in rows.itertuples()])


def pairs_grid(pairs: pd.DataFrame, metric: str = "") -> Grid:
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
    return Grid(f"Between methods at the same budget{metric and ': '}{metric}", header, rows)


def terminal(summaries: Sequence[pd.DataFrame], notes: Sequence[str], title: str) -> Group:
    """What fits 100 characters, of the first metric with its costs; the rest stands in table.md."""
    first, *others = summaries
    shown = [_terminal_table(first, columns_of(first, brief=True), title)]
    for other in others:
        brief = columns_of(other, brief=True)
        shown.append(_terminal_table(other, {name: brief[name] for name in brief if not _is_cost(name)}, ""))
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


_WHOLE_MODEL: dict[str, Cell] = {
    "whole model, images/s": lambda row: _spread(row, "whole_images_per_s"),
    "whole model, × dense": lambda row: _spread(row, "ratio_to_dense_whole"),
}


def _is_cost(title: str) -> bool:
    return title.partition(",")[0] in _COSTS


def scores_of(summary: pd.DataFrame) -> dict[str, Cell]:
    """The columns that differ from metric to metric, and what rows are told by."""
    return {name: cell for name, cell in columns_of(summary).items() if not _is_cost(name)}


def columns_of(summary: pd.DataFrame, brief: bool = False) -> dict[str, Cell]:
    """Titles of all columns, or of those that fit a terminal, and what stands in them."""
    metric, name = summary[["metric_name", "metric_label"]].iloc[0]
    unit = macs_unit(summary["macs_g"])
    macs = f"{unit.name} (scoring)"
    seldom: list[tuple[str, str, Cell]] = [
        ("macs_linear_g", f"linear layers, {unit.name}", lambda row: unit.text(row.macs_linear_g)),
        ("macs_decoder_g", f"decoder, {unit.name}", lambda row: unit.text(row.macs_decoder_g)),
        ("macs_pyramid_g", f"pyramid / heads, {unit.name} (proposals)", lambda row: _detector(row, unit)),
    ]
    columns: dict[str, Cell] = {
        "method": lambda row: row.curve + (MIXED if row.mixed else ""),
        "budget": budget,
        macs: lambda row: (
            unit.text(row.macs_g) + (f" ({unit.text(row.macs_scoring_g, 2)})" if row.macs_scoring_g > 0 else "")
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
        **({"ECE, % (to dense, points)": _calibration} if "ece_percent" in summary else {}),
        **({"under corruptions, % (to dense, points)": _corrupted} if "corrupted_percent" in summary else {}),
        "images/s": lambda row: _spread(row, "images_per_s"),
        "× dense": lambda row: _spread(row, "ratio_to_dense"),
        "latency, ms": lambda row: number(row.latency_ms_median),
        **{title: cell for column, title, cell in seldom if column in summary},
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
        macs,
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


def budget(row: Any) -> str:
    """Of a variant: asked, if it was, and reached, or why it was not."""
    if row.role == "dense":
        return "dense"
    if pd.isna(row.budget_asked):
        return fixed(row.budget_reached, 3)
    asked = f"{row.budget_asked:.2f}"
    if row.status == "unreachable":
        return f"{asked}: unreachable, floor {fixed(row.floor, 2)}"
    return f"{asked} → {fixed(row.budget_reached, 3)}"


def _detector(row: Any, unit: Unit) -> str:
    if pd.isna(row.macs_pyramid_g):
        return NOTHING
    return f"{unit.text(row.macs_pyramid_g)} / {unit.text(row.macs_heads_g)} ({row.num_proposals:,.0f})"


def _accuracy(row: Any, metric: str) -> str:
    low, high = (getattr(row, f"{metric}_{end}_percent") for end in ("low", "high"))
    half = "" if pd.isna(low) else f" ± {(high - low) / 2:.1f}"
    return fixed(getattr(row, f"{metric}_percent"), 1) + half


def _difference(row: Any) -> str:
    return _points(row.difference_points, row.p_holm)


def _calibration(row: Any) -> str:
    if pd.isna(row.ece_percent):
        return "not recorded" if row.status == "done" else NOTHING
    half = "" if pd.isna(row.ece_low_percent) else f" ± {(row.ece_high_percent - row.ece_low_percent) / 2:.1f}"
    to_dense = "" if pd.isna(row.ece_difference_points) else f" ({signed(row.ece_difference_points)})"
    return fixed(row.ece_percent, 1) + half + to_dense


def _corrupted(row: Any) -> str:
    if pd.isna(row.corrupted_percent):
        return "not scored" if row.status == "done" else NOTHING
    low, high, points = row.corrupted_low_percent, row.corrupted_high_percent, row.corrupted_difference_points
    half = "" if pd.isna(low) else f" ± {(high - low) / 2:.1f}"
    return fixed(row.corrupted_percent, 1) + half + ("" if pd.isna(points) else f" ({signed(points)})")


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
