"""The reliability diagram: accuracy against confidence."""

import pandas as pd
from matplotlib.figure import Figure

from results.figures.plots import curve_styles, styled
from results.figures.sizes import ONE_COLUMN, Size, new_figure

__all__ = ["CAPTION", "draw_reliability"]

MIN_ITEMS = 10  # of a bin that is drawn
CAPTION = (
    "Reliability: accuracy against the mean confidence (top softmax probability) of each of 15 bins of equal width, of "
    "the dense model and of each method at its smallest budget. Below the diagonal: more confident than right. Bins of "
    f"fewer than {MIN_ITEMS} items, seeds summed, are left out."
)
_HEIGHT_IN = 3.1


def draw_reliability(reliability: pd.DataFrame, title: str, size: Size = ONE_COLUMN) -> Figure | None:
    """None where nothing is known."""
    if reliability.empty:
        return None
    smallest = reliability.groupby(["study", "curve"])["budget_asked"].transform("min")
    shown = (reliability["budget_asked"] == smallest) | smallest.isna()
    rows = reliability[shown & (reliability["items"] >= MIN_ITEMS)]
    if rows.empty:
        return None
    styles = curve_styles(rows["curve"].unique(), rows.loc[rows["role"] == "dense", "curve"].unique())
    with styled():
        figure = new_figure(size, _HEIGHT_IN)
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", color="#B00000" if "SMOKE" in title else "#404040")
        axes.plot([0, 100], [0, 100], color="#D9D9D9", linewidth=2, zorder=1)
        for (_, curve), points in rows.groupby(["study", "curve"], sort=False):
            style, points = styles[str(curve)], points.sort_values("bin")
            axes.plot(
                points["confidence_percent"], points["accuracy_percent"], color=style.color, label=curve, zorder=3,
                linestyle=style.dash or "-", marker=style.marker, markersize=3, markeredgecolor="white",
                markeredgewidth=0.4,
            )  # fmt: skip
        axes.set(xlabel="confidence, %", ylabel="accuracy, %")
        axes.grid(axis="y", color="#EEEEEE", linewidth=0.4)
        figure.legend(loc="outside lower center", ncols=3, fontsize=5.5, frameon=False)
    return figure
