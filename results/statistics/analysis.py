"""Runs to variants with their intervals and differences: what every page of results begins with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.statistics import compare, curves
from results.statistics.compare import Replicates
from results.statistics.joint import fronts, lost, power

__all__ = ["Analysis", "analyse"]


@dataclass(frozen=True)
class Analysis:
    """Frames of curves.py and compare.py."""

    runs: pd.DataFrame
    variants: pd.DataFrame
    replicates: Replicates
    means: np.ndarray  # [V, B] of the variants, in every resample
    pairs: pd.DataFrame


def analyse(runs: pd.DataFrame) -> Analysis:
    """`runs`: of frames.run_frame, not empty."""
    variants = curves.variant_frame(runs)
    replicates = compare.replicate(runs, max(compare.largest_families(variants).values()))
    means = compare.add_intervals(variants, replicates)
    compare.add_differences_to_dense(variants, runs, replicates, means)
    compare.add_differences_to_random(variants, runs, replicates, means)
    fronts.add_front_probability(variants, means)
    fronts.add_improvement(variants, replicates)
    power.add_size(variants)
    lost.add_lost(variants, runs, replicates)
    return Analysis(runs, variants, replicates, means, compare.pairwise(variants, runs, replicates, means))
