"""Methods that drop patches, against slow loops in float64, one image and one number at a time.

Letters: B images, P prefix tokens, N patches, T = P + N, D width, H heads, E head width.
"""

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import images, place, tiny

from baselines.pruners.adaptive_sampling import SampledScore, sample
from baselines.pruners.diffrate import PruneAndMerge
from baselines.pruners.representation_shift import ShiftScore
from baselines.pruners.zero_tprune import AttentionRank
from cropr.reducer import observed
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT
from studies.models.methods import parse_one
from studies.models.reducers import build

KEEP = 20
BATCH, PREFIX, PATCHES, HEADS, HEAD = 3, 2, 36, 4, 8


def best_first(scores):
    return sorted(range(len(scores)), key=lambda n: -scores[n])


def state(seed=0):
    """Tokens [B, P + N, H E] of float64 and what their block's attention saw, sharp enough to differ."""
    drawn = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, BATCH, HEADS, PREFIX + PATCHES, HEAD, generator=drawn, dtype=torch.float64)
    x = torch.randn(BATCH, PREFIX + PATCHES, HEADS * HEAD, generator=drawn, dtype=torch.float64)
    v = v * (0.5 + torch.rand(BATCH, HEADS, PREFIX + PATCHES, 1, generator=drawn, dtype=torch.float64))
    return Tokens(x, PREFIX, PATCHES), Attended(q, k, 0.5, PREFIX, v=v)


def attention_row(attended, i, head, query):
    """[T] the softmax of one query of image i."""
    logits = [0.5 * float(attended.q[i, head, query] @ key) for key in attended.k[i, head]]
    if attended.bias is not None:
        logits = [logit + float(added) for logit, added in zip(logits, attended.bias[i, 0, 0], strict=True)]
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def length(*vectors):
    return math.sqrt(sum(float(value) ** 2 for vector in vectors for value in vector))


# Representation shift


def shifts(vit, block, image, what):
    """[P + N] norms of what the MLP of the block changes in each token, none having left before."""
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None])))
    for i in range(block):
        x = vit.blocks[i](x)
    block = vit.blocks[block]
    middle = x + block.attn(block.norm1(x))
    added = block.mlp(block.norm2(middle))
    vector = {"branch": added, "difference": added - middle, "output": middle + added, "input": middle}[what][0]
    return [length(token) for token in vector]


@torch.no_grad()
@pytest.mark.parametrize("shift", ["branch", "difference"])
@pytest.mark.parametrize("kind", ["token", "registers"])
def test_representation_shift(kind, shift):
    vit, x, scores = tiny(kind).double(), images(3).double(), []
    reducer = ShiftScore(KEEP, shift=shift)
    with observed({"": reducer}, lambda _, args, out: scores.append(reducer.score(*args))):
        index = ReducedViT(vit, {2: reducer}).eval().forward_features(x).index
    for i, image in enumerate(x):
        prefix, right = vit.num_prefix_tokens, shifts(vit, 2, image, shift)
        assert scores[0][i].tolist() == pytest.approx(right[prefix:], rel=1e-12)
        assert index[i].tolist() == best_first(right[prefix:])[:KEEP]
        wrong = {"branch", "difference", "output", "input"} - {shift}
        for mistaken in [shifts(vit, 2, image, what) for what in wrong] + [shifts(vit, 1, image, shift)]:
            assert scores[0][i].tolist() != pytest.approx(mistaken[prefix:], rel=1e-3)
            assert index[i].tolist() != best_first(mistaken[prefix:])[:KEEP]


