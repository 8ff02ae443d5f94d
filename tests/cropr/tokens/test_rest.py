"""What becomes of patches that leave: fused and squeezed (TPS), against loops in float64 over images and tokens.

Letters: B images, P prefix tokens, N live patches, K kept ones, L patches of the full grid, D width.
"""

import math

import pytest
import torch
from tiny_models import DEPTH, NUM_PATCHES, images, place, tiny

from baselines.dynamicvit import DynamicViT
from baselines.random_pruning import RandomPruning
from cropr.cropr import CroprModule, LinearScore
from cropr.dense import DenseViT
from cropr.reducer import Dropper
from cropr.tokens import Tokens
from cropr.tokens.rest import fuse, softmax_of_dropped, squeeze, squeeze_masked
from cropr.vit import ReducedViT
from studies.measure.flops import check_macs

ATOL = 1e-6  # numbers of order 1; weights are float32 in the package
B, P, N, K, D = 3, 2, 14, 5, 8


def same(actual, expected):
    torch.testing.assert_close(actual.detach().double(), expected, atol=ATOL, rtol=1e-6)


def misses(wrong, expected):
    assert (wrong - expected).abs().max() > 10 * ATOL


def patches(seed=0, dtype=torch.float32):
    """Of one direction more than of others, so that cosines are far from 0, and of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, P + N, D, generator=generator, dtype=dtype) + 0.5
    return x * (0.5 + torch.rand(B, P + N, 1, generator=generator, dtype=dtype))


def orders(num, seed=1):
    return torch.rand(B, num, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)


# ---- squeezing, by loops


def cosine(a, b):
    dot = sum(float(p) * float(q) for p, q in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(p) ** 2 for p in a)) / math.sqrt(sum(float(q) ** 2 for q in b))


def most_similar(x, i, kept):
    return max(kept, key=lambda j: cosine(x[i], x[j]))


def least_similar(x, i, kept):
    return min(kept, key=lambda j: cosine(x[i], x[j]))


def squeezed(x, kept, gone, host_of=most_similar, weight=math.exp, own=math.e, normalised=True):
    """One image: {host: its new patch}, {dropped: its host}, from patches x [N, D] in float64; mistakes by option."""
    hosts = {i: host_of(x, i, kept) for i in gone}
    found = {}
    for j in kept:
        total, summed = own, [own * float(value) for value in x[j]]
        for i in gone:
            if hosts[i] == j:
                w = weight(cosine(x[i], x[j]))
                total += w
                summed = [s + w * float(value) for s, value in zip(summed, x[i], strict=True)]
        found[j] = torch.tensor([s / (total if normalised else math.e) for s in summed], dtype=torch.float64)
    return found, hosts


MISTAKES = {
    "another host": {"host_of": least_similar},
    "weight e instead of e^c": {"weight": lambda c: math.e},
    "the host counts 1 instead of e": {"own": 1.0},
    "not normalised": {"normalised": False},
}


def expected_of(x, order, keep, **mistake):
    """[B, K, D] by the loops, for live patches x [B, N, D]."""
    rows = []
    for b in range(len(x)):
        kept, gone = order[b, :keep].tolist(), order[b, keep:].tolist()
        found, _ = squeezed(x[b].double(), kept, gone, **mistake)
        rows.append(torch.stack([found[j] for j in kept]))
    return torch.stack(rows)


def test_squeezing_is_what_the_loops_say():
    x, order = patches(), orders(N)
    tokens = Tokens(x, P, N)
    out = squeeze(tokens, order, K)
    right = expected_of(x[:, P:], order, K)
    same(out.patches, right)
    assert out.x[:, :P].equal(x[:, :P]) and out.index.equal(order[:, :K])
    for name, mistake in MISTAKES.items():
        wrong = expected_of(x[:, P:], order, K, **mistake)
        assert (wrong - right).abs().max() > 10 * ATOL, name
    misses(out.patches.detach().double().roll(1, 1), right)  # hosts in another order


def test_a_host_without_guests_stays_as_it_is():
    """All dropped patches resemble the first one kept: the others get e x / e."""
    x = torch.randn(1, N, D, generator=torch.Generator().manual_seed(3)) - 5 * torch.eye(1, D)
    x[:, 0] = 10 * torch.eye(1, D)[0]
    x[:, K:] = torch.eye(1, D)[0] * torch.arange(1, N - K + 1)[:, None]
    out = squeeze(Tokens(x, 0, N), torch.arange(N)[None], K)
    same(out.patches[:, 1:], x[:, 1:K].double())
    shares = sum(math.e * row for row in x[0, K:].double()) + math.e * x[0, 0].double()
    same(out.patches[0, 0], shares / (math.e * (N - K + 1)))


@pytest.mark.parametrize("lost", [0, 4])
def test_marked_patches_are_squeezed_like_removed_ones(lost):
    """`lost` patches were marked before: they are neither hosts nor guests."""
    x, order = patches(dtype=torch.float64), orders(N)
    before, keep = torch.ones(B, N), torch.zeros(B, N).scatter(1, order[:, :K], 1.0)
    before = before.scatter(1, order[:, N - lost :], 0.0)
    masked = squeeze_masked(x[:, P:], before, keep)
    right = expected_of(x[:, P:], order[:, : N - lost], K)
    same(masked.gather(1, order[:, :K, None].expand(-1, -1, D)), right)
    pruned = squeeze(Tokens(x, P, N), order[:, : N - lost], K)
    torch.testing.assert_close(masked.gather(1, order[:, :K, None].expand(-1, -1, D)), pruned.patches)
    # Those that are not kept stay as they are, but for the e of their own.
    rest = order[:, K:, None].expand(-1, -1, D)
    same(masked.gather(1, rest), x[:, P:].gather(1, rest))
    for name, mistake in MISTAKES.items():
        wrong = expected_of(x[:, P:], order[:, : N - lost], K, **mistake)
        assert (wrong - right).abs().max() > 10 * ATOL, name
    if lost:
        misses(expected_of(x[:, P:], order, K), right)  # what was lost before is taken in again


def owners_by_loops(x, steps):
    """One image: for each grid position the position that holds it, after reductions [(order, keep), ...] of the live
    patches; x [L, D]."""
    holder = {at: at for at in range(len(x))}
    live, values = list(range(len(x))), x.double()
    for order, keep in steps:
        found, hosts = squeezed(values, order[:keep], order[keep:])
        moved = {live[i]: live[j] for i, j in hosts.items()}
        holder = {at: moved.get(by, by) for at, by in holder.items()}
        live, values = [live[j] for j in order[:keep]], torch.stack([found[j] for j in order[:keep]])
    return holder, live


@pytest.mark.parametrize("reductions", [1, 2])
def test_every_position_is_owned_once_by_the_right_host(reductions):
    x = patches()
    steps = [(orders(N), 9), (orders(9, seed=2), 4)][:reductions]
    tokens = Tokens(x, P, N, track=True, owner=torch.arange(N).expand(B, -1))
    for order, keep in steps:
        tokens = squeeze(tokens, order, keep)
    assert tokens.track and tokens.dropped == () and tokens.owner.shape == (B, N)
    for b in range(B):
        holder, live = owners_by_loops(x[b, P:], [(order[b].tolist(), keep) for order, keep in steps])
        assert tokens.index[b].tolist() == live
        assert {at: live[row] for at, row in enumerate(tokens.owner[b].tolist())} == holder
        assert set(holder.values()) == set(live)  # every host owns at least itself
        assert tokens.owner[b, tokens.index[b]].tolist() == list(range(len(live)))
    restored = tokens.restore()
    for b in range(B):
        for at in range(N):
            assert restored.patches[b, at].equal(tokens.patches[b, tokens.owner[b, at]])
    assert squeeze(Tokens(x, P, N), orders(N), K).owner is None  # not followed, where nobody asks


def test_gradients_of_squeezing_are_finite_and_right():
    order = orders(N)
    x = patches(dtype=torch.float64).requires_grad_()
    x.data[0, P] = 0.0  # has no direction
    squeeze(Tokens(x, P, N), order, K).patches.square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad[:, P:] != 0).any(-1).all()

    # Against the gradient of loops that follow autograd: weights are learnt through, not only what they weigh.
    ours, slow = patches(dtype=torch.float64).requires_grad_(), patches(dtype=torch.float64).requires_grad_()
    factor = torch.randn(B, K, D, generator=torch.Generator().manual_seed(5))
    (squeeze(Tokens(ours, P, N), order, K).patches * factor).sum().backward()
    for detached in (False, True):
        slow.grad, out = None, []
        for b in range(B):
            x, kept = slow[b, P:], order[b, :K].tolist()
            _, hosts = squeezed(x.detach(), kept, order[b, K:].tolist())
            for j in kept:
                total, summed = math.e, math.e * x[j]
                for i in (i for i, host in hosts.items() if host == j):
                    w = (x[i] @ x[j] / x[i].square().sum().sqrt() / x[j].square().sum().sqrt()).exp()
                    w = w.detach() if detached else w
                    total, summed = total + w, summed + w * x[i]
                out.append(summed / total)
        (torch.stack(out).view(B, K, D) * factor).sum().backward()
        (misses if detached else same)(ours.grad, slow.grad)

    keep = torch.zeros(B, N).scatter(1, order[:, :K], 1.0)
    keep[2] = 0.0  # an image that has lost all its patches
    keep, x = keep.requires_grad_(), patches().requires_grad_()
    out = squeeze_masked(x[:, P:], torch.ones(B, N), keep)
    out.square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all() and keep.grad.isfinite().all()
    assert (keep.grad[:2] != 0).any()  # what is decided learns from what the guests do


# ---- fusing, by loops


def fused_by_loops(x, scores, kept, over_all=False, mean=False, also_kept=False):
    """One image: sum_i w_i x_i, w the softmax of the scores of those that leave."""
    gone = [i for i in range(len(x)) if i not in kept]
    counted = range(len(x)) if over_all or also_kept else gone
    total = sum(math.exp(float(scores[i])) for i in counted)
    weights = {i: 1 / len(gone) if mean else math.exp(float(scores[i])) / total for i in gone}
    if also_kept:
        weights = {i: math.exp(float(scores[i])) / total for i in range(len(x))}
    return sum(w * x[i] for i, w in weights.items())


def test_fusing_by_the_softmax_of_scores():
    x, order = patches(), orders(N)
    scores = torch.randn(B, N, generator=torch.Generator().manual_seed(4))
    weight = softmax_of_dropped(scores, order[:, :K])
    assert weight.gather(1, order[:, :K]).eq(0).all()
    same(weight.sum(1), torch.ones(B, dtype=torch.float64))
    out = fuse(Tokens(x, P, N), order, K, weight)
    assert out.x[:, : P + K].equal(Tokens(x, P, N).select(order, K).x)
    assert out.index[:, :K].equal(order[:, :K]) and out.index[:, K].eq(-1).all()
    case = [(x[b, P:].double(), scores[b].double(), order[b, :K].tolist()) for b in range(B)]
    right = torch.stack([fused_by_loops(*image) for image in case])
    same(out.patches[:, -1], right)
    for mistake in ("over_all", "mean", "also_kept"):
        misses(torch.stack([fused_by_loops(*image, **{mistake: True}) for image in case]), right)


def test_gradients_of_fusing_are_finite():
    x, scores = patches().requires_grad_(), torch.randn(B, N).requires_grad_()
    order = orders(N)
    fuse(Tokens(x, P, N), order, K, softmax_of_dropped(scores, order[:, :K])).patches.square().sum().backward()
    assert x.grad.isfinite().all() and scores.grad.isfinite().all()
    assert scores.grad.gather(1, order[:, :K]).eq(0).all() and (scores.grad.gather(1, order[:, K:]) != 0).any()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cropr", "folded", "random", "dynamicvit"])
@pytest.mark.parametrize("rest", ["fuse", "squeeze"])
def test_a_dropper_does_it_by_its_own_scores(kind, rest):
    torch.manual_seed(6)
    x = patches()
    module: Dropper = {
        "cropr": lambda: CroprModule(K, D, 3, heads=2, q_proj=True, rest=rest),
        "folded": lambda: CroprModule(K, D, 3, pre_norm=True, rest=rest).fold(),
        "random": lambda: RandomPruning(K, 1, rest=rest),
        "dynamicvit": lambda: DynamicViT(K, D, rest=rest),
    }[kind]()
    tokens = Tokens(x, P, N, seed=torch.arange(B) + 100)
    out, scores = module.eval()(tokens), module.score(tokens)
    order = scores.argsort(1, descending=True)
    if rest == "squeeze":
        same(out.patches, expected_of(x[:, P:], order, K))
    else:
        scale = D**-0.5 if kind in ("cropr", "folded") else 1.0
        case = [(x[b, P:].double(), scores[b].double() * scale, order[b, :K].tolist()) for b in range(B)]
        same(out.patches[:, -1], torch.stack([fused_by_loops(*image) for image in case]))
    assert out.num_live == module.count_after(N, P) == K + (rest == "fuse")
    assert module.fold().eval()(tokens).x.allclose(out.x, atol=1e-6)


def test_a_rest_that_there_is_not_is_refused():
    for make in (lambda: RandomPruning(3, 0, rest="llf"), lambda: LinearScore(3, D, rest="squeze")):
        with pytest.raises(ValueError, match="unknown rest .*; valid: drop, fuse, squeeze"):
            make()


# ---- in models


def seen_tokens(model, x):
    """(tokens in attention, tokens in the MLP) of every block, and tokens at the end, as they come by."""
    attn, mlp = [], []
    for block in model.vit.blocks:
        block.attn.register_forward_pre_hook(lambda _, args: attn.append(args[0].shape[1]))
        block.mlp.register_forward_pre_hook(lambda _, args: mlp.append(args[0].shape[1]))
    with torch.no_grad():
        out = model.eval()(x)
    return list(zip(attn, mlp, strict=True)), out


@pytest.mark.parametrize("name", ["token", "registers", "eva_swiglu", "dinov3"])
@pytest.mark.parametrize("rest", ["fuse", "squeeze"])
@pytest.mark.parametrize("method", ["cropr", "random"])
def test_counts_and_macs_of_reduced_models(method, rest, name):
    vit = tiny(name)
    model = ReducedViT(vit, place(method, vit, NUM_PATCHES, rate=5, rest=rest)).eval()
    seen, out = seen_tokens(model, images())
    counts = model.token_counts()
    assert seen == [(attn, mlp) for attn, mlp, _ in counts] and out.isfinite().all()
    dropped = ReducedViT(vit, place(method, vit, NUM_PATCHES, rate=5)).token_counts()
    assert [after - (rest == "fuse" and i < DEPTH) for i, (*_, after) in enumerate(counts)] == [n for *_, n in dropped]
    macs = check_macs(ReducedViT(tiny(name), place(method, vit, NUM_PATCHES, rate=5, rest=rest)))
    assert max(macs.fvcore, macs.torch) <= 1.01 * macs.closed_form <= 1.01**2 * min(macs.fvcore, macs.torch)


@pytest.mark.parametrize("name", ["token", "eva_swiglu", "dinov3"])
@pytest.mark.parametrize("method", ["cropr", "random"])
def test_counts_macs_and_owners_of_dense_models(method, name):
    vit = tiny(name)
    found = place(method, vit, NUM_PATCHES, dense=True, rate=5, rest="squeeze")
    assert max(found) == DEPTH - 2  # no block runs on the full grid again
    model = DenseViT(vit, found).eval()
    assert model.fusion == "unmerge"
    seen, out = seen_tokens(model, images())
    assert seen == [(attn, mlp) for attn, mlp, _ in model.token_counts()]
    assert out.shape == (3, 7, 48, 48) and out.isfinite().all()
    with torch.no_grad():
        tokens = ReducedViT(vit, found).eval().forward_features(images(), track=True)
        logits = model.patch_logits(model.forward_features(images()))
        for b in range(3):
            assert sorted(set(tokens.owner[b].tolist())) == list(range(tokens.num_live))
            for at, owner in enumerate(tokens.owner[b].tolist()):
                torch.testing.assert_close(logits[b, at], vit.head(vit.fc_norm(tokens.patches[b, owner])))
    macs = check_macs(DenseViT(tiny(name), found))
    assert max(macs.fvcore, macs.torch) <= 1.01 * macs.closed_form <= 1.01**2 * min(macs.fvcore, macs.torch)


@pytest.mark.parametrize("rest", ["fuse", "squeeze"])
@pytest.mark.parametrize("method", ["cropr", "random", "evit"])
def test_training_through_the_rest_reaches_the_backbone(method, rest):
    vit = tiny("token")
    options = {"keep": 0.7} if method == "evit" else {"rate": 5}
    model = ReducedViT(vit, place(method, vit, NUM_PATCHES, rest=rest, **options)).train()
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())


@torch.no_grad()
def test_masked_squeezing_of_dynamicvit_is_what_inference_does():
    """The same decisions, marked or carried out, through a whole model."""

    class Forced(DynamicViT):
        def decide(self, log_prob):
            alive = (log_prob[..., 0] + self.marked).topk(self.keep, dim=1).indices
            return torch.zeros_like(log_prob[..., 0]).scatter(1, alive, 1.0)

        def forward(self, tokens, attended=None):
            self.marked = 0.0 if tokens.policy is None else (tokens.policy - 1) * 1e6
            return super().forward(tokens, attended)

    vit = tiny("token")
    for block in vit.blocks:  # on sharp attention the epsilon of the masked one shows
        block.attn.qkv.weight[: block.attn.qkv.weight.shape[0] // 3] *= 0.3
    found = {}
    for i, reducer in place("dynamicvit", vit, NUM_PATCHES, ratio=0.7, rest="squeeze").items():
        torch.manual_seed(i)
        found[i] = Forced(reducer.keep, reducer.embed_dim, reducer.rest)
        torch.nn.init.normal_(found[i].predictor.out_linear3.weight)
    model = ReducedViT(vit, found, policy="exact").eval()
    right = model(images())
    model.masked_eval = True
    torch.testing.assert_close(model(images()), right, atol=2e-4, rtol=1e-3)
    for reducer in found.values():
        reducer.rest = "drop"
    assert (model(images()) - right).abs().max() > 2e-2  # nothing is squeezed
