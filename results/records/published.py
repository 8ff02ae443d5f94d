"""Numbers from papers (published.csv), as they stand and relative to the dense model of the same source.

Papers measured on other hardware, with other training and other counters: a throughput is only ever shown as the ratio
to the same source's own dense model, on the same backbone and hardware. The column `gflops` counts
multiply-accumulates, whatever the papers call them. Rows whose source starts with "secondary" were not read in the
original.
"""

import re
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["PUBLISHED_CSV", "comparable", "load_published", "published_backbone", "published_points"]

PUBLISHED_CSV = Path(__file__).with_name("published.csv")

_DENSE = "unpruned"
_DATASET = {"imagenet": "ImageNet-1k", "ade20k": "ADE20k"}  # ours -> theirs
_SIZE = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}
_TIMM_NAME = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)_patch(\d+)_(\d+)(\.mae)?.*")


def load_published(path: Path = PUBLISHED_CSV) -> pd.DataFrame:
    """All rows, with `secondary` and, where the source has a dense row to compare with, `macs_share` (of dense),
    `difference` (of the metric to dense, in its own points) and `throughput_ratio` (to dense); NaN elsewhere.

    Raises:
        ValueError: the file lacks a column.
    """
    table = pd.read_csv(path)
    wanted = [
        "method",
        "backbone",
        "task",
        "dataset",
        "setting",
        "metric",
        "value",
        "gflops",
        "throughput_img_s",
        "hardware",
        "source",
    ]
    if missing := [column for column in wanted if column not in table]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    table["secondary"] = table["source"].str.startswith("secondary")
    dense = pd.DataFrame(_dense_rows(table), index=table.index)
    table["macs_share"] = table["gflops"] / dense["gflops"]
    table["difference"] = table["value"] - dense["value"]
    same_hardware = table["hardware"] == dense["hardware"]  # NaN equals nothing
    table["throughput_ratio"] = (table["throughput_img_s"] / dense["throughput_img_s"]).where(same_hardware)
    return table


def published_points(summary: pd.DataFrame, path: Path = PUBLISHED_CSV) -> pd.DataFrame:
    """The rows of the summary's task and metric, in the columns of the summary: shares, differences and ratios for all
    that have a dense row, MACs and accuracy where data set and backbone are those of a study."""
    metric = summary["metric_name"].iat[0]
    table = load_published(path)
    table = table[(table["task"] == summary["task"].iat[0]) & (table["metric"] == metric)]
    ours = summary[["dataset", "backbone"]].drop_duplicates().itertuples(index=False)
    same = table.index.isin([row for dataset, backbone in ours for row in comparable(table, dataset, backbone).index])
    return table.assign(
        macs_percent_of_dense=100 * table["macs_share"],
        difference_points=table["difference"],
        ratio_to_dense_median=table["throughput_ratio"],
        macs_g=table["gflops"].where(same),
        **{f"{metric}_percent": table["value"].where(same)},
    )


def comparable(published: pd.DataFrame, dataset: str, backbone: str) -> pd.DataFrame:
    """Rows whose accuracy and MACs may stand beside ours as they are: same data set and same backbone."""
    return published[
        (published["dataset"] == _DATASET.get(dataset)) & (published["backbone"] == published_backbone(backbone))
    ]


def published_backbone(timm_name: str) -> str | None:
    """`deit_small_patch16_224.fb_in1k` -> `DeiT-S/16@224`; None for names that papers do not have."""
    match = _TIMM_NAME.fullmatch(timm_name)
    if match is None:
        return None
    family, size, patch, img_size, mae = match.groups()
    return f"{'MAE ' if mae else ''}{'DeiT' if family == 'deit' else 'ViT'}-{_SIZE[size]}/{patch}@{img_size}"


def _dense_rows(table: pd.DataFrame) -> list[dict[str, object]]:
    """For every row the dense row of the same source, backbone, data and metric; empty where there is none or no
    telling which, and for dense rows themselves."""
    columns = ["gflops", "value", "throughput_img_s", "hardware"]
    nothing = dict.fromkeys(columns)
    rows = table.to_dict("records")
    dense = defaultdict(list)
    for row in rows:
        if row["method"] == _DENSE:
            dense[_key(row)].append(row)
    found = []
    for row in rows:
        candidates = [] if row["method"] == _DENSE else dense[_key(row)]
        if len(candidates) > 1:  # ToMe's README: several trainings of one backbone, told apart by the setting
            parts = _parts(row["setting"])
            candidates = [one for one in candidates if _parts(one["setting"], row["method"]) <= parts]
        found.append({key: candidates[0][key] for key in columns} if len(candidates) == 1 else nothing)
    return found


def _key(row: dict[Hashable, Any]) -> tuple[Any, ...]:
    return tuple(row[column] for column in ("source", "backbone", "task", "dataset", "metric"))


def _parts(setting: str, method: str = "") -> set[str]:
    """`baseline of: ToMe trained; MAE fine-tune` -> {trained, MAE fine-tune}."""
    parts = (part.strip() for part in str(setting).removeprefix("baseline of:").split(";"))
    return {part.removeprefix(method).strip() for part in parts}
