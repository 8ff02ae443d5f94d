"""What is found out beside a measurement: whether the machine is quiet, which batch is the best, and what
the reducers take by themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from studies.measure.clock import mark, seconds, seconds_between
from studies.measure.modes import as_run, of_memory, running
from studies.measure.speed_record import spread
from studies.measure.throughput import DTYPES, Variant, measure, warm_up

__all__ = ["best_batch", "known_pair", "reducers_time"]

GROWTH = 1.05  # of throughput; less is not worth twice the batch
SAMPLES = 3
LARGEST = 4096
PASSES = 5
BAND = 0.05  # what must be seen


def known_pair(
    vit: Any,
    *,
    device: str,
    dtype: str = "float32",
    max_seconds: float = 10.0,
    min_seconds: float = 0.05,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """One block of `vit` against two, on the tokens of one image, interleaved: two must take twice as long. `quiet`:
    the 95 % interval of the ratio lies within 2 plus or minus 5 %, so that its middle is right and a difference of 5 %
    would be seen. `why`: in words."""
    first, last = vit.blocks[0], vit.blocks[-1]
    num_tokens = vit.num_prefix_tokens + vit.patch_embed.num_patches
    tokens = torch.randn(1, num_tokens, vit.embed_dim, generator=torch.Generator().manual_seed(0))
    record = measure(
        {"one block": first, "two blocks": nn.Sequential(first, last)}, dense="two blocks", images=tokens,
        img_size=vit.patch_embed.img_size[0], batch_size=1, device=device, dtype=dtype, rounds=None,
        max_seconds=max_seconds, min_seconds=min_seconds, latency=False, progress=progress,
    )  # fmt: skip
    ratio = record["variants"][0]["ratio"]
    kept = {key: record[key] for key in ("device_name", "dtype", "num_threads", "rounds", "load_of_others")}
    return kept | {"num_tokens": num_tokens, "band": BAND, "ratio": ratio} | judged(ratio, record["rounds"])


def judged(ratio: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Whether the interval of what must be 2 lies near enough to it, and in words why."""
    low, high = ratio["low"], ratio["high"]
    if low is None:
        said = "no" if ratio["median"] is None else f"{ratio['median']:.3f}"
        return {
            "quiet": False,
            "why": f"two blocks take {said} times what one does in {rounds} rounds, too few to tell",
        }
    quiet = low >= 2 * (1 - BAND) and high <= 2 * (1 + BAND)
    inside = "within" if quiet else "which is not within"
    return {
        "quiet": quiet,
        "why": f"two blocks take {ratio['median']:.3f} times what one does, 95 % interval {low:.3f} to {high:.3f} of "
        f"{rounds} rounds, {inside} 2 ± {BAND:.0%}",
    }


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


@torch.inference_mode()
def reducers_time(model: Any, images: Tensor) -> dict[str, Any] | None:
    """What the reducers of `model` take on `images`, run eagerly: scores, choice and moving of tokens, as far as they
    happen in the reducers themselves (what they make of a block's attention, and a fusion at the end, is not in it).

    ms: of all of them in a pass, median and percentiles of 5 passes behind one of warm-up. share: of the time of the
    same passes, the median. None where there is no reducer."""
    reducers: list[nn.Module] = list(getattr(model, "reducers", {}).values())
    if not reducers:
        return None
    begun: list[Any] = []
    ended: list[Any] = []
    handles = [module.register_forward_pre_hook(partial(_note, begun, images.device)) for module in reducers]
    handles += [module.register_forward_hook(partial(_note, ended, images.device)) for module in reducers]
    taken, shares = [], []
    try:
        for number in range(1 + PASSES):
            begun.clear()
            ended.clear()
            whole = seconds(model, images, 1)
            own = sum(map(seconds_between, begun, ended))
            if number:
                taken.append(1e3 * own)
                shares.append(own / whole)
    finally:
        for handle in handles:
            handle.remove()
    return {"ms": spread(taken), "share": median(shares), "passes": PASSES}


def _note(times: list[Any], device: torch.device, *called: Any) -> None:
    times.append(mark(device))
