"""The search of counts, against loops and the models that the counts make, and where the best counts are known.

Letters: B images, P prefix tokens, N patches, C candidates.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import DEPTH, images, tiny

from baselines.pruners.diffrate import PruneAndMerge
from cropr.macs import count, dense_macs, planned_macs
from cropr.method.learned import ByClassAttention, Place, Rate, Stays, search, share_of_macs
from cropr.method.objective import CrossEntropy
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT
from studies.models.methods import parse_one

PATCHES, BATCH, PREFIX, HEADS, HEAD = 36, 3, 2, 4, 8


def set_rates(places):
    """In the middle of a search: each place has another count, and nothing is certain."""
    torch.manual_seed(5)
    for n, place in enumerate(places.values()):
        for way, likely in (("prune", n + 1), ("merge", 2 * n + 2)):
            if way in place.rates:
                logits = place.rates[way].logits.data.normal_()
                logits[min(likely, len(logits) - 1)] += 8


def searching(vit, places, llf=False):
    set_rates(places)
    model = ReducedViT(vit, places, policy="exact", llf=llf).eval()
    model.masked_eval = True
    return model


def whole(stays):
    return Stays(*(round(number.item()) for number in stays))


OWN = ("random", "random:rest=llf", "evit:rest=drop", "classattn", "keynorm", "norm", "ats", "zerotprune", "repshift")
KINDS = ("token", "dinov3")


@torch.no_grad()
@pytest.mark.parametrize("spec", [*OWN, "diffrate"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_marked_is_what_the_counts_remove(spec, kind):
    method, vit, x = parse_one(spec), tiny(kind), images(4)
    reducers = parse_one(f"{spec}{',' if ':' in spec else ':'}at=0/2/3").searching(vit, PATCHES)
    model = searching(vit, reducers, llf=method.rest == "llf")
    tokens = model.forward_features(x)
    stays = dict(zip(reducers, map(whole, tokens.aux), strict=True))
    assert PATCHES > stays[0].merged > stays[2].merged > stays[3].merged > 1

    def removed(stays):
        return ReducedViT(vit, method.at_counts(stays, PATCHES).place(vit, PATCHES), llf=method.rest == "llf").eval()

    right = removed(stays)
    torch.testing.assert_close(model.forward_head(tokens), right(x), atol=2e-5, rtol=1e-4)
    fewer = {block: Stays(each.pruned - 1, each.merged - 1) for block, each in stays.items()}
    assert (removed(fewer)(x) - right(x)).abs().max() > 1e-3
    share = share_of_macs(model, [stays.merged for stays in tokens.aux]).item()
    assert share == pytest.approx(count(right).backbone / dense_macs(vit), rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_mergers_are_searched_by_diffrates_order(kind):
    vit, x = tiny(kind), images(4)
    places = parse_one("tome:schedule=learned").searching(vit, PATCHES)
    assert list(places) == list(range(DEPTH)) and all(list(place.rates) == ["merge"] for place in places.values())
    tokens = searching(vit, places).forward_features(x)
    found, live, least = {}, PATCHES, []
    for block, stays in zip(places, map(whole, tokens.aux), strict=True):
        found[block] = PruneAndMerge(stays.merged, live - stays.merged, attn_dim=32)
        least.append(stays.merged >= live / 2)
        live = stays.merged
    assert all(least) and live < PATCHES / 2  # pairs: at most half leave
    torch.testing.assert_close(vit_head(vit, tokens), ReducedViT(vit, found).eval()(x), atol=2e-5, rtol=1e-4)


def vit_head(vit, tokens):
    return ReducedViT(vit).forward_head(tokens)


# Against loops


def test_a_rate_is_an_expectation_rounded_up_with_its_gradient():
    torch.manual_seed(0)
    rate = Rate(18, step=4).double()
    rate.logits.data.normal_()
    weight = torch.randn(18, dtype=torch.float64)
    logits = rate.logits.tolist()
    number, mask = rate()
    assert number.item() == pytest.approx(math.ceil(expectation(logits, 18)))
    assert mask.tolist() == pytest.approx([1.0] * round(number.item()) + [0.0] * (18 - round(number.item())))
    assert round(rate(17)[0].item()) == 17 and rate(17)[1].sum().item() == pytest.approx(17)

    def expected(logits):
        return expectation(logits, 18), sum(float(weight[r]) * stays(logits, 18, r) for r in range(18))

    for n, value in enumerate((number, (weight * mask).sum())):
        (slope,) = torch.autograd.grad(value, rate.logits, retain_graph=True)
        for c in range(5):
            near = [expected([v + step * (i == c) for i, v in enumerate(logits)])[n] for step in (1e-6, -1e-6)]
            assert slope[c].item() == pytest.approx((near[0] - near[1]) / 2e-6, rel=1e-4, abs=1e-7)


def candidates(logits, num):
    """(probability, candidate) of a rate of step 4."""
    total = sum(math.exp(v) for v in logits)
    return [(math.exp(v) / total, num - 4 * c) for c, v in enumerate(logits)]


def expectation(logits, num):
    return sum(p * c for p, c in candidates(logits, num))


def stays(logits, num, rank):
    """Probability that the patch of a rank stays."""
    return sum(p for p, c in candidates(logits, num) if c > rank)


def test_marks_and_their_gradient_against_loops():
    """Two places behind one another, one image and one patch at a time."""
    drawn = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, BATCH, HEADS, PREFIX + PATCHES, HEAD, generator=drawn, dtype=torch.float64)
    x = torch.randn(BATCH, PREFIX + PATCHES, HEADS * HEAD, generator=drawn, dtype=torch.float64)
    attended = Attended(q, k, 0.5, PREFIX)
    places = {n: Place(ByClassAttention(1), PATCHES, spared=True).double() for n in range(2)}
    set_rates(places)
    tokens = Tokens(x, PREFIX, PATCHES, policy=torch.ones(BATCH, PATCHES, dtype=torch.float64))
    for place in places.values():
        tokens = place(tokens, attended)

    logits = [place.rates["prune"].logits.tolist() for place in places.values()]
    numbers = [math.ceil(expectation(each, PATCHES)) for each in logits]
    assert [whole(each).merged for each in tokens.aux] == numbers and numbers[1] < numbers[0] < PATCHES
    ranks = torch.zeros(2, BATCH, PATCHES, dtype=torch.int64)
    for i in range(BATCH):
        left = list(range(PATCHES))
        for n, number in enumerate(numbers):
            order = sorted(left, key=lambda j, left=left: -class_attention(q[i], k[i], left)[j])
            order += [j for j in range(PATCHES) if j not in left]
            for rank, j in enumerate(order):
                ranks[n, i, j] = rank
            left = sorted(order[:number])
        assert tokens.policy[i].tolist() == pytest.approx([float(j in left) for j in range(PATCHES)])

    weight = torch.randn(BATCH, PATCHES, generator=drawn, dtype=torch.float64)
    slopes = torch.autograd.grad((weight * tokens.policy).sum(), [p.rates["prune"].logits for p in places.values()])
    for n, slope in enumerate(slopes):
        other = 1 - n

        def soft(at, n=n, other=other):
            """The other place as it is, hard."""
            there = ranks[other] < numbers[other]
            return sum(
                float(weight[i, j]) * stays(at, PATCHES, int(ranks[n, i, j])) * bool(there[i, j])
                for i in range(BATCH)
                for j in range(PATCHES)
            )

        for c in range(len(logits[n])):
            near = [soft([v + step * (m == c) for m, v in enumerate(logits[n])]) for step in (1e-5, -1e-5)]
            assert slope[c].item() == pytest.approx((near[0] - near[1]) / 2e-5, rel=1e-4, abs=1e-6)


def class_attention(q, k, left):
    """Patch -> attention of the class token over the prefix and the patches that are left, the mean over heads."""
    found = dict.fromkeys(left, 0.0)
    for head in range(HEADS):
        rows = [*range(PREFIX), *(PREFIX + j for j in left)]
        logit = {row: 0.5 * float(q[head, 0] @ k[head, row]) for row in rows}
        total = sum(math.exp(value) for value in logit.values())
        for j in left:
            found[j] += math.exp(logit[PREFIX + j]) / total / HEADS
    return found


# What it finds


def without_late_attention(blocks):
    """A model whose class token reads patches in blocks 0 and 1 alone, and that is sure of its classes."""
    vit = tiny("token")
    with torch.no_grad():
        for block in list(vit.blocks)[blocks:]:
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
        vit.head.weight *= 30
    return vit


def labelled(vit, num=32):
    x = images(num)
    with torch.no_grad():
        return SimpleNamespace(images=x, target=vit(x).argmax(dim=1))


def test_patches_leave_where_they_are_not_read_any_more():
    """What leaves in block 0 is missed in block 1, and nothing is missed later: the best counts keep all there."""
    vit = without_late_attention(2)
    batch, target = labelled(vit), 0.6
    places = parse_one("random:schedule=learned").searching(vit, PATCHES)
    for block in places:
        places[block].spared = False
    # Behind block 0 everything stays, and behind block 1 what the budget leaves.
    found = search(vit, places, [batch] * 60, 60, CrossEntropy(), target)
    first, second = found.stays[0].merged, found.stays[1].merged
    assert first > 0.9 * PATCHES and second < 0.6 * PATCHES
    assert len(found.losses) == 60 and found.num_items == 60 * len(batch.images)
    assert found.losses[-1] < 0.2 * found.losses[0]
    counts = [each.merged for each in found.stays.values()]
    assert counts == sorted(counts, reverse=True)


def test_the_search_comes_near_the_target_and_leaves_the_model_as_it_is():
    vit = tiny("token")
    batch = labelled(vit, 16)
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    method = parse_one("diffrate:at=0/1/3")
    places = method.searching(vit, PATCHES)
    found = search(vit, places, [batch] * 50, 50, CrossEntropy(), 0.8)
    counts = {block: Stays(*map(round, each)) for block, each in found.stays.items()}
    reducers = method.at_counts(counts, PATCHES).place(vit, PATCHES)
    macs = planned_macs(vit, reducers, vit.patch_embed.grid_size)
    assert macs.backbone / dense_macs(vit) == pytest.approx(0.8, abs=0.03)
    assert all(value.equal(before[key]) for key, value in vit.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in vit.parameters())
