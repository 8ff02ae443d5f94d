"""What each figure shows: columns of the summary, units, and the caption that its reader needs."""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

__all__ = ["PANELS", "PUBLISHED_PANELS", "Panel"]


@dataclass(frozen=True)
class Panel:
    """What stands on the axes. `x` and `y` name columns of the summary; `metric` in them is replaced by the task's."""

    name: str
    x: str
    y: str
    x_label: str
    y_label: str
    x_spread: tuple[str, str] | None = None
    y_spread: tuple[str, str] | None = None
    cheap_end: Literal["left", "right"] = "left"  # where the small budgets are, and the names
    front: bool = True
    ideal: bool = False  # draw the throughput that the MACs alone would give
    dodge: bool = (
        False  # move whole curves apart in x, where all methods meet the same budgets and bars would cover bars
    )
    caption: str = ""

    @property
    def scored(self) -> bool:
        """Whether it shows a metric."""
        return self.y.startswith(("metric", "difference"))

    def doubted(self, summary: pd.DataFrame) -> pd.Series:
        """Whether a finding of the health box concerns what is shown of each row."""
        timed = any(column.startswith(("images_per_s", "ratio_to_dense")) for column in (self.x, self.y))
        return (self.scored & (summary["findings"] != "")) | (timed & (summary["speed_findings"] != ""))


_ACCURACY: dict[str, Any] = {
    "y": "metric_percent", "y_label": "{metric}{kind}, %", "y_spread": ("metric_low_percent", "metric_high_percent"),
}  # fmt: skip
_IMAGES_SPREAD = ("images_per_s_p5", "images_per_s_p95")
_GMACS: dict[str, Any] = {"x": "macs_g", "x_label": "MACs per image, {power}"}
_BARS = "Bars: 95 % interval of the metric"
PANELS = (
    Panel(
        "pareto_accuracy_gmacs", **_GMACS, **_ACCURACY, dodge=True,
        caption=f"{_BARS}. Curves are moved apart sideways by about 1 % of the axis; the table has the exact MACs.",
    ),
    Panel(
        "pareto_accuracy_throughput", x="images_per_s_median", x_label="throughput, images/s", x_spread=_IMAGES_SPREAD,
        cheap_end="right", **_ACCURACY, caption=f"{_BARS}, and 5th to 95th percentile of the throughput.",
    ),
    Panel(
        "throughput_gmacs", **_GMACS, y="images_per_s_median", y_label="throughput, images/s", y_spread=_IMAGES_SPREAD,
        front=False, ideal=True,
        caption="Bars: 5th to 95th percentile. Grey: the throughput that the MACs alone would give.",
    ),
)  # fmt: skip
_DIFFERENCE: dict[str, Any] = {
    "y": "difference_points", "y_label": "{metric} minus dense, points",
    "y_spread": ("difference_low_points", "difference_high_points"), "front": False,
}  # fmt: skip
_OWN_DENSE = (
    "Lines: this study. Grey: published, on other data, backbones and training, each relative to the dense model of "
    "its own source{}; hollow: quoted by a secondary source. Compare shapes, not levels."
)
PUBLISHED_PANELS = (
    Panel(
        "published_accuracy_macs_share", x="macs_percent_of_dense", x_label="MACs, % of dense", **_DIFFERENCE,
        dodge=True, caption=_OWN_DENSE.format(""),
    ),
    Panel(
        "published_accuracy_speedup", x="ratio_to_dense_median", x_label="throughput, multiple of dense", **_DIFFERENCE,
        cheap_end="right", x_spread=("ratio_to_dense_p5", "ratio_to_dense_p95"),
        caption=_OWN_DENSE.format(" on the same hardware"),
    ),
    Panel(
        "published_accuracy_gmacs", **_GMACS, **_ACCURACY, front=False,
        caption="Lines: this study. Grey: published for the same data set and backbone, trained by others; hollow: "
        "quoted by a secondary source.",
    ),
)  # fmt: skip
