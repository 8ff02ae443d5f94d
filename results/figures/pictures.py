"""Pictures of what becomes of an image's patches: one row for each model, one column for each block that changes any,
and behind them maps of what it predicts, where it predicts pixels or objects.

Dropped patches fade to white and are crossed out. Patches that were merged have the mean colour of their group and a
line around it.

Letters: L patches of the grid, h and w sides of the image in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results.figures.plots import styled
from results.records.files import printable

__all__ = ["Box", "Map", "Row", "borders", "changed_blocks", "compose", "draw_rows", "strokes"]

_CELL_IN, _TITLE_IN, _LABEL_IN = 0.95, 0.2, 1.15
_LABEL_CHARS = 19
_FADE = 0.85  # share of white in a dropped patch
_LINE, _STROKE = "#D55E00", "#9A9A9A"
_RIGHT, _WRONG = "#404040", "#B00000"


class Box(NamedTuple):
    """A frame in a map, in pixels, with a name at its upper left."""

    start: tuple[float, float]  # x y of the upper left
    end: tuple[float, float]  # x y of the lower right
    colour: str
    name: str = ""
    dashed: bool = False


class Map(NamedTuple):
    """A picture of what a model predicts."""

    title: str
    picture: np.ndarray  # [h, w, 3] in 0..1
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Row:
    """One model on one image."""

    name: str
    verdict: str  # true and predicted class
    correct: bool | None  # None: nobody knows
    image: np.ndarray  # [h, w, 3] in 0..1
    held: np.ndarray  # [depth, L] behind each block the position that stands for each one; -1: dropped
    grid: tuple[int, int]  # rows and columns
    maps: tuple[Map, ...] = ()  # what stands behind the blocks


def changed_blocks(held: np.ndarray) -> list[int]:
    """Blocks behind which [depth, L] differs from what it was before."""
    before = np.concatenate([np.arange(held.shape[1])[None], held[:-1]])
    return np.flatnonzero((held != before).any(axis=1)).tolist()


def compose(image: np.ndarray, held: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """[h, w, 3] and one row of `Row.held` [L] -> the image with dropped patches faded and merged ones in the mean
    colour of their group."""
    patch = _patch_of_pixel(image.shape[:2], grid)
    holder = held[patch]  # [h, w]
    group = np.where(holder < 0, held.size, holder).ravel()
    count = np.bincount(group, minlength=held.size + 1)
    sums = np.stack([np.bincount(group, image[..., c].ravel(), held.size + 1) for c in range(3)], axis=-1)
    means = (sums / np.maximum(count, 1)[:, None])[group].reshape(image.shape)
    merged = (np.bincount(held[held >= 0], minlength=held.size) > 1)[holder] & (holder >= 0)
    faded = (1 - _FADE) * image + _FADE
    return np.where((holder < 0)[..., None], faded, np.where(merged[..., None], means, image))


def borders(held: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Lines between neighbours of different groups, of which one is merged, in units of patches. -> [n, 2, 2] x y"""
    rows, columns = grid
    holder = held.reshape(grid)
    merged = (np.bincount(held[held >= 0], minlength=held.size) > 1)[holder] & (holder >= 0)
    apart_x = (holder[:, 1:] != holder[:, :-1]) & (merged[:, 1:] | merged[:, :-1])
    apart_y = (holder[1:] != holder[:-1]) & (merged[1:] | merged[:-1])
    upright = [[(x + 1, y), (x + 1, y + 1)] for y, x in np.argwhere(apart_x)]
    level = [[(x, y + 1), (x + 1, y + 1)] for y, x in np.argwhere(apart_y)]
    return np.array(upright + level, dtype=float).reshape(-1, 2, 2)


