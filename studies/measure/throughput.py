"""Speed of several variants of one model, side by side in one process.

Variants run interleaved, round by round in an order drawn anew for each, so that a clock that drifts or a neighbour on
the machine hits all alike; ratios to the dense model compare times of the same round. Every sample is kept.
"""

from __future__ import annotations

import gc
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from studies.measure import NotCompiled
from studies.measure.clock import OtherLoad, device_name, peak_memory_mib, seconds
from studies.measure.sdpa import sdpa_backend, sdpa_backends
from studies.measure.speed_record import check_record, flag_speedup, variant_record

__all__ = ["check_record", "flag_speedup", "measure", "round_orders", "sdpa_backend"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_COMPILED = 1024  # variants x batch sizes of one measurement
SETTLED, MAX_WARM_UP = 0.05, 20  # two batches in a row within 5 %; passes at most


@dataclass
class Variant:
    """One model while it is timed. `repeats`: passes per sample, by batch size."""

    name: str
    model: nn.Module
    repeats: dict[int, int] = field(default_factory=dict)
    samples_s: list[float] = field(default_factory=list)  # seconds per batch
    latency_s: list[float] = field(default_factory=list)  # seconds per image at batch 1
    sdpa_backend: str | None = None
    peak_memory_mib: float | None = None
    flags: list[str] = field(default_factory=list)
    failed: bool = False


def measure(
    models: Mapping[str, nn.Module],
    *,
    dense: str,
    img_size: int,
    batch_size: int,
    device: str,
    dtype: str = "float32",
    compile: bool = False,
    rounds: int = 20,
    min_seconds: float = 0.05,
    latency: bool = True,
    images: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time `models` (name -> model as deployed; `dense` names the plain one) on images that lie on `device`: random
    ones, or those of `images` [n, 3, h, w], of which each round takes the next `batch_size`.

    A sample is the mean over as many passes as fill `min_seconds`. The models are moved to `device` and `dtype` and put
    in eval mode, and stay so. A variant that runs out of memory is flagged and the others go on.
    Returns the speed record without its provenance. Raises ValueError without a dense model or for an unknown dtype,
    NotCompiled.
    """
    if dense not in models:
        raise ValueError(f"no dense model to compare with: one must be named {dense!r}, not only {', '.join(models)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; valid: {', '.join(DTYPES)}")
    say = progress or (lambda message: None)
    generator = torch.Generator().manual_seed(seed)
    if images is None:
        images = torch.randn(batch_size, 3, img_size, img_size, generator=generator)
    batches = images.to(device, DTYPES[dtype]).split(batch_size)
    variants = [Variant(name, model.to(device, DTYPES[dtype]).eval()) for name, model in models.items()]
    with torch.inference_mode(), compiling(compile):
        for variant in variants:
            say(f"warm-up {variant.name}")
            prepare(variant, batches[0], compile, latency, min_seconds)
        others = OtherLoad()
        for number, order in enumerate(round_orders(len(variants), rounds, seed), start=1):
            say(f"round {number}/{rounds}")
            for i in order:
                sample(variants[i], batches[number % len(batches)], latency)
        load = others.cores()
    plain = next(variant for variant in variants if variant.name == dense)
    record = {
        "device": torch.device(device).type,
        "device_name": device_name(device),
        "dtype": dtype,
        "batch_size": batch_size,
        "img_size": img_size,
        "num_threads": torch.get_num_threads(),
        "sdpa_backend": plain.sdpa_backend,
        "rounds": rounds,
        "load_of_others": load,
        "compiled": compile,
        "dense": dense,
        "variants": variant_records(variants, plain, batch_size),
    }
    check_record(record)
    return record


def variant_records(variants: list[Variant], dense: Variant, batch_size: int) -> list[dict[str, Any]]:
    dense_s, records = None if dense.failed else dense.samples_s, []
    for v in variants:
        # A mask rules out some kernels: a variant on another one than the dense model is not slower by its MACs alone.
        other = v.sdpa_backend not in (None, dense.sdpa_backend)
        flags = v.flags + [f"attention on {v.sdpa_backend}, dense on {dense.sdpa_backend}"] * other
        memory = v.peak_memory_mib
        records.append(variant_record(v.name, v.samples_s, dense_s, v.latency_s, batch_size, memory, flags, v.failed))
    return records


def round_orders(num_variants: int, rounds: int, seed: int = 0) -> list[list[int]]:
    """For each round all variants in an order of its own; the same `seed` gives the same orders."""
    rng = random.Random(seed)
    return [rng.sample(range(num_variants), num_variants) for _ in range(rounds)]


@contextmanager
def compiling(wanted: bool) -> Iterator[None]:
    """Every variant is compiled for two batch sizes, and dynamo counts them all as recompilations of one forward
    function. Past its limit of 8 it would run the rest uncompiled and say so in a log: raise the limit, and make
    reaching it an error. What was compiled is dropped at the end."""
    if not wanted:
        yield
        return
    import torch._dynamo as dynamo

    try:
        with dynamo.config.patch(
            fail_on_recompile_limit_hit=True, recompile_limit=MAX_COMPILED, accumulated_recompile_limit=MAX_COMPILED
        ):
            yield
    finally:
        dynamo.reset()


def prepare(variant: Variant, images: Tensor, compile: bool, latency: bool, min_seconds: float) -> None:
    """Warm up until two passes in a row take the same time, choose the passes per sample, and take the peak memory."""
    with out_of_memory_flagged(variant):
        variant.sdpa_backend = sdpa_backends(variant.model, images[:1])
        if compile:
            variant.model = torch.compile(variant.model, dynamic=False)
        for batch in (images, images[:1]) if latency else (images,):
            last, settled = math.inf, False
            for _ in range(MAX_WARM_UP):
                with compile_errors(variant) if compile else nullcontext():
                    took = seconds(variant.model, batch, 1)
                settled, last = abs(took - last) <= SETTLED * took, took
                if settled:
                    break
            if not settled:
                variant.flags.append(f"warm-up at batch {len(batch)} did not settle in {MAX_WARM_UP} passes")
            variant.repeats[len(batch)] = max(1, math.ceil(min_seconds / last))
        variant.peak_memory_mib = peak_memory_mib(variant.model, images)


def sample(variant: Variant, images: Tensor, latency: bool) -> None:
    """One sample of throughput and one of latency, unless the variant has run out of memory."""
    if variant.failed:
        return
    with out_of_memory_flagged(variant):
        repeats = variant.repeats
        variant.samples_s.append(seconds(variant.model, images, repeats[len(images)]))
        if latency:
            variant.latency_s.append(seconds(variant.model, images[:1], repeats[1], wait=True))


def of_memory(error: Exception) -> bool:
    """Raised by an allocator; the CPU's raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def compile_errors(variant: Variant) -> Iterator[None]:
    """Raises NotCompiled in place of what dynamo, inductor or the compiler behind them say on many lines."""
    try:
        yield
    except RuntimeError as error:
        if of_memory(error):
            raise
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        compiler = os.environ.get("CXX", "g++")
        hint = "" if shutil.which(compiler) else f"; no C++ compiler is installed ({compiler}), which CPUs need"
        raise NotCompiled(f"{variant.name} cannot be compiled: {said}{hint}; leave out --compile") from error


@contextmanager
def out_of_memory_flagged(variant: Variant) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        variant.failed = True
        variant.flags.append("out of memory")
    if variant.failed:  # behind the handler: the traceback holds the tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
