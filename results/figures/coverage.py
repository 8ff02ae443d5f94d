"""How many objects still have a live token behind each block that reduces, by their size."""

import pandas as pd
from matplotlib.figure import Figure

from results.figures.plots import curve_styles, styled
from results.figures.sizes import ONE_COLUMN, Size, new_figure

__all__ = ["CAPTION", "draw_coverage"]

CAPTION = (
    "Covered: objects with at least one live token in their mask, by size, behind each block that reduces, of each "
    "method at its smallest budget. A merged patch is live as long as the token is that it went into."
)
_HEIGHT_IN = 2.1


def draw_coverage(coverage: pd.DataFrame, title: str, size: Size = ONE_COLUMN) -> Figure | None:
    """A panel for each size of objects; None where nothing is known."""
    if coverage.empty:
        return None
    smallest = coverage.groupby("curve")["budget_asked"].transform("min")
    rows = coverage[(coverage["budget_asked"] == smallest) | smallest.isna()]
    sizes = [area for area in dict.fromkeys(rows["size"]) if area != "all"]
    styles = curve_styles(rows["curve"].unique())
    with styled():
        figure = new_figure(size, _HEIGHT_IN)
        figure.suptitle(title, fontsize=6, x=0.01, ha="left", color="#B00000" if "SMOKE" in title else "#404040")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, area in zip(panels, sizes, strict=True):
            for curve, points in rows[rows["size"] == area].groupby("curve", sort=False):
                style = styles[str(curve)]
                axes.plot(
                    points["block"], points["covered_percent"], color=style.color, linestyle=style.dash,
                    marker=style.marker, markersize=3, markeredgecolor="white", markeredgewidth=0.4, label=curve,
                )  # fmt: skip
            axes.set_title(area, fontsize=6)
            axes.set_xticks(sorted(rows["block"].unique()))
            axes.grid(axis="y", color="#EEEEEE", linewidth=0.4)
        panels[0].set_ylabel("objects covered, %")
        panels[len(sizes) // 2].set_xlabel("block")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=5.5, frameon=False)
    return figure