def strokes(held: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A diagonal through every dropped patch: on a bright image fading alone is not seen. -> [n, 2, 2] x y"""
    y, x = np.divmod(np.flatnonzero(held < 0), grid[1])
    return np.stack([np.stack([x, y + 1], -1), np.stack([x + 1, y], -1)], axis=1).astype(float)


def draw_rows(rows: Sequence[Row], title: str) -> Figure:
    """The picture of one image under several models."""
    blocks = sorted({block for row in rows for block in changed_blocks(row.held)})
    columns = 1 + len(blocks) + max(len(row.maps) for row in rows)
    width = _LABEL_IN + _CELL_IN * columns
    height = _TITLE_IN + (_CELL_IN + _TITLE_IN) * len(rows)
    with styled():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        figure.text(0.05 / width, 1 - 0.5 * _TITLE_IN / height, printable(title), va="center", fontsize=7, color=_RIGHT)
        for y, row in enumerate(rows):
            bottom = height - _TITLE_IN - (y + 1) * (_CELL_IN + _TITLE_IN)
            changed = changed_blocks(row.held)
            size = 0.94 * _CELL_IN
            boxes = [
                ((_LABEL_IN + x * _CELL_IN) / width, bottom / height, size / width, size / height)
                for x in range(columns)
            ]
            for box, block in zip(boxes, [None, *blocks], strict=False):
                if block is None or block in changed:
                    _draw_cell(figure.add_axes(box), row, block)
            for box, shown in zip(boxes[1 + len(blocks) :], row.maps, strict=False):
                _draw_map(figure.add_axes(box), shown)
            _write_label(figure, row, 0.05 / width, (bottom + _CELL_IN / 2) / height)
    return figure


def _write_label(figure: Figure, row: Row, x: float, y: float) -> None:
    name, verdict = (
        "\n".join(
            fill(line, _LABEL_CHARS, break_long_words=False, break_on_hyphens=False)
            for line in printable(text).split("\n")
        )
        for text in (row.name, row.verdict)
    )
    figure.text(x, y + 0.004, name, va="bottom", fontsize=6.5, color="black")
    figure.text(x, y - 0.004, verdict, va="top", fontsize=6, color=_WRONG if row.correct is False else _RIGHT)


def _draw_cell(axes: Axes, row: Row, block: int | None) -> None:
    """The input, or what is left of it behind `block`."""
    axes.set_axis_off()
    columns, grid_rows = row.grid[1], row.grid[0]
    extent = (0, columns, grid_rows, 0)
    num_patches = row.held.shape[1]
    if block is None:
        axes.imshow(row.image, extent=extent, interpolation="nearest")
        axes.set_title(f"{num_patches} patches", fontsize=6, pad=2)
        return
    held = row.held[block]
    axes.imshow(compose(row.image, held, row.grid), extent=extent, interpolation="nearest")
    axes.add_collection(LineCollection(list(strokes(held, row.grid)), colors=_STROKE, linewidths=0.3))
    axes.add_collection(LineCollection(list(borders(held, row.grid)), colors=_LINE, linewidths=0.5))
    live = int((held == np.arange(num_patches)).sum())
    axes.set_title(f"block {block}: {live}", fontsize=6, pad=2)


def _draw_map(axes: Axes, shown: Map) -> None:
    height, width = shown.picture.shape[:2]
    axes.set_axis_off()
    axes.imshow(shown.picture, extent=(0, width, height, 0), interpolation="nearest")
    axes.set_title(shown.title, fontsize=6, pad=2)
    for (x0, y0), (x1, y1), colour, name, dashed in shown.boxes:
        size, style = (x1 - x0, y1 - y0), "--" if dashed else "-"
        axes.add_patch(Rectangle((x0, y0), *size, fill=False, edgecolor=colour, linewidth=0.8, linestyle=style))
        label = {"facecolor": colour, "linewidth": 0, "pad": 0.4}
        axes.text(x0, y0, printable(name), fontsize=4.5, color="white", va="top", clip_on=True, bbox=label)


def _patch_of_pixel(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """[h, w] number of the patch that each pixel lies in."""
    row, column = (np.arange(side) * count // side for side, count in zip(size, grid, strict=True))
    return row[:, None] * grid[1] + column
