"""Samples of seconds to the figures of a speed record, and what must be true of them. Knows no model and no device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from results.statistics.bootstrap import RESAMPLES, interval

__all__ = [
    "Rounds", "check_record", "energy_record", "flag_speedup", "median_interval", "median_ratio", "ranks",
    "ratio_spread", "spread", "variant_record",
]  # fmt: skip

FEWEST = 6  # values; of five the chance that all lie on one side of their median is above 5 %
LEAST, GROWTH, LOOKS = 20, 1.25, 2  # rounds before the first look at them, from one look to the next; and in a row
MAX_SPEEDUP = 1.25  # times the ratio of MACs; beyond it something other than the work saved is being measured
ROUNDING = 1e-6  # relative
WRAP_MJ = 2**64  # where a counter of energy begins anew
MAX_WATTS = 1e4  # of one GPU; more than that a counter that was set back shows
UNKNOWN = {"median": None, "p5": None, "p95": None}
NO_INTERVAL = {"low": None, "high": None}
Others = Mapping[str, Sequence[float]]


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
    ratio: dict[str, Any] = UNKNOWN | NO_INTERVAL
    latency: dict[str, Any] = dict(UNKNOWN)
    if not failed:
        took = spread(samples_s)
        rate = {key: batch_size / took[of] for key, of in (("median", "median"), ("p5", "p95"), ("p95", "p5"))}
        latency = spread([1e3 * s for s in latency_s]) if latency_s else latency
        if dense_s is not None:
            ratio = ratio_spread(dense_s, samples_s)
    return {
        "variant": name,
        "samples_s": list(samples_s),
        "images_per_s": rate,
        "ratio": ratio,
        "latency_ms": latency,
        "peak_memory_mib": peak_memory_mib,
        "flags": list(flags),
    }


def energy_record(
    counts_mj: Sequence[tuple[int | None, int | None]], took_s: Sequence[float], images: int
) -> dict[str, Any]:
    """Energy of `images` passed in each sample, from a counter before and behind it and its seconds: joules per image
    and mean watts over all rounds together, as a counter moves in steps of some 20 ms, which one sample may see and
    another not. Rounds without both counts, or between which the counter was set back, are left out (None)."""
    joules = [_joules(*counts, took) for counts, took in zip(counts_mj, took_s, strict=True)]
    used = [(own, took) for own, took in zip(joules, took_s, strict=True) if own is not None]
    total_j, total_s = sum(own for own, _ in used), sum(took for _, took in used)
    known = total_j > 0  # else it stood still
    return {
        "samples_j": joules,
        "j_per_image": total_j / (images * len(used)) if known else None,
        "watts": total_j / total_s if known else None,
    }


def _joules(before_mj: int | None, after_mj: int | None, took_s: float) -> float | None:
    if before_mj is None or after_mj is None:
        return None
    joules = (after_mj - before_mj) % WRAP_MJ / 1e3
    return joules if joules <= MAX_WATTS * took_s else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 5th and 95th percentile."""
    p5, median, p95 = np.percentile(values, [5, 50, 95])
    return {"median": float(median), "p5": float(p5), "p95": float(p95)}


def ratio_spread(of_s: Sequence[float], own_s: Sequence[float]) -> dict[str, Any]:
    """How many times as fast as another: its seconds over one's own, round by round. Median, percentiles of rounds, and
    the interval of the median."""
    ratios = [of / own for of, own in zip(of_s, own_s, strict=True)]
    return spread(ratios) | median_interval(ratios)


def median_interval(values: Sequence[float]) -> dict[str, float | None]:
    """95 % bootstrap interval of the median, by percentiles of 2,000 resamples: what more rounds would narrow. There is
    none of fewer than 6 values. The same values give the same interval."""
    if len(values) < FEWEST:
        return dict(NO_INTERVAL)
    low, high = interval(medians(values, 0))
    return {"low": float(low), "high": float(high)}


