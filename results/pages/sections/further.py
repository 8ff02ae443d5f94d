"""Further tables of the report: what changed between two studies and where a reducer begins to pay."""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log

import pandas as pd

from results.figures.numbers import fixed, number, p_text, signed
from results.html.content import Grid
from results.pages.tables import budget
from results.statistics import bootstrap
from results.statistics.agreement import ALPHA, SAME
from results.statistics.analysis import Analysis
from results.statistics.compare import differences

__all__ = ["break_even", "break_even_grid", "change_grids"]

_SIZES = {"img_size": ("image side", "px", "batch_size"), "batch_size": ("batch", "images", "img_size")}


def change_grids(found: Analysis, what: str) -> list[Grid]:
    """Of the metric `what` in two studies: the variants whose difference (second minus first, over common seeds on the
    same items) is not explained by chance, and folded those that are; nothing where they have no variant in common."""
    variants = found.variants[found.variants["status"] == "done"]
    names = list(dict.fromkeys(variants["study"]))
    if len(names) != 2:
        return []
    keyed = variants.reset_index(names="row")
    first, second = (keyed.loc[keyed["study"] == name, [*SAME, "row"]] for name in names)
    common = first.merge(second, on=SAME, suffixes=("", "_other"))
    if common.empty:
        return []
    pairs = list(zip(common["row_other"], common["row"], strict=True))
    frame = differences(pairs, found.variants, found.runs, found.replicates, found.means)
    frame["p_holm"] = bootstrap.holm(frame["p"])
    rows: dict[bool, list[list[str]]] = {True: [], False: []}
    for change in frame.itertuples():
        one, other = (found.variants.loc[row] for row in (change.other, change.row))
        low, high = change.difference_low_points, change.difference_high_points
        interval = "other items or seeds" if pd.isna(low) else f"[{signed(low)}, {signed(high)}]"
        scores = [fixed(100 * variant["metric"], 1) for variant in (one, other)]
        points = 100 * (other["metric"] - one["metric"]) if pd.isna(low) else change.difference_points
        rows[bool(change.p_holm < ALPHA)].append(
            [one["label"], budget(one), *scores, signed(points), interval, p_text(change.p_holm)]
        )
    header = [
        "method",
        "budget",
        *(f"{what}, %: {name}" for name in names),
        "change, points",
        "95 % interval",
        "p (Holm)",
    ]
    said = "Second minus first, on the same items and seeds; corrected over all variants that both studies have."
    none = "" if rows[True] else "Nothing that both studies have differs by more than chance explains. "
    grids = [Grid(f"What changed: {what}", header, rows[True], none + said)]
    if rows[False]:
        grids.append(Grid(f"Not shown to have changed: {what}", header, rows[False], folded=True))
    return grids


def break_even(sizes: Sequence[float], ratios: Sequence[float]) -> tuple[float, float, float] | None:
    """Where `ratios` (speed over the dense model's) at growing `sizes` first rise from below 1 to 1 or more: the place
    by interpolation over the logarithm of the size, and the measured sizes on both sides; None where they do not."""
    for (before, low), (after, high) in pairwise(zip(sizes, ratios, strict=True)):
        if low < 1 <= high:
            share = (1 - low) / (high - low)
            return exp(log(before) + share * (log(after) - log(before))), before, after
    return None


def break_even_grid(speeds: pd.DataFrame) -> Grid | None:
    """From which image size and batch size on each variant is faster than dense, in timings that cover several."""
    if speeds.empty:
        return None
    rows = []
    for size, (what, unit, fixed_size) in _SIZES.items():
        same = ["directory", "device_name", "dtype", "num_threads", fixed_size]
        timed = speeds[speeds["role"].ne("dense") & speeds["ratio_to_dense_median"].notna()]
        several = timed.groupby([*same, "variant"], sort=False, dropna=False)[size].transform("nunique") > 1
        timed = timed[several.astype(bool)]  # of thousands of variants, few are timed at several sizes
        for (*_, variant), own in timed.groupby([*same, "variant"], sort=False, dropna=False):
            own = own.drop_duplicates(size, keep="last").sort_values(size)
            if len(own) > 1:
                rows.append(_break_even_row(own, str(variant), size, what, unit, fixed_size))
    if not rows:
        return None
    header = ["variant", "along", "at", "× dense at the smallest", "× dense at the largest", "faster than dense from"]
    said = (
        "Throughput over the dense model's in the same rounds; between two sizes by interpolation over their logarithm."
    )
    return Grid("Where it begins to pay", header, rows, said)


def _break_even_row(own: pd.DataFrame, variant: str, size: str, what: str, unit: str, fixed_size: str) -> list[str]:
    sizes, ratios = own[size].to_list(), own["ratio_to_dense_median"].to_list()
    at = f"{_SIZES[fixed_size][0]} {own[fixed_size].iat[0]}"
    if found := break_even(sizes, ratios):
        begins = f"about {number(found[0])} {unit} (measured: {found[1]:g}, {found[2]:g})"
    elif min(ratios) >= 1:
        begins = f"the smallest measured, {sizes[0]:g} {unit}"
    else:
        begins = f"not bracketed by {sizes[0]:g} to {sizes[-1]:g} {unit}"
    ends = [f"{number(ratio)} ({side:g} {unit})" for ratio, side in ((ratios[0], sizes[0]), (ratios[-1], sizes[-1]))]
    return [variant, what, at, *ends, begins]
