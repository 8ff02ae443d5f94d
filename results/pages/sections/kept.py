"""What is said of live patches: what of the foreground they keep, how much they agree, how steady the scores are."""

from typing import Any

import pandas as pd

from results.figures.numbers import NOTHING, fixed
from results.html.content import Grid
from results.pages.tables import budget
from results.statistics.insight.kept import BETWEEN_FLIPS, BETWEEN_METHODS, BETWEEN_SEEDS, CONSISTENCY, RECALL

__all__ = ["kept_grids"]

_SAID = (
    "Of {items} test items, evenly spaced. Live: behind the last reduction; of merged patches the one whose token took "
    "the others. Foreground: patches with something to predict. IoU: of the live patches of two seeds on the same "
    "image. By chance: of as many patches drawn at random. Rank consistency: Spearman's ρ between the scores of "
    "successive reducers, over the patches that reach the later one; what ranks no patches has none. ± is half the "
    "width of the 95 % interval. All blocks with intervals are in kept.csv."
)
_MIRRORED = (
    " Mirror image: left is right, and its live patches are laid back on the image; a choice that mirroring does not "
    "change has 1."
)


def kept_grids(kept: pd.DataFrame, max_pairs: int) -> list[Grid]:
    """A row per variant of `insight.kept.kept_frame`, and a row per pair of methods, where there are at most so
    many."""
    of_variants, pairs = (kept[(kept["measure"] == BETWEEN_METHODS) == between] for between in (False, True))
    flipped = bool((of_variants["measure"] == BETWEEN_FLIPS).any())
    rows = [_row(own, flipped) for _, own in of_variants.groupby(["study", "variant", "curve"], sort=False)]
    header = ["method", "budget", "blocks", "live patches", "foreground recall, % (by chance)", "recall by block, %"]
    header += ["IoU between seeds (by chance)", *([f"{BETWEEN_FLIPS} (by chance)"] if flipped else [])]
    header += ["rank consistency by block"]
    said = _SAID.format(items=" or ".join(f"{count:,}" for count in sorted(set(kept["items"]))))
    said += _MIRRORED if flipped else ""
    grids = [Grid("Patches that are kept", header, rows, said)] if rows else []
    if 0 < len(pairs) <= max_pairs:
        header = ["budget", "method", "and", "IoU", "95 % interval", "by chance"]
        rows = [
            [
                f"{row.budget_asked:g}", row.curve, row.other, fixed(row.value, 2),
                f"[{fixed(row.low, 2)}, {fixed(row.high, 2)}]", fixed(row.chance, 2),
            ]
            for row in pairs.sort_values("budget_asked", ascending=False, kind="stable").itertuples()
        ]  # fmt: skip
        said = "IoU of the patches that are live behind the last reduction of each, on the same images and seeds."
        grids.append(Grid("Agreement on patches between methods at the same budget", header, rows, said))
    return grids


def _row(own: pd.DataFrame, flipped: bool) -> list[str]:
    first = next(own.itertuples())
    blocks = own.drop_duplicates("block")
    by_measure = {name: rows for name, rows in own.groupby("measure", sort=False)}
    steady = by_measure.get(CONSISTENCY)
    recall = by_measure.get(RECALL)
    return [
        first.curve,
        budget(first),
        ", ".join(map(str, blocks["block"])),
        fixed(blocks["live"].iat[-1], 1),
        _last(recall, 100, 1),
        NOTHING if recall is None else " → ".join(fixed(100 * value, 0) for value in recall["value"]),
        _last(by_measure.get(BETWEEN_SEEDS), 1, 2),
        *([_last(by_measure.get(BETWEEN_FLIPS), 1, 2)] if flipped else []),
        NOTHING if steady is None else " → ".join(_rho(value) for value in steady["value"]),
    ]


def _rho(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _last(rows: Any, unit: int, digits: int) -> str:
    """Of the last block, with the level by chance."""
    if rows is None:
        return NOTHING
    value, low, high, chance = (unit * rows[name].iat[-1] for name in ("value", "low", "high", "chance"))
    return f"{fixed(value, digits)} ± {fixed((high - low) / 2, digits)} ({fixed(chance, digits)})"
