"""Pictures of live patches: some test items under variants side by side, behind each block that reduces.

Letters: I items that runs follow, R reductions, L patches of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import pandas as pd

from results.html.content import Live, LiveRow, Patches
from results.records.items import Items
from results.records.store import CorruptRecord, read_predictions
from results.statistics.analysis import Analysis
from results.statistics.curves import variant_name
from results.statistics.insight.kept import Kept, read_kept

__all__ = ["SAID", "chosen", "live_groups", "path_of"]

_NUM_ITEMS = 6
_MAX_VARIANTS = 60  # those of the smallest budgets
SAID = (
    f"The items are {_NUM_ITEMS}, evenly spaced by number among those that runs follow, whatever became of them; each "
    "variant by its first seed. Faded and struck out: not live, dropped or merged into another; of merged patches the "
    "one whose token took the others is live. Below each picture: the class that is read in the end."
)


@dataclass(frozen=True)
class _Column:
    """A variant by its first seed."""

    name: str
    kept: Kept
    target: Mapping[int, int]  # by item, as `guess`; empty where items have no class
    guess: Mapping[int, int]

    def row(self, item: int) -> int:
        return int(np.flatnonzero(self.kept.item == item)[0])


def live_groups(found: Analysis, items: Mapping[str, Items]) -> list[Live]:
    """One for each budget of each study, the smallest first; none where a study has no pictures (`items`), or its runs
    do not say which patches were live in them."""
    variants = found.variants
    variants = variants[(variants["status"] == "done") & ~variants["is_dense"]]
    groups, number = [], 0
    for (study, asked), group in variants.groupby(["study", "budget_asked"], dropna=False):
        group = group[: max(0, _MAX_VARIANTS - number)]
        number += len(group)
        columns = [column for row in group.itertuples() if (column := _column(found.runs, row))]
        if made := _group(columns, str(study), asked, items[str(study)]):
            groups.append(made)
    return groups


def chosen(numbers: Sequence[int]) -> list[int]:
    """_NUM_ITEMS of them, evenly spaced."""
    count = min(_NUM_ITEMS, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]


def path_of(cells: np.ndarray) -> str:
    """SVG path around the marked ones of [side, side] bool, in units of patches, a rectangle for each run in a row."""
    parts = []
    for y, row in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        parts += [f"M{start} {y}h{end - start}v1h-{end - start}z" for start, end in edges.reshape(-1, 2).tolist()]
    return "".join(parts)


def _column(runs: pd.DataFrame, row: Any) -> _Column | None:
    """None where its record does not hold live patches of a square grid."""
    path = runs["path"].iat[row.members[0]]
    try:
        kept = read_kept(path)
        if kept is None or isqrt(kept.level.shape[1]) ** 2 != kept.level.shape[1]:
            return None
        read = read_predictions(path) if row.metric_statistic == "mean" else {}
        if not {"item", "target", "prediction"} <= read.keys():
            return _Column(variant_name(row), kept, {}, {})
    except (FileNotFoundError, CorruptRecord):
        return None
    numbers, target, guess = (read[key].tolist() for key in ("item", "target", "prediction"))
    return _Column(
        variant_name(row), kept, dict(zip(numbers, target, strict=True)), dict(zip(numbers, guess, strict=True))
    )


def _group(columns: Sequence[_Column], study: str, asked: float, items: Items) -> Live | None:
    followed = [item for item in columns[0].kept.item.tolist() if item in items.pictures] if columns else []
    if not followed:
        return None
    numbers, shape = chosen(followed), columns[0].kept.level.shape[1]
    columns = [one for one in columns if one.kept.level.shape[1] == shape and np.isin(numbers, one.kept.item).all()]
    blocks = sorted({int(block) for column in columns for block in column.kept.blocks})
    place = {block: number for number, block in enumerate(blocks, 1)}
    rows = []
    for item in numbers:
        truth = columns[0].target.get(item)
        name = f"item {item}" + ("" if truth is None else f": {items.name(truth)}")
        rows.append(LiveRow(f"{study}/{item}", name, [_patches(column, item, place, items) for column in columns]))
    heads = [(column.name, _counts(column, shape)) for column in columns]
    budget = "at budgets of their own" if pd.isna(asked) else f"at {asked:g} of the dense MACs"
    return Live(f"{study}, {budget}", isqrt(shape), blocks, heads, rows)


def _patches(column: _Column, item: int, place: Mapping[int, int], items: Items) -> Patches:
    level = column.kept.level[column.row(item)]
    side = isqrt(len(level))
    blocks = column.kept.blocks.tolist()
    leaves = {place[block]: path_of((level == number).reshape(side, side)) for number, block in enumerate(blocks)}
    left = " → ".join(str(int((level > number).sum())) for number in range(len(blocks)))
    behind = ", ".join(map(str, blocks))
    alt = f"{column.name}, item {item}: of {len(level)} patches {left} are live behind blocks {behind}"
    guess = column.guess.get(item)
    said = "" if guess is None else items.name(guess)
    return Patches(alt, {at: path for at, path in leaves.items() if path}, said, guess != column.target.get(item))


def _counts(column: _Column, patches: int) -> str:
    """Live patches behind each reduction, mean over the items that are followed."""
    means = [(column.kept.level > number).sum(axis=1).mean() for number in range(len(column.kept.blocks))]
    return " → ".join(f"{mean:.0f}" for mean in [patches, *means])
