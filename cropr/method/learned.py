"""`schedule=learned`: how many patches stay at each place, found by gradient with a frozen backbone, before training.

DiffRate's search (Chen et al., arXiv 2305.17997; release: no licence file), written from a description in words and
opened to other methods. Of each place a softmax over candidate counts is learned; the count is the expectation, rounded
up, and gradients pass it straight through. Nothing leaves while searching: patches are marked, and masked attention
heeds the marks (cropr/vit/masking.py). The loss is the task's, and the squared distance of the cost from the budget.

Which patches are marked:

- Of a method that drops by a score: those of the lowest own score, computed among the patches that are left, as it is
  in the reduced model. What becomes of the others is not searched: they count as dropped (rest=llf: they come back for
  the last block; those marked inside a block have gone through its MLP), and `rest` counts where the budget is met.
- Where scores are learned, there are none yet: DiffRate's own order, by the class token's attention, stands in.
- Of a method that merges: the tail of DiffRate's order goes to the most similar patches that stay, by plain means,
  whatever pairs the method itself would merge.
- Of DiffRate itself: both, with a softmax for each.

What differs from the paper: the published weight of the cost, 5 for a squared difference in GMACs, is in units in which
the dense model has the 4.6 of DeiT-S, so that it serves models of other sizes. Values of ours: Adam, half a cosine
between the learning rates, and these, which are 30 times the published ones, as steps are few. Sorting, matching and
scoring are not counted in the cost of the search. What is found is moved to the budget by one power of all shares.

Letters: B images, P prefix tokens, N patches, n of them left, T = P + N, C candidates, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.method.objective import Counts, Criterion, Labelled, Objective, Term, Terms, weighted_loss
from cropr.reducer import Dropper, Reducer
from cropr.tokens import Attended, Tokens, take
from cropr.tokens.pooling import sizes

if TYPE_CHECKING:
    from cropr.vit import ReducedViT

__all__ = ["ByClassAttention", "Found", "Place", "Rate", "RateObjective", "Stays", "search", "share_of_macs"]

DEIT_S_GMACS = 4.6
LR = (0.3, 0.03)  # from the first to the last step
STEP = 4  # between two candidates, in patches


class Stays(NamedTuple):
    """Patches of a place that are left behind pruning, and behind merging as well; tensors while they are learned."""

    pruned: Any
    merged: Any


class Rate(nn.Module):
    """How many of `num` patches stay, N, N - step, ... of them, all candidates alike at first."""

    def __init__(self, num: int, step: int = STEP):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(range(num, 0, -step))))  # [C]
        self.register_buffer("candidates", torch.arange(num, 0, -step, dtype=torch.float32))
        self.num = num

    def expected(self) -> Tensor:
        """[] of the number."""
        return (self.logits.softmax(dim=0) * self.candidates).sum()

    def forward(self, lowest: int = 1) -> tuple[Tensor, Tensor]:
        """The number [], not below `lowest`, and for each rank [N] whether it stays, 1 or 0; both with the gradient of
        what is expected."""
        share, expected = self.logits.softmax(dim=0), self.expected()
        number = (expected.detach() - 1e-4).ceil().clamp(min=lowest)  # a whole one may come out a little above itself
        rank = torch.arange(self.num, device=share.device)
        stays = (share * (self.candidates > rank.unsqueeze(1))).sum(dim=1)
        mask = (rank < number).to(stays.dtype)
        return number + expected - expected.detach(), mask + stays - stays.detach()


class ByClassAttention(Dropper):
    """Scores [B, N] by the attention that the class token pays, the mean over heads."""

    inside = True
    taps = ("q", "k")
    class_token = True

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        assert attended is not None
        return attended.prefix_attention(1).mean(dim=1)[:, 0, tokens.num_prefix :]


class Place(Reducer):
    """Marks the patches that `scorer` ranks last, and hands on in `aux` how many stay (`Stays`, [] each). `ways`:
    prune, merge or both. `spared`: the MLP of its block runs on what stays alone. `least`: share of what comes in that
    must stay."""

    def __init__(
        self, scorer: Dropper, num: int, ways: Sequence[str] = ("prune",), *, spared: bool, least: float = 0.0,
        step: int = STEP,
    ):  # fmt: skip
        super().__init__()
        self.inside, self.taps, self.class_token = scorer.inside, scorer.taps, scorer.class_token  # type: ignore[misc]
        self.reads_truth = scorer.reads_truth  # type: ignore[misc]
        self.scorer, self.spared, self.least = scorer.requires_grad_(False), spared, least
        self.rates = nn.ModuleDict({way: Rate(num, step) for way in ways})

    @property
    def seeded(self) -> bool:
        return self.scorer.seeded

    def count_after(self, num_live: int, num_prefix: int) -> int:
        return num_live  # all of them, marked

    def forward(self, tokens: Tokens, attended: Attended | None = None) -> Tokens:
        assert tokens.policy is not None
        left = int((tokens.policy[0] > 0.5).sum())  # as many in every image
        lowest = max(1, math.ceil(self.least * left))
        number = {way: rate(lowest) for way, rate in self.rates.items()}
        rank = self.ranks(tokens, attended, left, min(round(count.item()) for count, _ in number.values()))
        before = tokens.aux[-1].merged if tokens.aux else tokens.policy.new_tensor(float(tokens.num_live))
        pruned, policy = before, tokens.policy
        if "prune" in number:
            pruned, policy = number["prune"][0].minimum(before), policy * number["prune"][1][rank]
        if "merge" not in number:
            return replace(tokens, policy=policy, aux=(*tokens.aux, Stays(pruned, pruned)))
        merged, unpruned = number["merge"][0].minimum(pruned), policy
        policy = unpruned * number["merge"][1][rank]
        x, size = merge_marked(tokens, unpruned > 0.5, policy > 0.5)
        counts = Stays(pruned, merged)
        return replace(tokens, x=x, size=size, proportional=True, policy=policy, aux=(*tokens.aux, counts))

    @torch.no_grad()
    def ranks(self, tokens: Tokens, attended: Attended | None, left: int, keep: int) -> Tensor:
        """[B, N] the rank of each patch among the `left` ones, of which `keep` stay; marked ones come last."""
        assert tokens.policy is not None
        live = tokens.policy > 0.5
        in_turn = (~live).to(torch.uint8).argsort(dim=1, stable=True)  # those left first, each part in grid order
        rows = in_turn[:, :left]
        seen, theirs = at(tokens, attended, rows)
        self.scorer.keep = max(1, min(keep, left))
        order = seen.rank(self.scorer.score(seen, theirs), left, whole=True)
        return torch.cat([rows.gather(1, order), in_turn[:, left:]], dim=1).argsort(dim=1)


def at(tokens: Tokens, attended: Attended | None, rows: Tensor) -> tuple[Tokens, Attended | None]:
    """The patches `rows` [B, n] of all N alone, as if the others had left."""
    prefix = torch.arange(tokens.num_prefix, device=rows.device).expand(rows.shape[0], -1)
    both = torch.cat([prefix, rows + tokens.num_prefix], dim=1)  # [B, P + n]
    size = None if tokens.size is None else tokens.size.gather(1, both)
    alone = replace(tokens, x=take(tokens.x, both), index=rows, size=size, policy=None, aux=())
    if attended is None:
        return alone, None

    def of_heads(x: Tensor | None) -> Any:
        return None if x is None else take(x.transpose(1, 2), both).transpose(1, 2)

    def of_tokens(x: Tensor | None) -> Tensor | None:
        return None if x is None else take(x, both)

    return alone, replace(
        attended, q=of_heads(attended.q), k=of_heads(attended.k), v=of_heads(attended.v),
        normed=of_tokens(attended.normed), mlp=of_tokens(attended.mlp), rope=alone.rope(attended.rope),
        bias=alone.attn_bias(),
    )  # fmt: skip


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
    """[] MACs of `model` with so many patches, [] each, behind its places, as a share of the dense model's."""
    from cropr.macs import attention_width, dense_macs, linear_weights

    def cost(block: nn.Module, in_attention: Any, in_mlp: Any) -> Any:
        attended, fed = in_attention + model.num_prefix_tokens, in_mlp + model.num_prefix_tokens
        products = 2 * attended**2 * attention_width(block.attn)
        return products + attended * linear_weights(block.attn) + fed * linear_weights(block.mlp)

    behind = dict(zip(map(int, model.reducers), counts, strict=True))
    live: Any = model.num_patches
    saved: Any = 0
    for i, block in enumerate(model.vit.blocks):
        if model.llf and i == len(model.vit.blocks) - 1:
            break  # all are back
        after = behind.get(i, live)
        fed = after if i in behind and model.reducers[str(i)].spared else live
        saved = saved + cost(block, model.num_patches, model.num_patches) - cost(block, live, fed)
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
        share = share_of_macs(model, [stays.merged for stays in tokens.aux])
        counts = self.counts(model, batch)
        distance = ((share - self.target) * DEIT_S_GMACS) ** 2 * counts["image"]
        main = self.criterion(model.forward_head(tokens), batch.target)
        return {"main": Term(main, "label"), "cost": Term(distance, "image", self.weight)}, counts

    def counts(self, model: ReducedViT, batch: Labelled) -> Counts:
        images = torch.full((), len(batch.images), device=batch.images.device)
        return {"label": self.criterion.count(batch.target), "image": images}