def ranks(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Of each variant that was timed 1 and one more for each that is faster, as far as the interval of the ratio of the
    two in the same rounds excludes 1. Those that are not told apart may share a rank; of few rounds there is none."""
    timed = {row["variant"]: row["samples_s"] for row in rows if row["images_per_s"]["median"] is not None}
    found = dict.fromkeys(timed, 1)
    for (one, own), (other, theirs) in combinations(timed.items(), 2):
        low, high = median_interval([of / by for of, by in zip(theirs, own, strict=True)]).values()
        if low is None or high is None:
            return {}
        found[other] += low > 1
        found[one] += high < 1
    return found


def median_ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float | None]:
    """Median of `a` over that of `b`, which have nothing to do with each other, and its 95 % interval: each is
    resampled by itself."""
    ratio = float(np.median(a) / np.median(b))
    if min(len(a), len(b)) < FEWEST:
        return {"median": ratio} | NO_INTERVAL
    low, high = interval(medians(a, 0) / medians(b, 1))
    return {"median": ratio, "low": float(low), "high": float(high)}


def medians(values: Sequence[float], seed: int) -> np.ndarray:
    """Of 2,000 resamples."""
    own = np.asarray(values, dtype=float)
    return np.median(own[np.random.default_rng(seed).integers(len(own), size=(RESAMPLES, len(own)))], axis=1)


def width(values: dict[str, Any]) -> float:
    """Of an interval, as a share of its median; infinite where there is none."""
    return math.inf if values["low"] is None else (values["high"] - values["low"]) / values["median"]


@dataclass
class Rounds:
    """How many rounds there are: `number`, or else so many that the interval of every ratio is narrower than
    `precision` of it, or as `max_seconds` allow. Whoever stops as soon as an interval happens to be narrow has one that
    holds the truth less often than it says (90 % of 400 simulated times, where it says 95): it is looked at after 20
    rounds, whenever there are a quarter more, and must be narrow twice in a row (93 to 95 %)."""

    number: int | None
    precision: float
    max_seconds: float
    look: int = LEAST
    known: int = 0  # looks in a row

    def stopped_by(self, done: int, elapsed_s: float, dense_s: Sequence[float], others: Others) -> str | None:
        """ "rounds", "precision" or "time"; None: they go on. `others`: seconds of each variant that has a ratio."""
        if self.number is not None:
            return "rounds" if done >= self.number else None
        if done >= self.look:
            self.look = math.ceil(GROWTH * done)
            self.known = 0 if self.wide(dense_s, others) else self.known + 1
            if self.known == LOOKS:
                return "precision"
        return "time" if elapsed_s >= self.max_seconds else None

    def wide(self, dense_s: Sequence[float], others: Others) -> dict[str, float]:
        """Variants whose ratio is not known well enough, and how wide its interval is."""
        found = {name: width(ratio_spread(dense_s, own)) for name, own in others.items()}
        return {name: wide for name, wide in found.items() if wide >= self.precision}

    def flags(self, stopped_by: str, done: int, dense_s: Sequence[float], others: Others) -> dict[str, str]:
        """Of each variant that time was too short for."""
        if stopped_by != "time":
            return {}
        asked = f"in {done} rounds, as {self.max_seconds:g} s allow, not the {100 * self.precision:g} % asked for"
        return {
            name: f"its ratio is known to {100 * wide:.2g} % {asked}"
            if wide < math.inf
            else f"its ratio has no interval {asked}"
            for name, wide in self.wide(dense_s, others).items()
        }


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
            low, high = variant["ratio"]["low"], variant["ratio"]["high"]
            if low is not None and not low <= ratio <= high:
                raise ValueError(f"{name}: ratio {ratio:.6g} is outside its interval, {low:.6g} to {high:.6g}")


def flag_speedup(ratio_median: float | None, mac_ratio: float) -> list[str]:
    """A flag for a speedup that the work saved does not explain. `mac_ratio`: dense MACs / own MACs."""
    if ratio_median is None or ratio_median <= MAX_SPEEDUP * mac_ratio:
        return []
    return [f"speedup {ratio_median:.2f}x is more than {MAX_SPEEDUP} times what its MACs save ({mac_ratio:.2f}x)"]
