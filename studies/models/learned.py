"""`schedule=learned` at a budget: what is refused before anything runs, the search, and counts that meet the budget.

    found = search(vit, parse_one("evit:schedule=learned"), 0.65, batches_of(data, epoch=0), CrossEntropy())
    model = build(vit, found.method).model

The search: cropr/method/learned.py. `vit` must be trained, its classifier too: gradients of random weights say
nothing. The numbers found are moved to the budget: of N patches the share f that stays at each place becomes f^s, with
one s for all places, and whole numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from cropr.method import LEARNED, Method
from studies.models.reducers import TOLERANCE, Unreachable

if TYPE_CHECKING:
    from torch import nn

    from cropr.method.learned import Place, Stays
    from cropr.method.objective import Criterion, Labelled
    from studies.data import Batch, Data

__all__ = ["BATCH", "STEPS", "Learned", "batches_of", "search", "stand_in"]

STEPS = 120  # of the search
BATCH = 32  # images of each
MOST = 2.0**20  # s, at which one patch stays
NEVER_ALL = 0.999  # f at most


@dataclass(frozen=True)
class Learned:
    """What a search found: the method at its counts, and what a record says of the search."""

    method: Method
    record: dict[str, Any]


def stand_in(vit: nn.Module, method: Method, budget: float | None) -> Method:
    """`method` at counts that meet the budget with nothing searched: each place leaves as large a share. For what has
    to be known before the search: whether method, model and budget can be. Raises Unreachable, ValueError."""
    import torch

    from cropr.method.learned import Stays

    if budget is None:
        raise ValueError(f"{method} needs a budget, for which its counts are searched")
    with torch.device("meta"):
        places = _places(vit, method)
    num = vit.patch_embed.num_patches
    halved = {block: Stays(num * 0.5**n, num * 0.5**n) for n, block in enumerate(places, 1)}
    return _at_budget(vit, method, places, halved, budget)


def batches_of(data: Data, epoch: int, steps: int = STEPS, size: int = BATCH) -> Iterator[Batch]:
    """So many batches of training items, from `epoch` on; smaller ones where there are fewer items."""
    size = min(size, data.num_train)
    while steps > 0:
        each = min(steps, data.num_train // size)
        yield from islice(data.train_batches(epoch, size), each)
        epoch, steps = epoch + 1, steps - each


def search(
    vit: nn.Module, method: Method, budget: float | None, batches: Iterable[Labelled], criterion: Criterion,
    steps: int = STEPS, seed: int = 0,
) -> Learned:  # fmt: skip
    """The counts of `method` for a timm model at a budget, by one step on each of the `steps` `batches`, on the device
    of `vit`, which stays as it is. `seed`: of what the method draws at random. Raises Unreachable, ValueError."""
    from cropr.method.learned import search as by_gradient

    stand_in(vit, method, budget)
    assert budget is not None
    started, own = time.monotonic(), method.other or method
    places = _places(vit, replace(method, seed=seed))
    found = by_gradient(vit, places, batches, steps, criterion, budget, llf=own.rest == "llf")
    fitted = _at_budget(vit, method, places, found.stays, budget)
    tenth = max(1, len(found.losses) // 10)
    return Learned(fitted, {
        "found": str(fitted.other or fitted),
        "expected": {str(block): [round(number, 2) for number in stays] for block, stays in found.stays.items()},
        "steps": len(found.losses), "num_items": found.num_items, "seed": seed,
        "loss_first": math.fsum(found.losses[:tenth]) / tenth, "loss_last": math.fsum(found.losses[-tenth:]) / tenth,
        "seconds": time.monotonic() - started,
    })  # fmt: skip


def _places(vit: nn.Module, method: Method) -> dict[int, Place]:
    """What stands in the model while counts are searched. Raises ValueError."""
    import torch  # too heavy for those who list methods

    from cropr.windows import windows_of

    own = replace(method.other or method, seed=method.seed)
    if windows_of(vit) is not None:
        raise ValueError(f"{own.name}: schedule={LEARNED} is not for models that attend within windows")
    with torch.random.fork_rng(devices=[]):  # what a method draws for itself is none of the run's
        places = own.searching(vit, vit.patch_embed.num_patches)
    if not places:
        raise ValueError(f"{own.name}: schedule={LEARNED}: this model of {len(vit.blocks)} blocks has no place for it")
    return dict(sorted(places.items()))


def _at_budget(
    vit: nn.Module, method: Method, places: Mapping[int, Place], stays: Mapping[int, Stays], budget: float
) -> Method:
    """`method` at whole numbers near `stays` that meet the budget. Raises Unreachable."""
    import torch

    from cropr.macs import dense_macs, planned_macs
    from cropr.method.learned import Stays
    from cropr.schedule import solve

    own, num, whole = method.other or method, vit.patch_embed.num_patches, dense_macs(vit)

    def at(power: float) -> Method:
        live, found = num, {}
        for block, each in stays.items():
            lowest = max(1, math.ceil(places[block].least * live))
            pruned, merged = (max(lowest, round(num * min(n / num, NEVER_ALL) ** power)) for n in each)
            pruned = min(pruned, live)
            merged = min(merged, pruned)
            if merged < live:
                found[block] = Stays(pruned, merged)
            live = merged
        return own.at_counts(found or {min(stays): Stays(num, num)}, num)

    def share(power: float) -> float:
        with torch.device("meta"):  # counts need no weights
            reducers = at(power).place(vit, num)
        macs = planned_macs(vit, reducers, vit.patch_embed.grid_size, llf=own.on_full_grid)
        return (macs.total if own.counts_scoring else macs.total - macs.scoring) / whole

    floor = share(MOST)
    if budget < (1 - TOLERANCE) * floor:
        raise Unreachable(method, budget, floor)
    fitted = at(solve(share, 0.0, MOST, budget)[0])
    return fitted if method.other is None else replace(method, other=fitted)
