"""Speed of several variants of one model, side by side in one process.

Variants run interleaved, round by round in an order drawn anew for each, so that a clock that drifts or a neighbour on
the machine hits all alike; ratios to the dense model compare times of the same round. Every sample is kept.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from studies.measure.clock import EnergyCounter, OtherLoad, device_name, energy_of, peak_memory_mib, seconds
from studies.measure.end_to_end import Loader, loader_record, with_loader
from studies.measure.modes import COMPILED, NotRun, as_run, check_modes, compile_errors, of_memory, running
from studies.measure.sdpa import Call, attention_calls, backends_of, kernel_kept, sdpa_backend
from studies.measure.speed_record import Rounds, check_record, energy_record, flag_speedup, variant_record

__all__ = ["check_record", "flag_speedup", "measure", "round_orders", "sdpa_backend"]

Say = Callable[[str], None]
Turn = Callable[[Tensor], None]
Counts = tuple[int | None, int | None]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SETTLED, MAX_WARM_UP = 0.05, 20  # two batches in a row within 5 %; passes at most
RECORDED = 3  # the first passes of CUDA graphs warm up, record, and replay for the first time


@dataclass
class Variant:
    """One model while it is timed. `repeats`: passes per sample, by batch size."""

    name: str
    model: nn.Module
    repeats: dict[int, int] = field(default_factory=dict)
    samples_s: list[float] = field(default_factory=list)  # seconds per batch
    latency_s: list[float] = field(default_factory=list)  # seconds per image at batch 1
    loaded_s: list[float] = field(default_factory=list)  # seconds per batch behind the data loader
    counts_mj: list[Counts] = field(default_factory=list)  # of energy, before and behind each of samples_s
    calls: list[Call] | None = None  # for attention; None: not known
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
    mode: str = "eager",
    rounds: int | None = 20,
    precision: float = 0.02,
    max_seconds: float = 120.0,
    min_seconds: float = 0.05,
    latency: bool = True,
    images: Tensor | None = None,
    loader: Loader | None = None,
    seed: int = 0,
    progress: Say | None = None,
) -> dict[str, Any]:
    """Time `models` (name -> model as deployed; `dense` names the plain one) on images that lie on `device`: random
    ones, or those of `images` [n, 3, h, w], of which each round takes the next `batch_size`.

    `rounds` None: until every ratio to the dense model is known to `precision` or `max_seconds` are over, see Rounds.
    A sample is the mean over as many passes as fill `min_seconds`. The models are moved to `device` and `dtype` and put
    in eval mode, and stay so. `mode`: of MODES, see modes.py. A variant that runs out of memory, or has no such form,
    is flagged and the others go on. At batch 1 each pass ends before the next begins, at larger ones the device may
    queue them: what MLPerf calls single stream and offline. `loader`: of batches of `batch_size`; it is timed alone and
    in front of each model too, in the same rounds, whose number follows from the models alone.
    Returns the speed record without its provenance. Raises ValueError without a dense model or for an unknown dtype or
    mode, NotCompiled.
    """
    if dense not in models:
        raise ValueError(f"no dense model to compare with: one must be named {dense!r}, not only {', '.join(models)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; valid: {', '.join(DTYPES)}")
    check_modes([mode], torch.device(device).type, [dtype])
    say = progress or (lambda message: None)
    generator = torch.Generator().manual_seed(seed)
    if images is None:
        images = torch.randn(batch_size, 3, img_size, img_size, generator=generator)
    batches = images.to(device, DTYPES[dtype]).split(batch_size)
    variants = [Variant(name, model.to(device, DTYPES[dtype]).eval()) for name, model in models.items()]
    with torch.inference_mode(), running(mode):
        for variant in variants:
            say(f"warm-up {variant.name}")
            prepare(variant, batches[0], mode, latency, min_seconds)
        counter, energy = energy_of(torch.device(device))
        turns: list[Turn] = [partial(sample, variant, latency=latency, counter=counter) for variant in variants]
        if loader is not None:
            say("warm-up of the data loader")
            loader.prepare(batches[0][:0], min_seconds)
            turns += [loader.sample, *(partial(sample_loaded, variant, loader) for variant in variants)]
        others, enough = OtherLoad(), Rounds(rounds, precision, max_seconds)
        done, stopped_by = take_rounds(variants, turns, dense, batches, enough, seed, say)
        load = others.cores()
    plain = next(variant for variant in variants if variant.name == dense)
    rows = variant_records(variants, plain, batch_size)
    record = {
        "device": torch.device(device).type,
        "device_name": device_name(device),
        "dtype": dtype,
        "batch_size": batch_size,
        "img_size": img_size,
        "num_threads": torch.get_num_threads(),
        "sdpa_backend": None if plain.calls is None else backends_of(plain.calls),
        "rounds": done,
        "precision": None if rounds else precision,
        "stopped_by": stopped_by,
        "load_of_others": load,
        "mode": mode,
        "compiled": mode in COMPILED,
        "scenario": "single stream" if batch_size == 1 else "offline",
        "dense": dense,
        "variants": rows,
    } | energy
    if loader is not None:
        record["end_to_end"] = loader_record(loader, batch_size)
        dense_s = None if plain.failed else plain.loaded_s
        for v, row in zip(variants, rows, strict=True):
            times = (loader.samples_s, v.samples_s, v.loaded_s, dense_s)
            row["end_to_end"] = None if v.failed else with_loader(*times, batch_size)
    check_record(record)
    return record


def take_rounds(
    variants: list[Variant],
    turns: list[Turn],
    dense: str,
    batches: Sequence[Tensor],
    enough: Rounds,
    seed: int,
    say: Say,
) -> tuple[int, str]:
    """Rounds of all `turns` until there are enough: how many, and what ended them. Flags the variants that time was too
    short for."""
    began, plain, stopped_by = time.perf_counter(), next(v for v in variants if v.name == dense), None
    for done, order in enumerate(orders(len(turns), seed), start=1):
        say(f"round {done}" + (f"/{enough.number}" if enough.number else ""))
        for i in order:
            turns[i](batches[done % len(batches)])
        others = {v.name: v.samples_s for v in variants if not (plain.failed or v.failed or v is plain)}
        stopped_by = enough.stopped_by(done, time.perf_counter() - began, plain.samples_s, others)
        if stopped_by is not None:
            break
    assert stopped_by is not None
    flags = enough.flags(stopped_by, done, plain.samples_s, others)
    for v in variants:
        v.flags += [flags[v.name]] if v.name in flags else []
    return done, stopped_by


def variant_records(variants: list[Variant], dense: Variant, batch_size: int) -> list[dict[str, Any]]:
    dense_s, records = None if dense.failed else dense.samples_s, []
    for v in variants:
        kernel = None if v.calls is None or dense.calls is None else kernel_kept(v.calls, dense.calls)
        # A mask rules out some kernels: a variant on another one than the dense model is not slower by its MACs alone.
        flags = v.flags + ([f"attention kernel lost: {kernel['why']}"] if kernel and not kernel["kept"] else [])
        memory = v.peak_memory_mib
        row = variant_record(v.name, v.samples_s, dense_s, v.latency_s, batch_size, memory, flags, v.failed)
        records.append(row | {"kernel": kernel})
        if v.counts_mj and not v.failed:
            repeats = v.repeats[batch_size]
            records[-1]["energy"] = energy_record(v.counts_mj, [repeats * s for s in v.samples_s], repeats * batch_size)
    return records


def orders(num_turns: int, seed: int = 0) -> Iterator[list[int]]:
    """For each round all that take turns in an order of its own, without end; the same `seed` gives the same orders."""
    rng = random.Random(seed)
    while True:
        yield rng.sample(range(num_turns), num_turns)


def round_orders(num_variants: int, rounds: int, seed: int = 0) -> list[list[int]]:
    """The first of `orders`."""
    return list(islice(orders(num_variants, seed), rounds))


def prepare(variant: Variant, images: Tensor, mode: str, latency: bool, min_seconds: float) -> None:
    """Bring the variant into the form that is run, warm it up, and take the peak memory where allocators tell it."""
    with failures_flagged(variant):
        if mode != "onnx":
            variant.calls = attention_calls(variant.model, images[:1])
        variant.model = as_run(variant.model, mode)
        for batch in (images, images[:1]) if latency and len(images) > 1 else (images,):
            warm_up(variant, batch, mode, min_seconds)
        if mode in ("eager", "compiled"):  # graphs hold what they need, and other runtimes allocate by themselves
            variant.peak_memory_mib = peak_memory_mib(variant.model, images)


def warm_up(variant: Variant, images: Tensor, mode: str, min_seconds: float) -> None:
    """Run until two passes in a row take the same time, and choose the passes per sample."""
    last, settled = math.inf, False
    for number in range(MAX_WARM_UP):
        with compile_errors(variant.name, mode):
            took = seconds(variant.model, images, 1)
        settled = abs(took - last) <= SETTLED * took and (mode != "graphs" or number > RECORDED)
        last = took
        if settled:
            break
    if not settled:
        variant.flags.append(f"warm-up at batch {len(images)} did not settle in {MAX_WARM_UP} passes")
    variant.repeats[len(images)] = max(1, math.ceil(min_seconds / last))


def sample(variant: Variant, images: Tensor, latency: bool, counter: EnergyCounter | None = None) -> None:
    """One sample of throughput and one of latency, which are the same at batch 1, unless the variant has failed."""
    if variant.failed:
        return
    with failures_flagged(variant):
        repeats, alone = variant.repeats, len(images) == 1
        before = counter.millijoules() if counter else None
        variant.samples_s.append(seconds(variant.model, images, repeats[len(images)], wait=alone))
        if counter:
            variant.counts_mj.append((before, counter.millijoules()))
        if latency and alone:
            variant.latency_s.append(variant.samples_s[-1])
        elif latency:
            variant.latency_s.append(seconds(variant.model, images[:1], repeats[1], wait=True))


def sample_loaded(variant: Variant, loader: Loader, images: Tensor) -> None:
    """One sample behind the data loader, unless the variant has failed."""
    if variant.failed:
        return
    with failures_flagged(variant):
        variant.loaded_s.append(loader.seconds(variant.model))


@contextmanager
def failures_flagged(variant: Variant) -> Iterator[None]:
    try:
        yield
    except NotRun as error:
        variant.failed = True
        variant.flags.append(str(error))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        variant.failed = True
        variant.flags.append("out of memory")
    if variant.failed:  # behind the handler: the traceback holds the tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
