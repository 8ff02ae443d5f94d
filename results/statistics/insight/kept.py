"""Which patches runs keep: agreement between methods and between seeds, recall of the foreground, and how consistently
successive reducers rank.

Letters: I items that runs follow, R reductions, L patches of the grid, S seeds, C clusters, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from results.records.store import CorruptRecord, read_predictions
from results.statistics import bootstrap
from results.statistics.analysis import Analysis
from results.statistics.bootstrap import Population
from results.statistics.curves import GROUP, variant_name

__all__ = ["MEASURES", "Kept", "chance_iou", "iou", "kept_frame", "read_kept"]

RECALL, BETWEEN_SEEDS, BETWEEN_FLIPS, BETWEEN_METHODS, CONSISTENCY = MEASURES = (
    "foreground recall", "IoU between seeds", "IoU with the mirror image", "IoU between methods", "rank consistency",
)  # fmt: skip
MAX_RUNS = 300  # whose files are read
_VARIANT = ["study", "curve", "variant", "status", "role", "budget_asked", "budget_reached", "floor", "seeds"]


@dataclass(frozen=True)
class Kept:
    """kept.npz of a run: its live patches on some test items, see studies/tasks/kept.py."""

    item: np.ndarray  # [I] ascending
    cluster: np.ndarray  # [I]
    blocks: np.ndarray  # [R] behind which there is a reduction
    level: np.ndarray  # [I, L] uint8, behind how many of them each patch is live
    foreground: np.ndarray  # [I, L] bool, patches with something to predict; none where the data set does not say
    consistency: np.ndarray  # [I, R - 1] Spearman's rho of each reducer with the one before; NaN: no order of patches
    mirrored: np.ndarray | None = None  # [I, L] `level` of the mirror images, at the places of the images; None: older

    def live(self, number: int = -1) -> np.ndarray:
        """[I, L] bool, behind reduction `number`, from 0; -1: the last."""
        return self.level > (number if number >= 0 else len(self.blocks) - 1)


def read_kept(run_dir: str) -> Kept | None:
    """None where a run has none. Raises CorruptRecord."""
    try:
        arrays = read_predictions(run_dir, "kept.npz")
    except FileNotFoundError:
        return None
    path = f"{run_dir}/kept.npz"
    try:
        level = arrays["level"]
        foreground = np.unpackbits(arrays["foreground"], axis=1, count=level.shape[1]).astype(bool)
        consistency = arrays["consistency"].astype(np.float64)
        mirrored = arrays.get("mirrored")
        found = Kept(arrays["item"], arrays["cluster"], arrays["blocks"], level, foreground, consistency, mirrored)
        lengths = {len(column) for column in (found.item, found.cluster, level, foreground, consistency)}
        if mirrored is not None and mirrored.shape != level.shape:
            raise ValueError(f"mirrored {mirrored.shape}, level {level.shape}")
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise CorruptRecord(path, f"not what live patches are ({error})") from None
    if len(lengths) != 1 or 0 in lengths or consistency.shape[1:] != (len(found.blocks) - 1,):
        raise CorruptRecord(path, "empty, or arrays of different lengths")
    return found


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of two sets of patches of each item: [I, L] bool, [I, L] bool -> [I]."""
    return (first & second).sum(axis=1) / np.maximum((first | second).sum(axis=1), 1)


@cache
def chance_iou(first: int, second: int, grid: int) -> float:
    """Expected IoU of two sets of so many patches, at least one, that are drawn at random from a grid."""
    both = np.arange(max(0, first + second - grid), min(first, second) + 1)
    return float((hypergeom.pmf(both, grid, first, second) * both / (first + second - both)).sum())


def kept_frame(found: Analysis) -> pd.DataFrame:
    """One row per measure (MEASURES) of every finished variant whose runs have it, with `value`, its 95 % interval
    `low` and `high`, its level by `chance` (NaN of rank consistency, where it is 0), and how many `items` it is of.

    foreground recall: share of the foreground patches of an image that are live behind `block`; by chance the share of
        all patches.
    IoU between seeds: of the live patches of two seeds on the same image behind `block`, mean over all pairs; the
        interval is over items alone.
    IoU with the mirror image: of the live patches of an image behind `block` and those of its mirror image, these at
        the places that they have in the image.
    rank consistency: Spearman's rho over the patches that enter the reducer at `block` between its scores and those of
        the reducer before.
    IoU between methods: with the variant `other` of the same budget, in the same seed, behind the last reduction of
        each.

    `live`: mean number of live patches behind `block`. Without rows where no run has live patches, or there are too
    many runs.
    """
    variants = found.variants[found.variants["status"] == "done"]
    if sum(map(len, variants["members"])) > MAX_RUNS:
        return pd.DataFrame()
    known = {row: own for row, members in variants["members"].items() if (own := _read(found.runs, members))}
    rows = []
    for row, own in known.items():
        rows += [_identity(variants.loc[row], own) | measured for measured in _of_variant([*own.values()])]
    budgets = variants.loc[[*known]].dropna(subset="budget_asked").groupby([*GROUP, "budget_asked"], dropna=False)
    for _, group in budgets:
        for first, second in combinations(group.index, 2):
            if measured := _between(known[first], known[second]):
                other = {"other": variant_name(variants.loc[second])}
                rows.append(_identity(variants.loc[first], known[first]) | measured | other)
    return pd.DataFrame(rows)


