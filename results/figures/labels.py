"""Direct labels at line ends: a column of names beside the lines, moved apart, each with a thin line to its point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["Label", "spread", "write_labels"]

_GAP_PT = 1.5  # between neighbouring names
_LEADER = 0.06  # width of the strip between the names and the points, share of the axes
_EDGE = 0.015


@dataclass(frozen=True)
class Label:
    """A name and the point it belongs to, in data coordinates."""

    text: str
    x: float
    y: float
    color: Any


def write_labels(
    figure: Figure, axes: Axes, labels: Sequence[Label], side: Literal["left", "right"], size_pt: float
) -> None:
    """Widens the x axis on `side` by what the names need and writes them there. The axes must have their final size."""
    if not labels:
        return
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}  # keeps lines behind the names from crossing them
    artists = [
        axes.text(0, 0, label.text, color=label.color, fontsize=size_pt, va="center", bbox=white) for label in labels
    ]
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    extents = [artist.get_window_extent(renderer) for artist in artists]
    box = axes.get_window_extent(renderer)
    names = max(extent.width for extent in extents) / box.width + _EDGE  # share of the axes
    start, end = _widen(axes, names + _LEADER, side)
    height = (extents[0].height + _GAP_PT * figure.dpi / 72) / box.height
    low, high = axes.get_ylim()
    wanted = (np.array([label.y for label in labels]) - low) / (high - low)
    column = names if side == "left" else 1 - names
    for artist, label, at in zip(artists, labels, spread(wanted, height), strict=True):
        x, y = start + column * (end - start), low + at * (high - low)
        artist.set(x=x, y=y, ha="right" if side == "left" else "left")
        reach = x + (0.006 if side == "left" else -0.006) * (end - start)
        axes.plot([reach, label.x], [y, label.y], color=label.color, linewidth=0.4, alpha=0.6, zorder=1)


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Positions in 0..1 closest to `wanted` [n] (least squares) with at least `gap` between neighbours; where not all
    fit, the gap shrinks until they do. Pool adjacent violators on the positions less their place in the order."""
    gap = min(gap, 1 / len(wanted))
    order = np.argsort(wanted, kind="stable")
    blocks: list[tuple[float, int]] = []  # (mean, size)
    for target in wanted[order] - gap * np.arange(len(wanted)):
        block = (float(target), 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, size = blocks.pop()
            block = ((mean * size + block[0] * block[1]) / (size + block[1]), size + block[1])
        blocks.append(block)
    pooled = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    last = 1 - gap / 2 - gap * (len(wanted) - 1)
    positions = np.empty(len(wanted))
    positions[order] = np.clip(pooled, gap / 2, max(last, gap / 2)) + gap * np.arange(len(wanted))
    return positions


def _widen(axes: Axes, share: float, side: str) -> tuple[float, float]:
    """Gives the x axis `share` of its new width on one side; returns its new limits. Ticks stay where data can be."""
    start, end = axes.get_xlim()
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(start, end)
    axes.set_xticks([tick for tick in ticks if start <= tick <= end])
    extra = (end - start) * share / (1 - share)
    axes.set_xlim(start - extra if side == "left" else start, end + extra if side == "right" else end)
    return axes.get_xlim()
