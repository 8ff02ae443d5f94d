"""DiffRate's search: how many patches to prune and to merge in each block, by gradient, with a frozen backbone.

Chen et al., arXiv 2305.17997 (release: no licence file), written from a description in words. Of each place two
softmaxes over candidate counts are learned; a count is the expectation, rounded up, and gradients pass it straight
through. Nothing leaves while searching: patches are marked, and masked attention heeds the marks (see
cropr/vit/masking.py). What differs: the published weight of the cost, 5 for a squared difference in GMACs, is in units
in which the dense model has the 4.6 of DeiT-S, so that it serves models of other sizes. Values of ours: Adam, and half
a cosine between the published learning rates. Sorting and matching are not counted in the cost.

What is found are options of the method, `keeps=20/9,merges=8/3` beside `at=2/4`. The cost comes near the target, not
more: the longer the search, the nearer.

Letters: B images, P prefix tokens, N patches, T = P + N, C candidates, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.method.objective import Counts, Criterion, Labelled, Objective, Term, Terms, weighted_loss
from cropr.reducer import Reducer
from cropr.tokens import Attended, Tokens
from cropr.tokens.pooling import sizes

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = ["Found", "Rate", "RateObjective", "SearchedRates", "search", "share_of_macs"]

DEIT_S_GMACS = 4.6


class Rate(nn.Module):
    """How many of `num` patches stay, N, N - step, ... of them, all candidates alike at first."""

    def __init__(self, num: int, step: int = 4):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(range(num, 0, -step))))  # [C]
        self.register_buffer("candidates", torch.arange(num, 0, -step, dtype=torch.float32))
        self.num = num

    def forward(self) -> tuple[Tensor, Tensor]:
        """The number [], and for each rank [N] whether it stays, 1 or 0; both with the gradient of what is expected."""
        share = self.logits.softmax(dim=0)
        expected = (share * self.candidates).sum()
        number = (expected.detach() - 1e-4).ceil()  # a whole number may come out a little above itself
        rank = torch.arange(self.num, device=share.device)
        stays = (share * (self.candidates > rank.unsqueeze(1))).sum(dim=1)
        mask = (rank < number).to(stays.dtype)
        return number + expected - expected.detach(), mask + stays - stays.detach()


class SearchedRates(Reducer):
    """Marks the patches of a place that are pruned or merged; the others become what they do at inference. Hands on in
    `aux` how many stay, before and behind merging."""

    inside = True
    taps = ("q", "k")
    class_token = True

    def __init__(self, num: int, step: int = 4):
        super().__init__()
        self.prune, self.merge = Rate(num, step), Rate(num, step)

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return num_live  # all of them, marked

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        assert attended is not None and tokens.policy is not None
        rank = self.ranks(tokens, attended)
        (pruned_to, unpruned), (merged_to, unmerged) = self.prune(), self.merge()
        unpruned = tokens.policy * unpruned[rank]
        policy = unpruned * unmerged[rank]
        x, size = merge_marked(tokens, unpruned > 0.5, policy > 0.5)
        before = tokens.aux[-1][1] if tokens.aux else pruned_to.new_tensor(float(tokens.num_live))
        pruned_to = pruned_to.minimum(before)
        counts = (pruned_to, merged_to.minimum(pruned_to))
        return replace(tokens, x=x, size=size, proportional=True, policy=policy, aux=(*tokens.aux, counts))

    @torch.no_grad()
    def ranks(self, tokens: Tokens, attended: Attended) -> Tensor:
        """[B, N] the rank of each patch by class attention among what is left; marked ones come last."""
        assert tokens.policy is not None
        left = (tokens.policy > 0.5).float()
        row = attended.prefix_attention(1)[:, :, 0]  # [B, H, T]
        row = row * F.pad(left, (tokens.num_prefix, 0), value=1.0).unsqueeze(1)
        row = row / row.sum(dim=2, keepdim=True)  # the softmax over what is left, which differs between heads
        score = row.mean(dim=1)[:, tokens.num_prefix :].where(left > 0, -1.0)
        return tokens.rank(score, tokens.num_live, whole=True).argsort(dim=1)


def merge_marked(tokens: Tokens, candidates: Tensor, hosts: Tensor) -> tuple[Tensor, Tensor]:
    """Those of `candidates` that are no `hosts`, [B, N] bool each, merged into the most similar host, in place of it:
    x [B, T, D] and sizes [B, T]."""
    prefix, x, size = tokens.num_prefix, tokens.patches, sizes(tokens)
    direction = F.normalize(x.detach(), dim=-1)
    similarity = (direction @ direction.transpose(1, 2)).masked_fill(~hosts.unsqueeze(1), -math.inf)
    best, host = similarity.max(dim=2)
    merged = (candidates & ~hosts).to(x.dtype)
    members = torch.ones_like(merged).scatter_add(1, host, merged)
    summed = x.scatter_add(1, host.unsqueeze(-1).expand_as(x), merged.unsqueeze(-1) * x)
    counted = (size[:, prefix:] * best.float()).clamp(min=1) * merged.float()
    whole = size[:, prefix:].scatter_add(1, host, counted)
    x = torch.cat([tokens.x[:, :prefix], summed / members.unsqueeze(-1)], dim=1)
    return x, torch.cat([size[:, :prefix], whole], dim=1)


def share_of_macs(model: ReducedViT, counts: Sequence[Tensor]) -> Tensor:
    """[] MACs of `model` with so many patches, [] each, behind its reducers, as a share of the dense model's."""
    from cropr.macs import attention_width, dense_macs, linear_weights

    def cost(block: nn.Module, in_attention: Any, in_mlp: Any) -> Any:
        attended, fed = in_attention + model.num_prefix_tokens, in_mlp + model.num_prefix_tokens
        products = 2 * attended**2 * attention_width(block.attn)
        return products + attended * linear_weights(block.attn) + fed * linear_weights(block.mlp)

    behind = dict(zip(map(int, model.reducers), counts, strict=True))
    live: Any = model.num_patches
    saved: Any = 0
    for i, block in enumerate(model.vit.blocks):
        after = behind.get(i, live)
        saved = saved + cost(block, model.num_patches, model.num_patches) - cost(block, live, after)
        live = after
    return 1 - saved / dense_macs(model.vit, model.grid_size)


