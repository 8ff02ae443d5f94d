"""Runs to variants with their intervals and differences: what every page of results begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from results.statistics import compare, curves
from results.statistics.joint import fronts, lost, power
from results.statistics.metrics.replicates import Replicates, replicate

__all__ = ["Analysis", "analyse", "compared"]


@dataclass(frozen=True)
class Analysis:
    """Frames of curves.py and compare.py."""

    runs: pd.DataFrame
    variants: pd.DataFrame
    replicates: Replicates
    means: np.ndarray  # [V, B] of the variants, in every resample
    pairs: pd.DataFrame
    beside: Mapping[str, tuple[pd.DataFrame, Replicates]] = field(default_factory=dict)  # further metrics, by name


def analyse(runs: pd.DataFrame, beside: Mapping[str, pd.DataFrame] | None = None) -> Analysis:
    """`runs`: of frames.run_frame, not empty; `beside`: the same runs by further metrics, which are read out of the
    same files in the same pass."""
    variants = curves.variant_frame(runs)
    further = beside or {}
    replicates, *others = replicate([runs, *further.values()], _num_comparisons(variants))
    means = compare.add_intervals(variants, replicates)
    compare.add_differences_to_dense(variants, runs, replicates, means)
    compare.add_differences_to_random(variants, runs, replicates, means)
    fronts.add_front_probability(variants, means)
    fronts.add_improvement(variants, replicates)
    power.add_size(variants)
    lost.add_lost(variants, runs, replicates)
    pairs = compare.pairwise(variants, runs, replicates, means)
    read = {name: (own, found) for (name, own), found in zip(further.items(), others, strict=True)}
    return Analysis(runs, variants, replicates, means, pairs, read)


def compared(runs: pd.DataFrame, replicates: Replicates | None = None) -> pd.DataFrame:
    """The variants of `runs` with intervals and the differences to dense and to random, and nothing else."""
    variants = curves.variant_frame(runs)
    if replicates is None:
        (replicates,) = replicate([runs], _num_comparisons(variants))
    means = compare.add_intervals(variants, replicates)
    compare.add_differences_to_dense(variants, runs, replicates, means)
    compare.add_differences_to_random(variants, runs, replicates, means)
    return variants


def _num_comparisons(variants: pd.DataFrame) -> int:
    return max(compare.largest_families(variants).values())
