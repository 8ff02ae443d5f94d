"""Samples of seconds to the figures of a speed record, and what must be true of them. Knows no model and no device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["check_record", "flag_speedup", "spread", "variant_record"]

MAX_SPEEDUP = 1.25  # times the ratio of MACs; beyond it something other than the work saved is being measured
ROUNDING = 1e-6  # relative
UNKNOWN = {"median": None, "p5": None, "p95": None}


def variant_record(
    name: str,
    samples_s: Sequence[float],
    dense_s: Sequence[float] | None,
    latency_s: Sequence[float],
    batch_size: int,
    peak_memory_mib: float | None,
    flags: Sequence[str],
    failed: bool = False,
) -> dict[str, Any]:
    """One entry of `variants`. Both sample lists are in order of rounds; `dense_s` is None where dense has failed.

    Percentiles of images/s are those of the seconds turned over, so that throughput x seconds is the batch exactly.
    """
    rate: dict[str, Any] = dict(UNKNOWN)
    ratio: dict[str, Any] = dict(UNKNOWN)
    latency: dict[str, Any] = dict(UNKNOWN)
    if not failed:
        took = spread(samples_s)
        rate = {key: batch_size / took[of] for key, of in (("median", "median"), ("p5", "p95"), ("p95", "p5"))}
        latency = spread([1e3 * s for s in latency_s]) if latency_s else latency
        if dense_s is not None:
            ratio = spread([dense / own for dense, own in zip(dense_s, samples_s, strict=True)])
    return {
        "variant": name,
        "samples_s": list(samples_s),
        "images_per_s": rate,
        "ratio": ratio,
        "latency_ms": latency,
        "peak_memory_mib": peak_memory_mib,
        "flags": list(flags),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 5th and 95th percentile."""
    p5, median, p95 = np.percentile(values, [5, 50, 95])
    return {"median": float(median), "p5": float(p5), "p95": float(p95)}


def check_record(record: dict[str, Any]) -> None:
    """Raises ValueError naming the variant whose figures do not follow from its samples: a sample for each round,
    throughput x batch latency = batch, ratios from the same rounds."""
    samples = {variant["variant"]: variant["samples_s"] for variant in record["variants"]}
    for variant in record["variants"]:
        name, own, rate = variant["variant"], variant["samples_s"], variant["images_per_s"]["median"]
        if rate is None:  # it ran out of memory
            continue
        if len(own) != record["rounds"]:
            raise ValueError(f"{name}: {len(own)} samples in {record['rounds']} rounds")
        batch = rate * spread(own)["median"]
        if not math.isclose(batch, record["batch_size"], rel_tol=ROUNDING):
            raise ValueError(
                f"{name}: throughput x latency is {batch:.6g} images, the batch has {record['batch_size']}"
            )
        if variant["ratio"]["median"] is not None:
            ratio = spread([dense / s for dense, s in zip(samples[record["dense"]], own, strict=True)])["median"]
            if not math.isclose(ratio, variant["ratio"]["median"], rel_tol=ROUNDING):
                raise ValueError(f"{name}: ratio {variant['ratio']['median']:.6g} recorded, {ratio:.6g} in its samples")


def flag_speedup(ratio_median: float | None, mac_ratio: float) -> list[str]:
    """A flag for a speedup that the work saved does not explain. `mac_ratio`: dense MACs / own MACs."""
    if ratio_median is None or ratio_median <= MAX_SPEEDUP * mac_ratio:
        return []
    return [f"speedup {ratio_median:.2f}x is more than {MAX_SPEEDUP} times what its MACs save ({mac_ratio:.2f}x)"]
