"""Every method against slow loops in float64, one image and one token at a time, written from the equations.

Letters: T tokens, N patches, D width, H heads, E = D / H. A sequence is [T, D], the class token first.
"""

import math

import pytest
import torch
from tiny_models import DEPTH, HEADS, NUM_PATCHES, images, reducers, tiny

from baselines.dynamicvit import DynamicViT
from cropr.cropr import CroprModule
from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from cropr.vit.masking import policy_softmax

ATOL = 1e-6  # sizes, policies and attention weights are float32 in the package


def same(actual, expected):
    torch.testing.assert_close(actual.detach().double(), expected.double(), atol=ATOL, rtol=1e-6)


def misses(wrong, expected):
    assert (wrong - expected).abs().max() > 10 * ATOL


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def norm(layer, x):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def linear(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def mlp(block_mlp, x):
    return linear(block_mlp.fc2, gelu(linear(block_mlp.fc1, x)))


def masked_softmax(logits, query, policy, eps=1e-6):
    """One row of attention [T] under a policy [T]: a token always sees itself."""
    peak = max(float(s) for s in logits)
    seen = [1.0 if key == query else float(policy[key]) for key in range(len(logits))]
    shares = [math.exp(float(s) - peak) * p for s, p in zip(logits, seen, strict=True)]
    return torch.tensor([(share + eps / len(logits)) / (sum(shares) + eps) for share in shares], dtype=torch.float64)


def attend(block, x, size=None, policy=None):
    """x behind the attention residual, the attention [H, T, T], the keys [H, T, E]."""
    normed, width = norm(block.norm1, x), x.shape[1] // HEADS
    q, k, v = linear(block.attn.qkv, normed).reshape(len(x), 3, HEADS, width).permute(1, 2, 0, 3)
    rows = torch.zeros(HEADS, len(x), len(x), dtype=torch.float64)
    for head in range(HEADS):
        for query in range(len(x)):
            logits = (k[head] @ q[head, query]) / math.sqrt(width)
            if size is not None:
                logits = logits + torch.tensor(size, dtype=torch.float64).log()
            if policy is None:
                weight = (logits - logits.max()).exp()
                rows[head, query] = weight / weight.sum()
            else:
                rows[head, query] = masked_softmax(logits, query, policy)
    out = torch.cat([rows[head] @ v[head] for head in range(HEADS)], dim=1)
    return x + linear(block.attn.proj, out), rows, k


def feed(block, x):
    return x + mlp(block.mlp, norm(block.norm2, x))


def embed(vit, image):
    """Patches by hand: row by row, each a product with the kernel."""
    side = vit.patch_embed.patch_size[0]
    kernel, bias = vit.patch_embed.proj.weight.flatten(1), vit.patch_embed.proj.bias
    rows = [vit.cls_token[0, 0]]
    for top in range(0, image.shape[1], side):
        for left in range(0, image.shape[2], side):
            rows.append(kernel @ image[:, top : top + side, left : left + side].flatten() + bias)
    return torch.stack(rows) + vit.pos_embed[0]


def classify(vit, x):
    return linear(vit.head, norm(vit.norm, x)[0])


def best_first(scores):
    return sorted(range(len(scores)), key=lambda n: -float(scores[n]))


def prepared(method, llf=False, policy=None):
    vit = tiny("token")
    return ReducedViT(vit, reducers(method, vit, llf), llf=llf, policy=policy).double().eval()


def compare(model, reference):
    """The model's logits and live positions are those of the reference, image by image."""
    x = images(2).double()
    with torch.no_grad():
        tokens = model.forward_features(x)
        logits = model.forward_head(tokens)
        for i, image in enumerate(x):
            right, order = reference(model, image)
            same(logits[i], right)
            if order is not None:
                assert tokens.index[i].tolist() == order
            misses(model.vit(x[i : i + 1])[0], right)


# Cropr


def raw_score(module, token):
    """Sum over heads and queries of the unscaled q . k."""
    total, width = 0.0, len(token) // module.num_heads
    for query in module.queries[0]:
        for head in range(module.num_heads):
            part = slice(head * width, (head + 1) * width)
            q = module.q_proj(query)[part]
            total += float(q @ module.k_proj(module.pre_attn_norm(token))[part])
    return total


def cropr_reference(model, image):
    x, dropped = embed(model.vit, image), {}
    live = list(range(NUM_PATCHES))
    for i, block in enumerate(model.vit.blocks):
        if model.llf and i == DEPTH - 1:
            where = {**dropped, **{at: x[1 + n] for n, at in enumerate(live)}}
            x, live = torch.stack([x[0], *(where[at] for at in range(NUM_PATCHES))]), list(range(NUM_PATCHES))
        x = feed(block, attend(block, x)[0])
        if str(i) in model.reducers:
            module = model.reducers[str(i)]
            order = best_first([raw_score(module, token) for token in x[1:]])
            dropped |= {live[n]: x[1 + n] for n in order[module.keep :]}
            live = [live[n] for n in order[: module.keep]]
            x = torch.stack([x[0], *(x[1 + n] for n in order[: module.keep])])
    return classify(model.vit, x), None if model.llf else live


@pytest.mark.parametrize("llf", [False, True])
def test_cropr(llf):
    compare(prepared("cropr", llf=llf), cropr_reference)


FULL = {"queries": 3, "heads": 4, "q_proj": True, "k_proj": True, "v_proj": True, "pre_norm": True}


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"queries": 3, "mlp": False}, FULL])
def test_cropr_module(options):
    torch.manual_seed(2)
    module = CroprModule(5, 16, 3, **options).double()
    for name, parameter in module.named_parameters():
        parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.5)
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    scores, found = module.score(Tokens(x, 1, 11)), module.predict(x)
    for i, image in enumerate(x):
        same(scores[i], torch.tensor([raw_score(module, token) for token in image[1:]]))
        for m, query in enumerate(module.queries[0]):
            heads, width = [], 16 // module.num_heads
            for head in range(module.num_heads):
                part = slice(head * width, (head + 1) * width)
                normed = [module.pre_attn_norm(token) for token in image]
                logits = [float(module.q_proj(query)[part] @ module.k_proj(t)[part]) / math.sqrt(width) for t in normed]
                total = sum(math.exp(s) for s in logits)
                values = [module.v_proj(t)[part] for t in normed]
                heads.append(sum(math.exp(s) / total * v for s, v in zip(logits, values, strict=True)))
            out = torch.cat(heads)
            out = linear(module.out_proj, out) if module.num_heads > 1 else out
            out = out if module.mlp is None else out + mlp(module.mlp, norm(module.mlp_norm, out))
            same(found[i, m], linear(module.aux_head.linear, norm(module.aux_head.norm, out)))
    misses(scores / 4, scores)


