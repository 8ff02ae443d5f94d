"""Cost, speed and memory against the size of the image, from timings that cover several sizes."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from results.figures.numbers import macs_unit
from results.figures.plots import curve_styles, styled
from results.figures.sizes import ONE_COLUMN, Size, new_figure

__all__ = ["CAPTION", "draw_scaling"]

CAPTION = (
    "Against the side of a square image: MACs, throughput (bars: 5th to 95th percentile), and peak memory of a pass "
    "with its weights. Random weights; sizes, MACs and throughput on logarithmic axes."
)
_HEIGHT_IN = 5.2  # panels below each other; side by side they have that of one
_ONE_IN = 2.0
_ROWS = (
    ("macs_g", "MACs per image, {power}"), ("images_per_s_median", "throughput, images/s"),
    ("peak_memory_mib", "peak memory, MiB"),
)  # fmt: skip


def draw_scaling(speeds: pd.DataFrame, title: str, size: Size = ONE_COLUMN) -> Figure | None:
    """One panel for each of `_ROWS`; None where no directory has timed more than one image size. Of several batch
    sizes, devices or dtypes the one with the most sizes is drawn."""
    speeds = speeds[speeds["shown"] & ~speeds["ratio_only"]] if len(speeds) else speeds
    if speeds.empty:
        return None
    settings = ["directory", "device_name", "dtype", "batch_size"]
    sizes = speeds.groupby(settings)["img_size"].nunique()
    if sizes.max() < 2:
        return None
    chosen = dict(zip(settings, sizes.idxmax(), strict=True))
    rows = speeds[(speeds[settings] == pd.Series(chosen)).all(axis=1)].sort_values("img_size", kind="stable")
    setting = f"{chosen['device_name']}, {chosen['dtype']}, batch {chosen['batch_size']}"
    return _figure(rows, [row for row in _ROWS if rows[row[0]].notna().any()], f"{title}\n{setting}", size)


def _figure(rows: pd.DataFrame, panels: Sequence[tuple[str, str]], title: str, size: Size) -> Figure:
    styles = curve_styles(rows["variant"].unique(), rows.loc[rows["role"] == "dense", "variant"].unique())
    unit = macs_unit(rows["macs_g"])
    with styled():
        beside = size.columns > 1
        figure = new_figure(size, _ONE_IN if beside else _HEIGHT_IN)
        figure.suptitle(title, fontsize=6, x=0.01, ha="left", color="#404040")
        shape = (1, len(panels)) if beside else (len(panels), 1)
        every = figure.subplots(*shape, sharex=True, squeeze=False).ravel()
        for axes, (column, label) in zip(every, panels, strict=True):
            for variant, points in rows.groupby("variant", sort=False):
                style, bars = styles[str(variant)], None
                if column == "images_per_s_median":
                    low, high = points["images_per_s_p5"], points["images_per_s_p95"]
                    bars = [points[column] - low, high - points[column]]
                axes.errorbar(
                    points["img_size"], points[column], yerr=bars, color=style.color, linestyle=style.dash or "-",
                    marker=style.marker, markersize=4, markeredgecolor="white", markeredgewidth=0.4, elinewidth=0.5,
                    label=points["label"].iloc[0],
                )  # fmt: skip
            axes.set(xscale="log", ylabel=label.format(power=unit.power))
            if column != "peak_memory_mib":
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # labels of nine steps a decade overlap
                axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(_ticks(unit.per_giga if column == "macs_g" else 1.0))
            axes.grid(axis="y", color="#EEEEEE", linewidth=0.4)
        every[-1].set_xticks(sorted(rows["img_size"].unique()), minor=False)
        every[-1].set_xticks([], minor=True)
        every[-1].xaxis.set_major_formatter("{x:,.0f}")
        for axes in every if beside else every[-1:]:
            axes.set_xlabel("image side, px")
        every[0].legend(fontsize=5.5, frameon=False, handlelength=3)
    return figure


def _ticks(factor: float) -> Callable[[float, Any], str]:
    return lambda value, _: f"{value * factor:,.3g}" if value * factor < 1000 else f"{value * factor:,.0f}"
