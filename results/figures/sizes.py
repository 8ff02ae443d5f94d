"""How large figures are: as wide as one or two columns of a paper. Fonts have the same size in both."""

from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["ONE_COLUMN", "SIZES", "Size", "new_figure"]


class Size(NamedTuple):
    """`taller`: over the height of a figure in one column."""

    columns: int
    width_in: float
    taller: float = 1.0


ONE_COLUMN = Size(1, 3.25)
SIZES = {"one-column": ONE_COLUMN, "two-column": Size(2, 6.75, 1.25)}


def new_figure(size: Size, height_in: float) -> Figure:
    """Empty, on an Agg canvas of its own; `height_in` in one column."""
    figure = Figure(figsize=(size.width_in, size.taller * height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
