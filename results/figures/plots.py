"""Figures for one or two columns of a paper (sizes.py), readable in grey: a curve has its marker and dash as well as
its colour.

No pyplot and no global state: figures are drawn on their own Agg canvas inside an rc context. The same records give the
same bytes.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from results.figures.fonts import FAMILIES, missing_said
from results.figures.labels import Label, write_labels
from results.figures.numbers import macs_unit
from results.figures.panels import Panel
from results.figures.sizes import ONE_COLUMN, Size, new_figure
from results.statistics.curves import GROUP, pareto_front

__all__ = ["DPI", "caption", "curve_styles", "draw", "figure_bytes", "styled"]

DPI = 300
_HEIGHT_IN = 2.5
_LABEL_PT = 6.0
_RC: Any = {  # Any: matplotlib types it as a dict of 300 literals
    "text.parse_math": False,  # names of files and classes may have dollars
    "font.family": FAMILIES, "font.size": 7, "axes.labelsize": 7, "axes.titlesize": 6, "xtick.labelsize": 6,
    "ytick.labelsize": 6, "axes.linewidth": 0.5, "xtick.major.width": 0.5, "ytick.major.width": 0.5,
    "xtick.major.size": 2, "ytick.major.size": 2, "axes.spines.top": False, "axes.spines.right": False,
    "lines.linewidth": 1.0, "lines.markersize": 3.6,
    "svg.hashsalt": "cropr-study", "pdf.fonttype": 42, "savefig.dpi": DPI, "figure.dpi": DPI,
}  # fmt: skip
# after Okabe and Ito (2008), safe for colour-blind readers, orange and sky blue darkened to serve for text as well
_COLORS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B8860B", "#3A9BD9", "#7F3C8D", "#5C5C5C"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p"]
_DASHES: list[Any] = ["-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (2.5, 1)), (0, (6, 1, 1, 1, 1, 1))]
_MAX_CURVES = 12  # more cannot be told apart: the rest is drawn in light grey without names
_GREY = "#B8B8B8"
_FRONT = "#D9D9D9"
_LINE = 0.045  # of the y range, height of a name
_DODGE = 0.012  # of the x range, between curves whose points share their x


def draw(
    panel: Panel, summary: pd.DataFrame, title: str, published: pd.DataFrame | None = None, size: Size = ONE_COLUMN
) -> Figure | None:
    """The figure of a panel; None where no variant (or no `published` row) has both of its figures.

    `published` has `method`, `secondary` and the panel's x and y.
    """
    first = summary.iloc[0]
    metric = first["metric_name"]
    x, y = panel.x, panel.y.replace("metric", metric)
    x_ends, y_ends = (
        [end.replace("metric", metric) for end in ends or ()] for ends in (panel.x_spread, panel.y_spread)
    )
    points = summary[summary[x].notna() & summary[y].notna()]
    others = None if published is None else published[published[x].notna() & published[y].notna()]
    if points.empty or (others is not None and others.empty):
        return None
    kind = " accuracy" if first["metric_statistic"] == "mean" else ""
    y_label = panel.y_label.format(metric=first["metric_label"], kind=kind)
    with styled():
        unit = macs_unit(points["macs_g"])
        figure, axes = _figure(size, panel.x_label.format(power=unit.power), y_label, title)
        if x == "macs_g":
            axes.xaxis.set_major_formatter(lambda giga, _: f"{giga * unit.per_giga:,.10g}")
        if panel.front:
            _draw_fronts(axes, points, x, y, maximise_x=panel.cheap_end == "right")
        if panel.ideal:
            _draw_ideal(axes, points)
        if others is not None:
            axes.set_title(f"{title}; grey: {', '.join(others['dataset'].unique())}", loc="left")
            _draw_published(figure, axes, others, x, y)
        styles = _styles(points)
        if panel.dodge:
            points = points.assign(**{x: points[x] + _dodge(points[x], points["curve"], styles)})
        for curve, rows in points.groupby("curve", sort=False):
            _draw_curve(axes, rows.sort_values(x), x, y, x_ends, y_ends, styles.get(str(curve)))
            _draw_hollow(axes, rows[panel.doubted(rows)], x, y, styles.get(str(curve)))
        dense = points[points["role"] == "dense"]
        top = _room_above(axes, dense[[y, *y_ends]])
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the axes keep their size: the names are placed for it
        write_labels(figure, axes, _end_labels(points, x, y, styles, panel.cheap_end), panel.cheap_end, _LABEL_PT)
        _label_dense(axes, dense.sort_values(y), x, top, panel.cheap_end)
    return figure


def caption(panel: Panel, summary: pd.DataFrame) -> str:
    """What the reader of a figure must know."""
    crowd = summary.loc[summary["role"] != "dense", "curve"].nunique() > _MAX_CURVES
    said = [panel.caption]
    if crowd:
        said.append("Light grey, without names: the curves that have no point on the front.")
    if panel.doubted(summary).any():
        said.append("Hollow, on a curve of this study: doubted by a finding of the health box.")
    return " ".join(said)


@contextmanager
def styled() -> Iterator[None]:
    """How all figures look, and what their fonts lack, said once."""
    with rc_context(_RC), missing_said():
        yield


def figure_bytes(figure: Figure, kind: Literal["png", "svg", "pdf"]) -> bytes:
    """The file; without date and with fixed ids, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    dated: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with styled():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=dated[kind])
    return buffer.getvalue()


