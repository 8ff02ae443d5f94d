"""Whether two records of one study say the same: made on other machines, at other commits, with other versions.

Variants are the same where method, options, budget and training are. Nothing is averaged over the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from results.records.frames import run_frame
from results.records.store import Records
from results.statistics import bootstrap
from results.statistics.analysis import Analysis, analyse

__all__ = ["ALPHA", "SAME", "Agreement", "agreement", "read"]

ALPHA = 0.05
SAME = [
    "task", "dataset", "backbone", "quick", "reducer", "options", "method_version", "objective", "lr", "own", "epochs",
    "variant",
]  # fmt: skip
_DIFFERENCE = ["kind", "first", "second", "budget_asked"]


@dataclass(frozen=True)
class Agreement:
    """Of two studies, suffixes _a and _b.

    accuracies   one row per common variant: accuracy (percent), seeds, `difference_points` (b minus a), `p` of Welch's
                 test over seeds (NaN with one seed), `p_holm`, `verdict`
    differences  one row per difference that both have: its kind, points, Holm-corrected p, `verdict`
    """

    accuracies: pd.DataFrame
    differences: pd.DataFrame
    only: tuple[list[str], list[str]]  # variants that the other one lacks
    same_items: bool


def read(study: Records) -> Analysis:
    """Raises ValueError where no run is finished."""
    runs = run_frame([study])
    if runs.empty or not (runs["status"] == "done").any():
        raise ValueError(f"{study.directory} has no finished run to compare")
    return analyse(runs)


def agreement(a: Analysis, b: Analysis) -> Agreement:
    """Raises ValueError where the two have no variant in common."""
    first, second = (study.variants[study.variants["status"] == "done"].copy() for study in (a, b))
    for frame, study in ((first, a), (second, b)):
        frame["by_seed"] = [100 * study.runs["metric"].to_numpy(dtype=float)[rows] for rows in frame["members"]]
    columns = [*SAME, "curve", "metric", "seeds", "by_seed", "data_fingerprint"]
    common = first[columns].merge(second[columns], on=SAME, suffixes=("_a", "_b"))
    if common.empty:
        raise ValueError("the two studies have no variant with the same method, options, budget and training in common")
    common[["metric_a", "metric_b"]] *= 100
    common["difference_points"] = common["metric_b"] - common["metric_a"]
    common["p"] = [_welch(*seeds) for seeds in zip(common["by_seed_a"], common["by_seed_b"], strict=True)]
    common["p_holm"] = bootstrap.holm(common["p"])
    common["verdict"] = [_apart(p, gap) for p, gap in zip(common["p_holm"], common["difference_points"], strict=True)]
    known = set(common["variant"])
    only = tuple([name for name in frame["variant"] if name not in known] for frame in (first, second))
    differences = _differences(a).merge(_differences(b), on=_DIFFERENCE, suffixes=("_a", "_b"))
    differences["verdict"] = [_verdict(row) for row in differences.itertuples()]
    same_items = bool((common["data_fingerprint_a"] == common["data_fingerprint_b"]).all())
    return Agreement(common, differences, (only[0], only[1]), same_items)


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """p that the means of two samples of seeds are equal; their variances need not be."""
    if min(len(a), len(b)) < 2:
        return np.nan
    if not (a.std() or b.std()):  # no spread at all: the test has none to divide by
        return float(a.mean() == b.mean())
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def _apart(p: float, gap: float) -> str:
    if gap == 0:
        return "equal"
    if np.isnan(p):
        return "unknown: one seed"
    return "apart by more than seeds explain" if p < ALPHA else "within what seeds explain"


def _differences(study: Analysis) -> pd.DataFrame:
    """All differences of a study in one frame, a row each."""
    return pd.DataFrame(list(_rows(study)), columns=[*_DIFFERENCE, "points", "p_holm"]).dropna(subset=["points"])


def _rows(study: Analysis) -> Iterator[tuple[object, ...]]:
    for row in study.variants.itertuples():
        budget = -1.0 if pd.isna(row.budget_asked) else row.budget_asked  # merged on: NaN equals nothing
        yield "to dense", row.variant, "dense", budget, row.difference_points, row.p_holm
        yield "to random", row.variant, "random, same counts", budget, row.over_random_points, row.over_random_p_holm
    for row in study.pairs.itertuples():
        yield "between", row.method, row.other_method, row.budget_asked, row.difference_points, row.p_holm


def _verdict(row: object) -> str:
    decided = [getattr(row, f"p_holm_{side}") < ALPHA for side in "ab"]
    if not any(decided):
        return "neither decides"
    if not all(decided):
        return f"only {'first' if decided[0] else 'second'} decides"
    alike = getattr(row, "points_a") * getattr(row, "points_b") > 0  # noqa: B009 (a named tuple of pandas)
    return "agree" if alike else "contradict"