class RateObjective(Objective):
    """The task's loss, and the squared distance of the MACs from `target`, a share of the dense model's."""

    name = "CE + cost"

    def __init__(self, criterion: Criterion, target: float, weight: float = 5.0):
        super().__init__(criterion)
        self.target, self.weight = target, weight

    def __call__(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        tokens = model.forward_features(batch.images)
        share = share_of_macs(model, [kept for _, kept in tokens.aux])
        counts = self.counts(model, batch)
        distance = ((share - self.target) * DEIT_S_GMACS) ** 2 * counts["image"]
        main = self.criterion(model.forward_head(tokens), batch.target)
        return {"main": Term(main, "label"), "cost": Term(distance, "image", self.weight)}, counts

    def counts(self, model: ReducedViT, batch: Labelled) -> Counts:
        images = torch.full((), len(batch.images), device=batch.images.device)
        return {"label": self.criterion.count(batch.target), "image": images}


class Found(NamedTuple):
    """What stays behind each place, and how many were merged there."""

    keeps: tuple[int, ...]
    merges: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(f"{key}={'/'.join(map(str, numbers))}" for key, numbers in self._asdict().items())


def search(
    vit: nn.Module, blocks: Sequence[int], batches: Sequence[Labelled], criterion: Criterion, target: float,
    step: int = 4, lr: tuple[float, float] = (0.01, 0.001),
) -> Found:  # fmt: skip
    """Counts for `blocks` of a timm model at the share `target` of its MACs: one step on each of `batches`, on their
    device, at rates from the first to the second of `lr`. `vit` stays as it is."""
    from cropr.vit import ReducedViT

    vit = copy.deepcopy(vit).eval().requires_grad_(False)
    num_patches = vit.patch_embed.num_patches
    rates = {block: SearchedRates(num_patches, step).to(batches[0].images.device) for block in blocks}
    model = ReducedViT(vit, rates, policy="exact").eval()
    model.masked_eval = True
    objective, optimizer = RateObjective(criterion, target), torch.optim.Adam(model.reducers.parameters())
    for n, batch in enumerate(batches):
        left = (1 + math.cos(math.pi * n / len(batches))) / 2
        optimizer.param_groups[0]["lr"] = lr[1] + (lr[0] - lr[1]) * left
        optimizer.zero_grad()
        weighted_loss(*objective(model, batch)).backward()
        optimizer.step()
    return found(list(rates.values()), num_patches)


@torch.no_grad()
def found(places: Sequence[SearchedRates], num_patches: int) -> Found:
    """The counts of the places of a model, in order."""
    keeps, merges, live = [], [], num_patches
    for place in places:
        pruned_to = min(live, round(place.prune()[0].item()))
        live = min(pruned_to, round(place.merge()[0].item()))
        keeps.append(live)
        merges.append(pruned_to - live)
    return Found(tuple(keeps), tuple(merges))
