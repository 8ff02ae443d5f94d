"""Items that the dense model gets right and a variant does not, and the reverse, on the seeds that both have."""

import numpy as np
import pandas as pd

from results.statistics.compare import POINTS, paired_runs
from results.statistics.metrics.replicates import Replicates

__all__ = ["add_lost"]


def add_lost(variants: pd.DataFrame, runs: pd.DataFrame, replicates: Replicates) -> None:
    """Puts `lost_percent` and `won_percent` into the frame: of all test items, those that only the dense model of the
    same seed gets right, and those that only the variant does, means over seeds; their difference is that to dense. NaN
    where items are not right or wrong."""
    found = np.full((2, len(variants)), np.nan)
    for row, dense in variants.loc[variants["dense_row"] >= 0, "dense_row"].items():
        ours, theirs = paired_runs(row, dense, variants, runs, replicates)
        pairs = [(replicates.hits[a], replicates.hits[b]) for a, b in zip(ours, theirs, strict=True)]
        if pairs and all(hits is not None for pair in pairs for hits in pair):
            items = float(variants["num_items"][row]) * len(pairs)
            found[0, row] = sum(int(np.bitwise_count(b & ~a).sum()) for a, b in pairs) / items
            found[1, row] = sum(int(np.bitwise_count(a & ~b).sum()) for a, b in pairs) / items
    variants["lost_percent"], variants["won_percent"] = POINTS * found