class Found(NamedTuple):
    """What a search found: the expected numbers at each place, the task's loss (mean of a batch) at each step, and how
    many images it saw."""

    stays: dict[int, Stays]
    losses: list[float]
    num_items: int


def search(
    vit: nn.Module, places: Mapping[int, Place], batches: Iterable[Labelled], steps: int, criterion: Criterion,
    target: float, *, llf: bool = False, lr: tuple[float, float] = LR,
) -> Found:  # fmt: skip
    """Numbers for `places` of a timm model near the share `target` of its MACs: one step on each of the `steps`
    `batches`, on the device of `vit`, which stays as it is. `llf`: what leaves comes back for the last block."""
    from cropr.vit import ReducedViT

    vit = copy.deepcopy(vit).eval().requires_grad_(False)
    model = ReducedViT(vit, places, llf=llf, policy="exact").to(next(vit.parameters()).device).eval()
    model.masked_eval = True
    objective, losses = RateObjective(criterion, target), []
    learned = [parameter for place in places.values() for parameter in place.rates.parameters()]
    optimizer, num_items = torch.optim.Adam(learned), 0
    for n, batch in enumerate(batches):
        num_items += len(batch.images)
        left = (1 + math.cos(math.pi * n / steps)) / 2
        optimizer.param_groups[0]["lr"] = lr[1] + (lr[0] - lr[1]) * left
        optimizer.zero_grad()
        with model.told(getattr(batch, "truth", None)):
            terms, counts = objective(model, batch)
        weighted_loss(terms, counts).backward()
        optimizer.step()
        losses.append(weighted_loss({"main": terms["main"]}, counts).detach())
    return Found(expected(places, model.num_patches), torch.stack(losses).tolist(), num_items)


@torch.no_grad()
def expected(places: Mapping[int, Place], num_patches: int) -> dict[int, Stays]:
    """The numbers that the rates of a model expect, in order of blocks, none above the one before."""
    live, found = float(num_patches), {}
    for block, place in sorted(places.items()):
        each = {way: rate.expected().item() for way, rate in place.rates.items()}
        pruned = min(live, each.get("prune", live))
        live = min(pruned, max(each.get("merge", pruned), place.least * pruned))
        found[block] = Stays(pruned, live)
    return found
