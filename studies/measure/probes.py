"""What is found out beside a measurement: which batch is the best."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from studies.measure.clock import seconds
from studies.measure.modes import as_run, of_memory, running
from studies.measure.throughput import DTYPES, Variant, warm_up

__all__ = ["best_batch"]

GROWTH = 1.05  # of throughput; less is not worth twice the batch
SAMPLES = 3
LARGEST = 4096


def best_batch(
    name: str,
    model: nn.Module,
    img_size: int,
    *,
    device: str,
    dtype: str,
    mode: str = "eager",
    min_seconds: float = 0.05,
    progress: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, Any]]:
    """The batch size from which on twice as many images at once bring less than 5 % more of them a second, or do not
    fit into memory, by doubling from 1; and what was seen: images/s (median of 3 samples) by batch size.

    Raises studies.measure.modes.NotRun where the model has no such form, NotCompiled."""
    rates: dict[int, float] = {}
    with torch.inference_mode(), running(mode):
        variant = Variant(name, as_run(model.to(device, DTYPES[dtype]).eval(), mode))
        best, ended = 1, f"more than {LARGEST} were not tried"
        for batch in (2**power for power in range(LARGEST.bit_length())):
            rate = _rate(variant, batch, img_size, device, dtype, mode, min_seconds)
            if rate is None:
                ended = f"{batch} do not fit into memory"
                break
            rates[batch] = rate
            if progress:
                progress(f"looking for the best batch: {rate:.1f} images/s at {batch}")
            if batch > 1 and rate < GROWTH * rates[best]:
                ended = f"twice as many bring less than {GROWTH - 1:.0%} more"
                break
            best = batch
    return best, {"variant": name, "images_per_s": {str(size): rate for size, rate in rates.items()}, "ended": ended}


def _rate(
    variant: Variant, batch: int, img_size: int, device: str, dtype: str, mode: str, min_seconds: float
) -> float | None:
    """Images a second; None where memory ends."""
    try:
        images = torch.randn(batch, 3, img_size, img_size).to(device, DTYPES[dtype])
        warm_up(variant, images, mode, min_seconds)
        repeats = variant.repeats[batch]
        return batch / median(seconds(variant.model, images, repeats, wait=batch == 1) for _ in range(SAMPLES))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
    if torch.cuda.is_available():  # behind the handler: the traceback holds the tensors
        torch.cuda.empty_cache()
    return None
