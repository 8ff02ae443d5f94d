"""Which patches of some test items are live behind each reduction, and how alike the orders of successive reducers are.

A patch is live where a token has its place; of merged patches that is the one whose token took the others, and a token
that stands for no place counts nowhere.

Letters: B batch, n items that are followed, R reducers, N patches that enter a reducer, L patches of the grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from studies.data import Batch
from studies.training.distributed import ALONE, World

__all__ = ["NUM_ITEMS", "KeptPatches", "followed", "rank_correlation"]

NUM_ITEMS = 128  # of a run of scenes they take 6 kB


def followed(num: int) -> Tensor:
    """Numbers of the items that are followed, of `num` of a split: evenly spaced, so that no model and no order of
    classes has a part in their choice. [n] int64, ascending"""
    count = min(NUM_ITEMS, num)
    return torch.arange(count) * num // max(count, 1)


class KeptPatches:
    """Of the items of a split of `num` while `model` is scored on them. Under the mask of training nothing leaves, and
    an image that is seen in several passes has no one grid: nothing is recorded then."""

    def __init__(self, model: ReducedViT, num: int):
        self.blocks, self.grid, self.items = [*model.reducers], model.num_patches, followed(num)
        self.rows = torch.empty(0, dtype=torch.int64)  # of the batch at hand, those that are followed
        self.size = 0  # B
        self.behind: dict[str, Tensor] = {}  # by block: [n, N] places of live patches, of the batch at hand
        self.orders: dict[str, tuple[Tensor, Tensor]] = {}  # by block: [n, N] places and scores
        self.whole = True
        self.columns: list[dict[str, Tensor]] = []

    def of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, of which what reducers do is noted."""
        for batch in batches:
            self.rows, self.size = torch.isin(batch.item, self.items).nonzero()[:, 0], len(batch.item)
            self.behind, self.orders = {}, {}
            yield batch
            if len(self.rows) and self.blocks:
                self._finish(batch)

    def note(self, block: str, entering: Tokens, tokens: Tokens, ranking: tuple[Tensor, int] | None) -> None:
        """Of one call of the reducer at `block`; `ranking` as in `Reducer.ranking`, followed where it is one of
        patches."""
        if not len(self.rows):
            return
        self.whole &= block not in self.behind and len(tokens.x) == self.size and tokens.policy is None
        if not self.whole:
            return
        rows = self.rows.to(tokens.x.device)
        self.behind[block] = tokens.positions()[rows].cpu()
        if ranking is not None and ranking[0].shape == entering.positions().shape:
            self.orders[block] = entering.positions()[rows].cpu(), ranking[0][rows].float().cpu()

    def _finish(self, batch: Batch) -> None:
        if not self.whole or len(self.behind) < len(self.blocks):
            self.whole = False
            return
        live = torch.stack([self._on_grid(self.behind[block]) for block in self.blocks], dim=1)  # [n, R, L] 0 or 1
        self.whole &= bool((live[:, 1:] <= live[:, :-1]).all())  # else their number would not tell behind which
        alike = [self._correlations(first, second) for first, second in pairwise(self.blocks)]
        foreground = torch.zeros(len(self.rows), self.grid) if batch.truth is None else batch.truth[self.rows]
        self.columns.append(
            {
                "item": batch.item[self.rows],
                "cluster": batch.cluster[self.rows],
                "level": live.sum(dim=1).to(torch.uint8),
                "foreground": foreground.to(torch.uint8),
                "consistency": torch.stack(alike, dim=1) if alike else torch.zeros(len(self.rows), 0),
            }
        )

    def _on_grid(self, places: Tensor) -> Tensor:
        """[n, N] places, -1: none -> [n, L] 1 where one is."""
        marked = torch.zeros(len(places), self.grid + 1, dtype=torch.int64)
        return marked.scatter(1, places.where(places >= 0, self.grid), 1)[:, : self.grid]

    def _correlations(self, first: str, second: str) -> Tensor:
        """[n] of two successive reducers; NaN where one has no order of patches."""
        if first not in self.orders or second not in self.orders:
            return torch.full((len(self.rows),), float("nan"))
        scores = [self._scores(*self.orders[block]) for block in (first, second)]
        return torch.tensor([rank_correlation(a, b) for a, b in zip(*scores, strict=True)], dtype=torch.float32)

    def _scores(self, places: Tensor, scores: Tensor) -> np.ndarray:
        """[n, L] scores by place, NaN where there is none."""
        table = torch.full((len(places), self.grid + 1), float("nan"))
        return table.scatter(1, places.where(places >= 0, self.grid), scores)[:, : self.grid].numpy()

    def arrays(self, world: World = ALONE) -> dict[str, np.ndarray]:
        """Of all processes, in the order of items, as kept.npz has it, see results/statistics/insight/kept.py; empty
        where there is nothing to record."""
        (broken,) = world.any(not self.whole)
        if broken or not self.blocks or not len(self.items):
            return {}
        nothing = {
            "item": torch.zeros(0, dtype=torch.int64), "cluster": torch.zeros(0, dtype=torch.int64),
            "level": torch.zeros(0, self.grid, dtype=torch.uint8),
            "foreground": torch.zeros(0, self.grid, dtype=torch.uint8),
            "consistency": torch.zeros(0, len(self.blocks) - 1),
        }  # fmt: skip
        columns = {name: torch.cat([none, *(own[name] for own in self.columns)]) for name, none in nothing.items()}
        found = world.gather_items(columns)
        found["foreground"] = np.packbits(found["foreground"], axis=1)
        found["consistency"] = found["consistency"].astype(np.float16)
        return found | {"blocks": np.array([int(block) for block in self.blocks])}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rho of two scores [L] over the places that have both, equal ones sharing their mean rank; NaN where
    one has no order."""
    both = np.isfinite(first) & np.isfinite(second)
    a, b = (rankdata(scores[both]) for scores in (first, second))
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
