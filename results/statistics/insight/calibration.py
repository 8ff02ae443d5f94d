"""Calibration of variants: ECE with its interval and its difference to dense, and accuracy by confidence."""

import numpy as np
import pandas as pd

from results.records.store import CorruptRecord, read_predictions
from results.statistics.analysis import Analysis, compared
from results.statistics.metrics.calibration import NUM_BINS, bin_of

__all__ = ["ECE", "add_calibration", "reliability_frame"]

ECE = "ece"  # the statistic, as metrics declare it
_MAX_RUNS = 1000  # whose predictions are read once more
_VARIANT = ["study", "curve", "variant", "role", "budget_asked", "seeds"]
_DIFFERENCE = {f"difference{part}_points": f"ece_difference{part}_points" for part in ("", "_low", "_high")}


def add_calibration(found: Analysis) -> None:
    """Puts `ece` with `_low` and `_high` (shares), its difference to the dense model (`ece_difference_points` with
    `_low` and `_high`, `ece_p_holm`) into the frame of variants: from the resamples of the metric itself. NaN where a
    record has no confidences; no columns where ECE was not read beside the metric."""
    for runs, replicates in found.beside.values():
        if runs["metric_statistic"].iat[0] == ECE:
            named = {"metric": ECE, "metric_low": "ece_low", "metric_high": "ece_high", "p_holm": "ece_p_holm"}
            own = compared(runs, replicates)
            for column, name in (named | _DIFFERENCE).items():
                found.variants[name] = own[column].to_numpy()


def reliability_frame(found: Analysis) -> pd.DataFrame:
    """One row per variant and bin of confidence that is not empty, summed over its seeds: `bin` (from 0), `items`, mean
    `confidence_percent` and `accuracy_percent`. Without rows where no run has confidences, or there are too many
    runs."""
    rows: list[dict[str, object]] = []
    done = found.variants[found.variants["status"] == "done"]
    if "ece" not in done or len(found.runs) > _MAX_RUNS:
        return pd.DataFrame(rows)
    for variant in done[done["ece"].notna()].to_dict("records"):
        sums = np.zeros((3, NUM_BINS))  # items, confidence, hits
        for run in variant["members"]:
            sums += _sums(found.runs["path"].iat[run])
        for number in np.flatnonzero(sums[0]):
            items, confidence, hits = sums[:, number]
            shares = {"confidence_percent": 100 * confidence / items, "accuracy_percent": 100 * hits / items}
            rows.append({key: variant[key] for key in _VARIANT} | {"bin": number, "items": int(items)} | shares)
    return pd.DataFrame(rows)


def _sums(run_dir: str) -> np.ndarray:
    """Items, confidence and hits of each bin, [3, M]; zeros where a run has no confidences."""
    try:
        arrays = read_predictions(run_dir)
    except (FileNotFoundError, CorruptRecord):
        return np.zeros((3, NUM_BINS))
    if not {"confidence", "prediction", "target"} <= arrays.keys():
        return np.zeros((3, NUM_BINS))
    confidence, hit = arrays["confidence"].astype(np.float64), arrays["prediction"] == arrays["target"]
    where = bin_of(confidence)
    return np.stack([np.bincount(where, weights, NUM_BINS) for weights in (np.ones(len(hit)), confidence, hit)])