def test_shifts_that_are_nearly_equal_have_an_order_in_bfloat16():
    x = torch.randn(1, 1 + 36, 768, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = ShiftScore(KEEP).score(Tokens(x, 1, 36), Attended(x, x, 1.0, 1, mlp=x))
    assert len(set(found[0].tolist())) == 36 > len(set(found[0].bfloat16().tolist()))


# Adaptive token sampling, with a fixed number


def significances(attended, i, wrong=""):
    """[N] of image i, with a mistake."""
    heads = range(HEADS)
    rows = [attention_row(attended, i, head, 1 if wrong == "second prefix token" else 0) for head in heads]
    found = []
    for t in range(PREFIX + PATCHES):
        norms = [length(attended.v[i, head, t]) for head in heads]
        whole = length(*(attended.v[i, head, t] for head in heads))
        if wrong == "no values":
            found.append(sum(row[t] for row in rows))
        elif wrong == "values of each head":
            found.append(sum(row[t] * norm for row, norm in zip(rows, norms, strict=True)))
        else:
            found.append(sum(row[t] for row in rows) * whole)
    found = found if wrong == "prefix takes a share" else found[PREFIX:]
    return [value / sum(found) for value in found][-PATCHES:]


def sampled(share, num, wrong=""):
    """The set of places in `share` that are taken, one sample after the other."""
    order = sorted(range(len(share)), key=lambda n: share[n], reverse=wrong == "descending")
    cumulative = [sum(share[n] for n in order[: m + 1]) for m in range(len(order))]
    first = 0.0 if wrong == "from 0" else next(c for c in cumulative if c > 0)
    taken = set()
    for s in range(num):
        point = first + (cumulative[-1] - first) * s / (num - 1) if num > 1 else cumulative[-1]
        at = min(range(len(order)), key=lambda m: abs(cumulative[m] - point))
        free = [m for m in range(len(order)) if m not in taken]
        taken.add(next((m for m in free if m >= at), free[-1]))
    return {order[m] for m in taken}


@torch.no_grad()
@pytest.mark.parametrize("keep", [1, 7, KEEP, PATCHES - 1])
def test_adaptive_sampling(keep):
    tokens, attended = state()
    out, wholly = SampledScore(keep)(tokens, attended), SampledScore(keep, rest="fuse")(tokens, attended)
    assert keep == 1 or len({frozenset(row) for row in out.index.tolist()}) == BATCH
    for i in range(BATCH):
        share = significances(attended, i)
        right = sorted(sampled(share, keep), key=lambda n: -share[n])
        assert out.index[i].tolist() == right
        assert out.x[i, PREFIX:].equal(tokens.patches[i, right]) and out.x[i, :PREFIX].equal(tokens.x[i, :PREFIX])
        fused = sum(share[n] * tokens.patches[i, n] for n in range(PATCHES) if n not in right)
        torch.testing.assert_close(wholly.x[i, -1], fused, atol=1e-6, rtol=1e-5)
        if keep == KEEP:
            for wrong in ("no values", "values of each head", "second prefix token"):
                assert sampled(significances(attended, i, wrong), keep) != set(right)
            assert sampled(share, keep, "descending") != set(right) != set(best_first(share)[:keep])


@torch.no_grad()
def test_significance_is_a_share_of_the_patches():
    tokens, attended = state()
    found = SampledScore(KEEP).significance(tokens, attended)
    for i in range(BATCH):
        assert found[i].tolist() == pytest.approx(significances(attended, i), rel=1e-5)
        for wrong in ("no values", "values of each head", "prefix takes a share"):
            assert found[i].tolist() != pytest.approx(significances(attended, i, wrong), rel=1e-3)


@pytest.mark.parametrize("num", [1, 2, 9, 17, 18])
def test_samples_are_different_places_whatever_the_distribution(num):
    drawn = torch.rand(50, 18, generator=torch.Generator().manual_seed(1)) ** 8
    flat, peak, nothing = torch.ones(18), torch.eye(18)[-1], torch.zeros(18)
    share = torch.cat([drawn, flat[None], peak[None]]).sort(1).values
    found = sample(torch.cat([share / share.sum(1, keepdim=True), nothing[None]]), num)
    assert found.diff(dim=1).ge(1).all() and found.min() >= 0 and found.max() <= 17
    assert 17 in found[-2] and (num in (1, 18) or len(set(map(tuple, found.tolist()))) > 1)


# Zero-TPrune


def ranks(graph, rounds, left, wrong=""):
    """[T] scores of all tokens but 0 for those that left, of one image, with a mistake. graph: [H][T][T]."""
    patches, heads, variances = sorted(left - set(range(PREFIX))), [], []
    for rows in graph:
        scores = [1.0] * len(rows)
        scores[0] = 1.0 if wrong == "class token like others" else math.sqrt(PATCHES)
        voters = range(len(rows)) if wrong == "all vote" else sorted(left)
        for _ in range(rounds):
            scores = [
                sum(scores[i] * (rows[t][i] if wrong == "rows" else rows[i][t]) for i in voters) if t in left else 0.0
                for t in range(len(rows))
            ]
            scores = scores if wrong == "all vote" else [s / sum(scores) for s in scores]
        mean = sum(scores[t] for t in patches) / len(patches)
        heads.append([s / mean for s in scores])
        variances.append(sum((heads[-1][t] - 1) ** 2 for t in patches) / len(patches))
    within = [0.01 <= variance <= 0.7 for variance in variances]
    chosen = [h for h, good in zip(heads, within, strict=True) if good or not any(within) or wrong == "all heads"]
    if wrong == "mean":
        return [sum(h[t] for h in chosen) / len(chosen) for t in range(len(chosen[0]))], within
    return [math.sqrt(sum(h[t] ** 2 for h in chosen) / len(chosen)) for t in range(len(chosen[0]))], within


def zero_tprune(attended, i, keep, rounds, num_similar, wrong=""):
    """Places of the patches of image i that stay, best first, and their scores; which heads counted."""
    graph = [[attention_row(attended, i, h, t) for t in range(PREFIX + PATCHES)] for h in range(HEADS)]
    everything = set(range(PREFIX + PATCHES))
    once, _ = ranks(graph, 1, everything, wrong)
    order = best_first(once[PREFIX:])
    upper, lower = order[: PATCHES // 2], order[PATCHES // 2 :]
    upper, lower = (lower, upper) if wrong == "important ones leave" else (upper, lower)
    keys = [sum(attended.k[i, h, PREFIX + n] for h in range(HEADS)) / HEADS for n in range(PATCHES)]
    like = {a: max(float(keys[a] @ keys[b]) / length(keys[a]) / length(keys[b]) for b in upper) for a in lower}
    gone = sorted(lower, key=lambda a: like[a], reverse=wrong != "least similar")[:num_similar]
    scores, within = ranks(graph, rounds, everything - {PREFIX + n for n in gone}, wrong)
    scores = {n: scores[PREFIX + n] for n in range(PATCHES) if n not in gone}
    return sorted(scores, key=lambda n: -scores[n])[:keep], scores, within


MISTAKES = ("rows", "class token like others", "all vote", "all heads", "mean", "important ones leave", "least similar")


@torch.no_grad()
@pytest.mark.parametrize(("rounds", "similar"), [(1, 0.5), (3, 0.5), (3, 0.0), (2, 1.0)])
def test_zero_tprune(rounds, similar):
    tokens, attended = state(seed=3)
    attended = replace(attended, q=attended.q * torch.tensor([0.4, 0.8, 1.2, 2.0])[:, None, None])  # heads that differ
    reducer = AttentionRank(KEEP, rounds=rounds, similar=similar, num_heads=HEADS, head_dim=HEAD)
    num = int(similar * (PATCHES - KEEP))
    out, found, seen = reducer(tokens, attended), reducer.score(tokens, attended), []
    for i in range(BATCH):
        right, scores, within = zero_tprune(attended, i, KEEP, rounds, num)
        assert out.index[i].tolist() == right and out.x[i, PREFIX:].equal(tokens.patches[i, right])
        assert {n for n in range(PATCHES) if found[i, n] < 0} == set(range(PATCHES)) - set(scores)
        assert found[i, list(scores)].tolist() == pytest.approx(list(scores.values()), rel=1e-4)
        seen += within
        if (rounds, similar) == (3, 0.5):
            for wrong in MISTAKES:
                _, mistaken, _ = zero_tprune(attended, i, KEEP, rounds, num, wrong)
                assert mistaken.keys() != scores.keys() or mistaken != pytest.approx(scores, rel=1e-3), wrong
    assert True in seen and False in seen and out.index.unique(dim=0).shape[0] == BATCH


def test_zero_tprune_of_a_large_share_takes_half_by_similarity():
    tokens, attended = state()
    reducer = AttentionRank(2, similar=1.0, rounds=50, num_heads=HEADS, head_dim=HEAD)
    found = reducer.score(tokens, attended)
    assert (found < 0).sum(dim=1).tolist() == [PATCHES // 2] * BATCH and found.isfinite().all()
    assert reducer(tokens, attended).num_live == 2 == reducer.count_after(PATCHES, PREFIX)


# DiffRate


def prune_and_merge(tokens, attended, i, keep, merged, wrong=""):
    """Places of the patches of image i that stay, best first, what they become, and their sizes."""
    rows = [attention_row(attended, i, head, 0) for head in range(HEADS)]
    scores = [sum(row[t] for row in rows) / HEADS for t in range(PREFIX, PREFIX + PATCHES)]
    order = best_first([s / float(n) for s, n in zip(scores, tokens.size[i, PREFIX:], strict=True)]
                       if wrong == "attention of each patch" else scores)  # fmt: skip
    kept, tail = order[:keep], order[len(order) - merged :] if wrong == "last" else order[keep : keep + merged]
    x = tokens.patches[i]
    feature = attended.k[i, :, PREFIX:].mean(dim=0) if wrong == "keys" else x
    size = [float(n) for n in tokens.size[i, PREFIX:]]
    groups, held = {n: [n] for n in kept}, {n: size[n] for n in kept}
    for a in tail:
        like = {b: float(feature[a] @ feature[b]) / length(feature[a]) / length(feature[b]) for b in kept}
        host = max(kept, key=lambda b: like[b])
        groups[host].append(a)
        held[host] += max(1.0, size[a] * (1.0 if wrong == "whole sizes" else like[host]))
    weight = size if wrong == "weighted mean" else [1.0] * PATCHES
    means = [sum(weight[m] * x[m] for m in groups[n]) / sum(weight[m] for m in groups[n]) for n in kept]
    return kept, torch.stack(means), torch.tensor([held[n] for n in kept])


@torch.no_grad()
@pytest.mark.parametrize(("keep", "merged"), [(12, 0), (12, 10), (12, 24), (1, 30)])
def test_diffrate(keep, merged):
    tokens, attended = state()
    size = torch.randint(1, 6, (BATCH, PREFIX + PATCHES), generator=torch.Generator().manual_seed(1)).float()
    tokens = replace(tokens, size=size, proportional=True, track=True)
    attended = replace(attended, bias=tokens.attn_bias())
    out = PruneAndMerge(keep, merged)(tokens, attended)
    assert out.proportional and out.num_live == keep and out.index.unique(dim=0).shape[0] == BATCH
    assert out.size[:, :PREFIX].equal(size[:, :PREFIX]) and out.x[:, :PREFIX].equal(tokens.x[:, :PREFIX])
    for i in range(BATCH):
        kept, x, held = prune_and_merge(tokens, attended, i, keep, merged)
        assert out.index[i].tolist() == kept
        torch.testing.assert_close(out.patches[i], x, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(out.size[i, PREFIX:], held, atol=1e-5, rtol=1e-5)
        if merged == 10:
            for wrong in ("last", "keys", "weighted mean", "attention of each patch"):
                assert not torch.allclose(out.patches[i], prune_and_merge(tokens, attended, i, keep, merged, wrong)[1])
            mistaken = prune_and_merge(tokens, attended, i, keep, merged, "whole sizes")[2]
            assert (out.size[i, PREFIX:] - mistaken).abs().max() > 0.1
    assert out.restore().x.shape == tokens.x.shape and out.restore().size is None
    assert torch.cat([out.index, out.dropped[0][1]], dim=1).sort(1).values.equal(tokens.positions())


def test_diffrate_has_the_counts_it_is_given_and_what_leaves_comes_back_where_asked():
    made = place("diffrate", tiny("token"), PATCHES, at=(0, 1, 3), keeps=(30, 20, 12), merges=(2, 10, 0))
    assert [(block, r.keep, r.merged) for block, r in made.items()] == [(0, 30, 2), (1, 20, 10), (3, 12, 0)]
    shared = place("diffrate", tiny("token"), PATCHES, at=(0, 1, 3), keeps=(30, 20, 12), merged=0.3)
    assert [r.merged for r in shared.values()] == [1, 3, 2]
    for wrong in ((2, 10), (7, 10, 0)):
        with pytest.raises(ValueError, match="diffrate: merges="):
            place("diffrate", tiny("token"), PATCHES, at=(0, 1, 3), keeps=(30, 20, 12), merges=wrong)
    for rest in ("fuse", "squeeze"):
        with pytest.raises(ValueError, match=f"rest={rest} of diffrate"):
            parse_one(f"diffrate:rest={rest}")
    for rest in ("llf", "concat", "mask", "nearest", "drop", "logits"):
        model = build(tiny("token"), parse_one(f"diffrate:rest={rest},at=0/2,keeps=20/9", dense=True)).model.eval()
        assert model(images()).isfinite().all() and model(images()).shape[2:] == (48, 48)
