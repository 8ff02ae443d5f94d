"""What the scripts of this folder share: functions timed in interleaved rounds, and ratios of the same rounds."""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MIN_SECONDS, MOST_CALLS = 0.05, 100  # of a sample


def ratio_of(below: Sequence[float], above: Sequence[float], resamples: int = 2000) -> dict[str, float]:
    """Median of above / below, round by round, and its 95 % bootstrap interval."""
    ratios = np.asarray(above) / np.asarray(below)
    drawn = np.random.default_rng(0).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def options(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """Those that every script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=defaults.get("rounds", 12))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU (default: as many as torch takes)")
    parser.add_argument(
        "--processor-time", action="store_true", help="of the process instead of the wall's, where other work runs"
    )
    parser.add_argument("--out", help="keep the record in this JSON file")
    return parser


def timed(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", processor_time: bool = False
) -> dict[str, Any]:
    """`samples_s`: seconds of each function in each round, all of them in an order drawn anew, a sample the mean over
    as many calls as fill 50 ms; and how they were taken. `processor_time`: of this process, which what else runs does
    not lengthen much; with several threads those that wait count too."""
    import torch

    from studies.measure.clock import OtherLoad
    from studies.measure.throughput import round_orders

    clock = time.process_time if processor_time else time.perf_counter

    def seconds(function: Callable[[], object], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            function()
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / calls

    calls = {}
    for name, function in functions.items():
        seconds(function, 1)
        calls[name] = math.ceil(MIN_SECONDS / max(seconds(function, 1), MIN_SECONDS / MOST_CALLS))
    names, load = list(functions), OtherLoad()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for order in round_orders(len(names), rounds):
        for i in order:
            samples[names[i]].append(seconds(functions[names[i]], calls[names[i]]))
    return {
        "samples_s": samples, "rounds": rounds, "clock": "processor" if processor_time else "wall",
        "load_of_others": load.cores(), "num_threads": torch.get_num_threads(),
    }  # fmt: skip


def said(record: Mapping[str, Any], name: str) -> str:
    """How a record was taken, in a line."""
    load = record["load_of_others"]
    others = "unknown" if load is None else f"{load:.2f} cores"
    return (
        f"{name}, {record['num_threads']} threads, {record['rounds']} rounds, {record['clock']} time, load of others "
        f"{others}"
    )


def printed(ratios: Mapping[str, Mapping[str, float]]) -> None:
    for name, ratio in ratios.items():
        print(f"  {name:<28} {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]", flush=True)