def _identity(variant: pd.Series, own: dict[int, Kept]) -> dict[str, Any]:
    first = next(iter(own.values()))
    return {key: variant[key] for key in _VARIANT} | {"items": len(first.item), "other": ""}


def _read(runs: pd.DataFrame, members: np.ndarray) -> dict[int, Kept]:
    """By seed; none where a run has none, or they are not of the same items and blocks."""
    found: dict[int, Kept] = {}
    for run in members:
        try:
            own = read_kept(runs["path"].iat[run])
        except CorruptRecord:
            return {}
        if own is None or (found and not _alike(own, next(iter(found.values())), blocks=True)):
            return {}
        found[int(runs["seed"].iat[run])] = own
    return found


def _alike(first: Kept, second: Kept, blocks: bool = False) -> bool:
    same = np.array_equal(first.item, second.item) and first.level.shape == second.level.shape
    return same and (not blocks or np.array_equal(first.blocks, second.blocks))


def _of_variant(own: list[Kept]) -> Iterator[dict[str, Any]]:
    """Of the seeds of a variant."""
    cluster = own[0].cluster
    for number, block in enumerate(own[0].blocks.tolist()):
        live = [one.live(number) for one in own]
        at = {"block": block, "live": float(np.mean([one.sum(axis=1).mean() for one in live]))}
        there = own[0].foreground.any(axis=1)  # items that have a foreground
        if there.any():
            recall = np.stack([_recall(one, seed.foreground) for one, seed in zip(live, own, strict=True)])
            chance = float(np.mean([one[there].mean() for one in live]))
            yield at | {"measure": RECALL, **_mean(recall, cluster), "chance": chance}
        if len(own) > 1:
            pairs = [_agreement(first, second) for first, second in combinations(live, 2)]
            shares, chance = np.mean([pair[0] for pair in pairs], axis=0), float(np.mean([pair[1] for pair in pairs]))
            yield at | {"measure": BETWEEN_SEEDS, **_mean(shares[None], cluster), "chance": chance}
        flipped = [one.mirrored > number for one in own if one.mirrored is not None]
        if len(flipped) == len(own):
            both = [_agreement(one, other) for one, other in zip(live, flipped, strict=True)]
            shares, chance = np.stack([pair[0] for pair in both]), float(np.mean([pair[1] for pair in both]))
            yield at | {"measure": BETWEEN_FLIPS, **_mean(shares, cluster), "chance": chance}
        alike = np.stack([one.consistency[:, number - 1] for one in own]) if number else np.full((1, 1), np.nan)
        if np.isfinite(alike).all(axis=0).any():
            yield at | {"measure": CONSISTENCY, **_mean(alike, cluster), "chance": np.nan}


def _between(first: dict[int, Kept], second: dict[int, Kept]) -> dict[str, Any]:
    """Of two variants, over the seeds both have; empty where there is none, or the items are not the same."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds or not _alike(first[seeds[0]], second[seeds[0]]):
        return {}
    pairs = [_agreement(first[seed].live(), second[seed].live()) for seed in seeds]
    shares, chance = np.stack([pair[0] for pair in pairs]), float(np.mean([pair[1] for pair in pairs]))
    one = first[seeds[0]]
    at = {"block": int(one.blocks[-1]), "live": float(np.mean([first[seed].live().sum(axis=1) for seed in seeds]))}
    return at | {"measure": BETWEEN_METHODS, **_mean(shares, one.cluster), "chance": chance}


def _recall(live: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """[I] share of the foreground that is live; NaN where there is none."""
    total = foreground.sum(axis=1)
    return np.where(total > 0, (live & foreground).sum(axis=1) / np.maximum(total, 1), np.nan)


def _agreement(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, float]:
    """IoU of each item, and its mean by chance at the same counts."""
    counts, times = np.unique(np.stack([first.sum(axis=1), second.sum(axis=1)]), axis=1, return_counts=True)
    chances = [chance_iou(max(int(a), 1), max(int(b), 1), first.shape[1]) for a, b in counts.T]
    return iou(first, second), float(np.average(chances, weights=times))


def _mean(values: np.ndarray, cluster: np.ndarray) -> dict[str, float]:
    """Of values [S, I], seeds by items: the mean over those items that every seed has, and its interval by resampling
    clusters and seeds."""
    there = np.isfinite(values).all(axis=0)
    population = Population.of(cluster[there])
    sums = np.column_stack([population.sums(own[there]) for own in values])  # [C, S]
    weights = _weights(len(population.sizes))
    resampled = (weights @ sums) / (weights @ population.sizes)[:, None]  # [B, S]
    low, high = bootstrap.interval(bootstrap.resample_seeds(resampled.T))
    return {"value": float(values[:, there].mean()), "low": float(low), "high": float(high)}


@lru_cache(maxsize=4)
def _weights(num_clusters: int) -> np.ndarray:
    """[B, C] how often each cluster was drawn, the same for all measures."""
    blocks = [own for _, own in bootstrap.cluster_weights(num_clusters, bootstrap.RESAMPLES)]
    return np.concatenate(blocks).astype(np.float64)
