"""How many patches stay, or go, at each block: integers that are known before anything runs.

Letters: L patches of the full grid, P prefix tokens. "Keeps" are counts behind each reducer, prefix tokens not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Scale", "constant", "curriculum", "geometric", "inflected", "solve", "spread", "stages", "staged"]

SLACK = 1e-9  # float products that should be whole numbers must not slip to the next one


class Scale(NamedTuple):
    """One way in which a method's cost can be set: `parameter` from the cheapest to the dearest value."""

    kind: str  # of schedule: constant, geometric, staged
    parameter: str
    cheapest: float
    dearest: float


def stages(depth: int) -> tuple[int, ...]:
    """The blocks of three stages: 3, 6, 9 of 12; 6, 12, 18 of 24; 1, 3, 4 of 6."""
    return tuple(depth * stage // 4 for stage in (1, 2, 3))


def spread(rate: float, steps: int) -> list[int]:
    """Whole numbers whose running sums are those of a constant `rate`, rounded down."""
    return [math.floor(rate * (i + 1) + SLACK) - math.floor(rate * i + SLACK) for i in range(steps)]


def constant(num_patches: int, rate: float, modules: int, first_extra: int = 0) -> list[int]:
    """Keeps when each of `modules` removes `rate` patches and the first one `first_extra` more. A fractional rate is
    spread as whole numbers.

    Raises ValueError if less than one patch would be left.
    """
    keeps: list[int] = []
    for removed in spread(rate, modules):
        keeps.append((keeps[-1] if keeps else num_patches - first_extra) - removed)
    if rate < 0 or (keeps and keeps[-1] < 1):
        most = max(0.0, (num_patches - first_extra - 1) / modules)
        raise ValueError(f"rate {rate:g} removes more than there is; 0 to {most:.4g} leaves 1 of {num_patches} patches")
    return keeps


def geometric(num_patches: int, ratio: float, modules: int) -> list[int]:
    """Keeps when each module leaves the share `ratio` in (0, 1] of what comes in, at least one patch."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio {ratio:g} is not in (0, 1]")
    return [max(1, round(num_patches * ratio ** (i + 1))) for i in range(modules)]


def staged(num_patches: int, ratio: float, count: int) -> list[int]:
    """Keeps int(L ratio^s) of the original L at stage s = 1 ... `count` (DynamicViT), at least one patch."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio {ratio:g} is not in (0, 1]")
    return [max(1, math.floor(num_patches * ratio**s + SLACK)) for s in range(1, count + 1)]


def kept(share: float, num_patches: int) -> int:
    """ceil(share * num_patches), exact where the product is a whole number (EViT)."""
    if not 0 < share <= 1:
        raise ValueError(f"keep {share:g} is not in (0, 1]")
    return max(1, math.ceil(share * num_patches - SLACK))


def inflected(rate: float, inflect: float, depth: int) -> list[int]:
    """ToMe's r per block: from int(r (1 - inflect)) in a straight line to the mirror image about r. Truncation is part
    of the published schedule: (13, 1) over 24 blocks ends at 25."""
    low = int(rate * (1 - inflect))
    step = (2 * rate - low - low) / (depth - 1) if depth > 1 else 0.0
    return [int(low + step * i) for i in range(depth)]


def curriculum(rate: int, epochs: int) -> list[int]:
    """Cropr's pruning rate in each epoch: whole parts of a straight line from 0 to `rate` over the first half, then
    `rate`. In exact integers: a float32 line is off by one for some rates."""
    ramp = epochs // 2
    return [rate * i // max(1, ramp - 1) if i < ramp else rate for i in range(epochs)]


def solve(cost: Callable[[float], float], low: float, high: float, target: float) -> tuple[float, float]:
    """(parameter, cost) in [low, high] whose cost is nearest to `target`; `cost` rises or falls, in steps. Bisection to
    the step, then the better side of it."""
    ends = {low: cost(low), high: cost(high)}
    rising = ends[high] >= ends[low]
    for _ in range(40):
        middle = (low + high) / 2
        ends[middle] = cost(middle)
        if (ends[middle] > target) == rising:
            high = middle
        else:
            low = middle
    best = min(ends, key=lambda parameter: abs(ends[parameter] - target))
    return best, ends[best]