# ToMe


def merge_once(x, size, groups, metric, r):
    """One bipartite merge of a sequence with a class token; `groups` are the grid positions in each token."""
    unit = [row / row.norm() for row in metric]
    sources, targets = list(range(0, len(x), 2)), list(range(1, len(x), 2))
    edges = []
    for a in sources[1:]:  # the class token is the first source and merges with nothing
        similar = [float(unit[a] @ unit[b]) for b in targets]
        partner = max(range(len(targets)), key=similar.__getitem__)
        edges.append((similar[partner], a, targets[partner]))
    edges.sort(key=lambda edge: -edge[0])
    merged = {a: b for _, a, b in edges[: min(r, (len(x) - 1) // 2)]}
    new = []
    for t in [a for a in sources if a not in merged] + targets:
        parts = [t] + [a for a, b in merged.items() if b == t]
        total = sum(size[p] for p in parts)
        mean = sum(size[p] * x[p] for p in parts) / total
        new.append((mean, total, [at for p in parts for at in groups[p]], groups[t]))
    return new


def tome_reference(model, image):
    x = embed(model.vit, image)
    size, groups = [1.0] * len(x), [[]] + [[n] for n in range(NUM_PATCHES)]
    keeper = [-1, *range(NUM_PATCHES)]
    for i, block in enumerate(model.vit.blocks):
        x, _, keys = attend(block, x, size)
        if str(i) in model.reducers:
            metric = sum(keys) / HEADS
            new = merge_once(x, size, [[*g, ("at", k)] for g, k in zip(groups, keeper, strict=True)], metric, 5)
            x, size = torch.stack([m for m, *_ in new]), [total for _, total, *_ in new]
            groups = [[at for at in g if not isinstance(at, tuple)] for _, _, g, _ in new]
            keeper = [own[-1][1] for *_, own in new]
        x = feed(block, x)
    assert sorted(at for g in groups for at in g) == list(range(NUM_PATCHES))
    return classify(model.vit, x), keeper[1:]


def test_tome():
    compare(prepared("tome"), tome_reference)


# EViT


def evit_reference(model, image):
    x, live = embed(model.vit, image), list(range(NUM_PATCHES))
    for i, block in enumerate(model.vit.blocks):
        x, rows, _ = attend(block, x)
        if str(i) in model.reducers:
            reducer = model.reducers[str(i)]
            score = [sum(float(rows[head, 0, 1 + n]) for head in range(HEADS)) / HEADS for n in range(len(live))]
            keep = math.ceil(7 * len(live) / 10)  # the rate is .7, in whole numbers
            order = best_first(score)
            fused = sum(score[n] * x[1 + n] for n in order[keep:])
            live = [live[n] for n in order[:keep]]
            chosen = [x[0], *(x[1 + n] for n in order[:keep])]
            if reducer.rest == "fuse":
                live, chosen = [*live, -1], [*chosen, fused]
            x = torch.stack(chosen)
        x = feed(block, x)
    return classify(model.vit, x), live


@pytest.mark.parametrize("method", ["evit", "evit_fused"])
def test_evit(method):
    compare(prepared(method), evit_reference)


# DynamicViT


def log_probabilities(predictor, patches, policy):
    """[N, 2] out of patches [N, D] and a policy of floats."""
    hidden = gelu(linear(predictor.in_linear, norm(predictor.in_norm, patches)))
    half = hidden.shape[1] // 2
    mean = sum(p * row[half:] for p, row in zip(policy, hidden, strict=True)) / sum(policy)
    out = []
    for row in hidden:
        y = gelu(linear(predictor.out_linear1, torch.cat([row[:half], mean])))
        y = linear(predictor.out_linear3, gelu(linear(predictor.out_linear2, y)))
        out.append(y - y.exp().sum().log())
    return torch.stack(out)


def dynamicvit_reference(model, image):
    x, live = embed(model.vit, image), list(range(NUM_PATCHES))
    for i, block in enumerate(model.vit.blocks):
        x = feed(block, attend(block, x)[0])
        if str(i) in model.reducers:
            stage = 1 + list(model.reducers).index(str(i))
            order = best_first(log_probabilities(model.reducers[str(i)].predictor, x[1:], [1.0] * len(live))[:, 0])
            order = order[: NUM_PATCHES * 7**stage // 10**stage]
            live, x = [live[n] for n in order], torch.stack([x[0], *(x[1 + n] for n in order)])
    return classify(model.vit, x), live


def test_dynamicvit():
    compare(prepared("dynamicvit"), dynamicvit_reference)


def masked_reference(model, image):
    x, policy = embed(model.vit, image), [1.0] * NUM_PATCHES
    for i, block in enumerate(model.vit.blocks):
        x = feed(block, attend(block, x, policy=[1.0, *policy])[0])
        if str(i) in model.reducers:
            both = log_probabilities(model.reducers[str(i)].predictor, x[1:], policy)
            policy = [p * float(keep > drop) for p, (keep, drop) in zip(policy, both, strict=True)]
    return classify(model.vit, x), policy


def test_dynamicvit_under_its_mask():
    model = prepared("dynamicvit", policy="exact")
    model.masked_eval = True
    x = images(2).double()
    with torch.no_grad():
        tokens = model.forward_features(x)
        for i, image in enumerate(x):
            right, policy = masked_reference(model, image)
            assert tokens.policy[i].tolist() == policy
            assert 0 < sum(policy) < NUM_PATCHES
            # The softmax is float32, as in the release, and so are the logits behind it.
            torch.testing.assert_close(model.forward_head(tokens)[i], right, atol=2e-5, rtol=0)
            assert (model.vit(x[i : i + 1])[0] - right).abs().max() > 10 * 2e-5


@pytest.mark.parametrize("kind", ["some", "none", "fractional"])
def test_policy_softmax(kind):
    torch.manual_seed(4)
    logits = 3 * torch.randn(2, HEADS, 9, 9, dtype=torch.float64)
    policy = {"some": (torch.rand(2, 9) > 0.5).double(), "none": torch.zeros(2, 9), "fractional": torch.rand(2, 9)}[
        kind
    ]
    ours = policy_softmax(logits, policy)
    for b in range(2):
        for head in range(HEADS):
            for query in range(9):
                same(ours[b, head, query], masked_softmax(logits[b, head, query], query, policy[b]))
    misses(logits.softmax(-1), ours)


@pytest.mark.parametrize("kept", [0, 1, 6])
def test_predictor(kept):
    torch.manual_seed(6)
    predictor = DynamicViT(3, 16).predictor.double()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    policy = torch.cat([torch.ones(kept), torch.zeros(6 - kept)])[None].requires_grad_()
    ours = predictor(x, policy)
    ours.sum().backward()
    assert ours.isfinite().all()  # even where a draw has dropped every patch
    assert policy.grad.isfinite().all()
    if kept:
        same(ours[0], log_probabilities(predictor, x[0], policy[0].tolist()))
