"""Models behind a data loader (decoding, transforms, transfer): how fast both are together, beside each of them alone
in the same rounds, and which of them limits.

A sample is taken in the middle of a stream. With worker processes, batches that they made ahead would come for nothing
at its begin, and at its end they would leave the CPUs to the model: before the clock starts `lead` batches are used up,
and as many more are asked for behind its end.

Letters: B batch, S image side in pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from studies.measure.clock import synchronize
from studies.measure.speed_record import variant_record

__all__ = ["Loader", "limited_by", "loader_record", "with_loader"]

AHEAD = 2  # batches that a worker makes before they are asked for, as torch's DataLoader has it
LOADER, MODEL, ALIKE = "loader", "model", "not told apart"


@dataclass
class Loader:
    """Where images come from while they are timed. `stream`: (number of batches) -> so many [B, 3, S, S] on the CPU,
    as `workers` processes make them (0: this one, in turn with the model)."""

    stream: Callable[[int], Iterator[Tensor]]
    workers: int
    about: dict[str, Any]  # what a record says of it
    samples_s: list[float] = field(default_factory=list)  # seconds per batch, alone
    like: Tensor | None = None  # on the device and of the dtype that images are brought to
    batches: int = 1  # of a sample

    @property
    def lead(self) -> int:
        return AHEAD * self.workers

    def prepare(self, like: Tensor, min_seconds: float) -> None:
        """Starts the workers, and chooses the batches of a sample: one of each worker at least."""
        self.like, self.samples_s, self.batches = like, [], max(1, self.workers)
        self.seconds()
        self.batches = max(self.batches, math.ceil(min_seconds / self.seconds()))

    def sample(self, images: Tensor) -> None:
        """By itself."""
        self.samples_s.append(self.seconds())

    def seconds(self, model: nn.Module | None = None) -> float:
        """Of a batch, from the file to the device, and through `model`; at batch 1 each pass ends before the next image
        is asked for."""
        assert self.like is not None
        device = self.like.device
        stream = self.stream(self.batches + 2 * self.lead)

        def use(num: int) -> None:
            for _ in range(num):
                images = next(stream).to(self.like)
                if model is not None:
                    model(images)
                    if len(images) == 1:
                        synchronize(device)
            synchronize(device)

        use(self.lead)
        start = time.perf_counter()
        use(self.batches)
        took = (time.perf_counter() - start) / self.batches
        for _ in stream:  # workers take up the next stream when this one is at its end
            pass
        return took


def loader_record(loader: Loader, batch_size: int) -> dict[str, Any]:
    """The loader alone."""
    row = variant_record("loader", loader.samples_s, None, [], batch_size, None, [])
    return loader.about | {"workers": loader.workers} | {key: row[key] for key in ("samples_s", "images_per_s")}


def with_loader(
    loader_s: Sequence[float],
    model_s: Sequence[float],
    both_s: Sequence[float],
    dense_both_s: Sequence[float] | None,
    batch_size: int,
) -> dict[str, Any]:
    """One variant behind the loader, from seconds per batch of the same rounds: images/s of both together, their ratio
    to the dense model behind the same loader, how many times as fast as the loader the model alone is, and what
    limits."""
    row = variant_record("", both_s, dense_both_s, [], batch_size, None, [])
    pace = variant_record("", model_s, loader_s, [], batch_size, None, [])["ratio"]
    kept = {key: row[key] for key in ("samples_s", "images_per_s", "ratio")}
    return kept | {"model_over_loader": pace, "limited_by": limited_by(pace)}


def limited_by(pace: dict[str, Any]) -> str:
    """ "loader" or "model", the slower of the two, where the interval of images/s of the model over those of the loader
    excludes 1."""
    if pace["low"] is None or pace["low"] <= 1 <= pace["high"]:
        return ALIKE
    return LOADER if pace["low"] > 1 else MODEL