@dataclass(frozen=True)
class _Style:
    color: str
    marker: str
    dash: Any
    dense: bool = False


_DENSE = _Style("black", "*", "", dense=True)


def _styles(points: pd.DataFrame) -> dict[str, _Style]:
    """Styles of the curves that get a name: all of them, or the dense model and those on the front if they are many."""
    dense = points.loc[points["role"] == "dense", "curve"].unique()
    others = points.loc[points["role"] != "dense"]
    curves = others["curve"].unique()
    if len(curves) > _MAX_CURVES:
        curves = others.loc[others["on_front"], "curve"].unique()[:_MAX_CURVES]
    return {curve: _DENSE for curve in dense} | curve_styles(curves)


def curve_styles(names: Iterable[str], dense: Iterable[str] = ()) -> dict[str, _Style]:
    """A colour, a marker and a dash for each name; black stars for those of `dense` models."""
    plain = set(dense)
    others = sorted(set(names) - plain)
    styles = {
        name: _Style(_COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, name in enumerate(others)
    }
    return styles | {name: _DENSE for name in plain}


def _dodge(x: pd.Series, curve: pd.Series, styles: dict[str, _Style]) -> pd.Series:
    """How far each point moves sideways; the dense model and nameless curves stay."""
    moved = [name for name, style in styles.items() if not style.dense]
    step = _DODGE * (x.max() - x.min())
    shift = {name: step * (i - (len(moved) - 1) / 2) for i, name in enumerate(moved)}
    return curve.map(shift).fillna(0.0)


def _end_labels(points: pd.DataFrame, x: str, y: str, styles: dict[str, _Style], cheap_end: str) -> list[Label]:
    labels = []
    for curve, rows in points.groupby("curve", sort=False):
        style = styles.get(str(curve))
        if style is not None and not style.dense:
            end = rows.loc[rows[x].idxmin() if cheap_end == "left" else rows[x].idxmax()]
            labels.append(Label(str(curve), end[x], end[y], style.color))
    return labels


def _figure(size: Size, x_label: str, y_label: str, title: str) -> tuple[Figure, Axes]:
    figure = new_figure(size, _HEIGHT_IN)
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left", color="#B00000" if "SMOKE" in title else "#404040")
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.margins(x=0.07)
    for axis in (axes.xaxis, axes.yaxis):
        if "images/s" in axis.get_label_text():
            axis.set_major_formatter("{x:,.10g}")
    return figure, axes


def _draw_curve(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, x_ends: list[str], y_ends: list[str], style: _Style | None
) -> None:
    if style is None:
        axes.plot(rows[x], rows[y], color=_GREY, linewidth=0.4, marker=".", markersize=1.5, zorder=1.5)
        return
    axes.errorbar(
        rows[x], rows[y], xerr=_bars(rows, x, x_ends), yerr=_bars(rows, y, y_ends), color=style.color,
        linestyle=style.dash, marker=style.marker, markersize=6 if style.dense else 3.6, markeredgewidth=0.4,
        markeredgecolor="white", elinewidth=0.5, capsize=1.2, capthick=0.5, zorder=3,
    )  # fmt: skip
    for _, row in rows[rows["mixed"] != ""].iterrows():
        axes.annotate("†", (row[x], row[y]), xytext=(2, 1), textcoords="offset points", fontsize=6, color=style.color)
    if style.dense:
        axes.axhline(rows[y].iat[0], color="black", linewidth=0.5, linestyle=(0, (1, 2)), zorder=1)


def _draw_hollow(axes: Axes, rows: pd.DataFrame, x: str, y: str, style: _Style | None) -> None:
    """Covers the markers of `rows` by hollow ones."""
    if rows.empty:
        return
    marker, size, color = ("o", 2.0, _GREY) if style is None else (style.marker, 6 if style.dense else 3.6, style.color)
    axes.plot(
        rows[x], rows[y], linestyle="", marker=marker, markersize=size, markerfacecolor="white", markeredgecolor=color,
        markeredgewidth=0.7, zorder=1.6 if style is None else 3.1,
    )  # fmt: skip


def _room_above(axes: Axes, dense: pd.DataFrame) -> float:
    """Raises the axes so that the names of the dense models fit above their points and bars; where they start."""
    low, high = axes.get_ylim()
    top = dense.max(axis=None) if len(dense) else low
    axes.set_ylim(low, max(high, top + _LINE * (high - low) * (len(dense) + 1)))
    return float(top)


def _label_dense(axes: Axes, dense: pd.DataFrame, x: str, top: float, cheap_end: str) -> None:
    """Names above the dense points, stacked in the order of their values, kept inside the axes."""
    start, end = axes.get_xlim()
    low, high = axes.get_ylim()
    for i, (_, row) in enumerate(dense.iterrows()):
        y = top + _LINE * (high - low) * (i + 0.7)
        if cheap_end == "left":
            axes.text(
                min(end, row[x] + 0.04 * (end - start)), y, row["curve"], ha="right", va="center", fontsize=_LABEL_PT
            )
        else:
            axes.text(max(start, row[x] - 0.04 * (end - start)), y, row["curve"], va="center", fontsize=_LABEL_PT)


def _bars(rows: pd.DataFrame, at: str, ends: list[str]) -> np.ndarray | None:
    """Lengths of the bars below and above, [2, n]; zero where there is no interval."""
    if not ends:
        return None
    return np.nan_to_num(np.clip(np.stack([rows[at] - rows[ends[0]], rows[ends[1]] - rows[at]]), 0, None))


def _draw_published(figure: Figure, axes: Axes, others: pd.DataFrame, x: str, y: str) -> None:
    """Grey points, one marker for each method and one for the ablations of a paper; hollow: from a secondary source."""
    handles: list[Line2D] = []
    for i, (method, rows) in enumerate(others.groupby(others["method"].str.partition(":")[0])):
        for secondary, points in rows.groupby("secondary", sort=True):
            (handle,) = axes.plot(
                points[x], points[y], linestyle="", marker=_MARKERS[i % len(_MARKERS)], markersize=3.2, zorder=2,
                markerfacecolor="none" if secondary else "#9A9A9A", markeredgecolor="#6E6E6E", markeredgewidth=0.5,
                label=str(method),
            )  # fmt: skip
            if not handles or handles[-1].get_label() != method:
                handles.append(handle)
    figure.set_figheight(figure.get_figheight() + 0.1 * (len(handles) // 3 + 2))
    title = "published (hollow: secondary source)"
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        fontsize=5.5,
        title=title,
        title_fontsize=5.5,
        frameon=False,
    )


def _draw_fronts(axes: Axes, points: pd.DataFrame, x: str, y: str, maximise_x: bool) -> None:
    """The steps a buyer of accuracy climbs, for each group of comparable variants: between two points on the front
    nothing measured is better than the cheaper one."""
    steps: Literal["pre", "post"] = "pre" if maximise_x else "post"
    for _, rows in points.groupby(GROUP, dropna=False):
        front = rows[pareto_front(rows[x].to_numpy(), rows[y].to_numpy(), maximise_x)].sort_values(x)
        (line,) = axes.step(front[x], front[y], where=steps, color=_FRONT, linewidth=3, zorder=1)
    where: Literal["lower left", "lower right"] = "lower left" if maximise_x else "lower right"
    axes.legend([line], ["Pareto front"], loc=where, fontsize=5.5, frameon=False, handlelength=1.2)


def _draw_ideal(axes: Axes, points: pd.DataFrame) -> None:
    dense = points[points["role"] == "dense"]
    if dense.empty:
        return
    macs = np.linspace(points["macs_g"].min(), points["macs_g"].max(), 50)
    speed = dense["images_per_s_median"].iloc[0] * dense["macs_g"].iloc[0] / macs
    axes.plot(macs, speed, color=_FRONT, linewidth=2, zorder=1, label="speedup = MAC ratio")
    axes.legend(loc="upper right", fontsize=5.5, frameon=False, handlelength=1.2)
