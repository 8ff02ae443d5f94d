"""Methods that merge, one call of their reducers against slow loops in float64, one image and one token at a time,
written from the formulas; and the same loops with a rule that is wrong, which must miss.

Letters: B images, P prefix tokens, N patches, T = P + N, L patches of the full grid, D width, H heads, E head width.
"""

import math

import pytest
import torch
from tiny_models import DEPTH, NUM_PATCHES, images, place, tiny

from baselines.mergers.algm import WindowMerging
from baselines.mergers.dpcknn import DPCKNN
from baselines.mergers.dtem import DTEM
from baselines.mergers.kmedoids import KMedoids
from baselines.mergers.mctf import MCTF
from baselines.mergers.pitome import PiToMe
from baselines.mergers.tofu import ToFu
from cropr.macs import count
from cropr.tokens import Attended, Tokens
from studies.models.backbones import create_backbone
from studies.models.methods import builtin, parse, parse_one
from studies.models.reducers import build

B, P, N, L, D, H, E, R = 3, 2, 20, 30, 8, 2, 4, 5
ATOL = 1e-5  # sizes and attention that is read are float32 in the package
NAMES = ["tofu", "pitome", "dpcknn", "kmedoids", "mctf", "algm", "dtem"]


def tokens(seed=0, fresh=False):
    """Patches in float64 that were merged before (`fresh`: were not), others in each image."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(B, P + N, D, generator=rng, dtype=torch.float64)
    if fresh:
        return Tokens(x, P, N, owner=torch.arange(N).expand(B, -1))
    owner = torch.cat([torch.arange(N).expand(B, -1), torch.randint(N, (B, L - N), generator=rng)], 1)
    owner = torch.stack([row[torch.randperm(L, generator=rng)] for row in owner])
    index = torch.tensor([[row.tolist().index(n) for n in range(N)] for row in owner])
    size = torch.tensor([[1.0] * P + [float((row == n).sum()) for n in range(N)] for row in owner])
    return Tokens(x, P, L, index=index, size=size, owner=owner, proportional=True)


def attended(seed=1):
    rng = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, B, H, P + N, E, generator=rng, dtype=torch.float64)
    normed = torch.randn(B, P + N, D, generator=rng, dtype=torch.float64)
    return Attended(q, k, 0.5, P, normed=normed)


def live(state, b):
    """Grid position -> (features, size, positions owned) of each patch of image b."""
    position, found = state.positions()[b].tolist(), {}
    size = [1.0] * (P + N) if state.size is None else state.size[b].tolist()
    for n, at in enumerate(position):
        owned = {place for place, owner in enumerate(state.owner[b].tolist()) if owner == n}
        found[at] = state.x[b, P + n], size[P + n], owned
    assert len(found) == len(position) and state.x.shape[1] == P + len(position)
    return found


def outcome(state, b, groups):
    """The same, where the patches `members` of each (host, members, features) have become one, at the host's place."""
    before, position = live(state, b), state.positions()[b].tolist()
    assert sorted(n for _, members, _ in groups for n in members) == list(range(len(position)))
    found = {}
    for host, members, x in groups:
        parts = [before[position[n]] for n in members]
        found[position[host]] = x, sum(size for _, size, _ in parts), set().union(*(owned for *_, owned in parts))
    return found


def gap(seen, right):
    """The largest difference of features; infinite where patches, sizes or owners differ."""
    if seen.keys() != right.keys() or any(seen[at][1:] != right[at][1:] for at in right):
        return math.inf
    return max(float((seen[at][0] - right[at][0]).abs().max()) for at in right)


def gaps(reducer, reference, state, seen_by, **wrong):
    """Of each image; prefix tokens must be as they were."""
    after = reducer(state, seen_by)
    assert after.x.dtype == torch.float64 and after.x[:, :P].equal(state.x[:, :P])
    assert after.num_live == reducer.count_after(state.num_live, P) < state.num_live
    return [gap(live(after, b), outcome(state, b, reference(state, seen_by, b, **wrong))) for b in range(B)]


def agree(reducer, reference, state=None, seen_by=None, mistakes=()):
    """The reference is met in every image, and with each mistake missed in some."""
    state, seen_by = state or tokens(), seen_by or attended()
    assert max(gaps(reducer, reference, state, seen_by)) < ATOL
    for wrong in mistakes:
        assert max(gaps(reducer, reference, state, seen_by, **wrong)) > 100 * ATOL, wrong


def sizes(state, b):
    return [1.0] * N if state.size is None else state.size[b, P:].tolist()


def mean(vectors, weights):
    return sum(w * v for w, v in zip(weights, vectors, strict=True)) / sum(weights)


def cosine(u, v):
    return float(u @ v) / (float(u @ u) * float(v @ v)) ** 0.5


def keys(seen_by, b):
    """[T, E] the mean over heads."""
    return sum(seen_by.k[b, h] for h in range(seen_by.k.shape[1])) / seen_by.k.shape[1]


def bipartite(metric, r):
    """Patch -> patch of ToMe's best r edges: tokens at even places go to those at odd ones."""
    edges = []
    for a in range(0, P + N, 2):
        near = [(cosine(metric[a], metric[b]), -b) for b in range(1, P + N, 2) if b >= P]
        if a >= P:
            edges.append((*max(near), a))
    edges.sort(key=lambda edge: -edge[0])
    return {a - P: -b - P for _, b, a in edges[:r]}


def grouped(into, combine):
    """(host, members, features) out of {patch: patch that takes it}."""
    hosts = [n for n in range(N) if n not in into]
    members = {host: [host, *(n for n, to in into.items() if to == host)] for host in hosts}
    return [(host, found, combine(host, found)) for host, found in members.items()]


def test_they_are_methods_and_no_others_are_missing():
    every, standard = ({method.name for method in parse(text)} for text in ("every", "all"))
    assert set(NAMES) <= every and not set(NAMES) & standard
    found = [name for name, cls in builtin().items() if cls.__module__.startswith("baselines.mergers.")]
    assert sorted(found) == sorted(NAMES)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_has_the_prediction_of_the_token_that_owns_its_patch(name):
    model = build(tiny("avg"), parse_one(name, dense=True), 0.7).model.eval()
    x = images(2)
    after, logits = model.forward_features(x), model(x)
    assert logits.shape == (2, 7, *x.shape[2:]) and logits.isfinite().all()
    assert after.num_live == NUM_PATCHES  # all are back: patches that merged are equal
    assert all(len(image.unique(dim=0)) < NUM_PATCHES for image in after.patches)


REDUCERS = [
    lambda most: ToFu(most), lambda most: PiToMe(most), lambda most: PiToMe(most, protect=True),
    lambda most: DPCKNN(most), lambda most: KMedoids(most), lambda most: MCTF(most), lambda most: DTEM(most, D, 4),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("make", REDUCERS)
def test_any_number_of_patches_has_owners_and_the_count_that_was_said(make):
    rng = torch.Generator().manual_seed(5)
    for prefix in (0, 1, 2, 3, 5):
        for n in (1, 2, 3, 4, 7, 11, 12, 13):
            q, k = torch.randn(2, 2, H, prefix + n, E, generator=rng)
            x, normed = torch.randn(2, 2, prefix + n, D, generator=rng)
            state = Tokens(x, prefix, n, owner=torch.arange(n).expand(2, -1))
            for most in (1, 2, 5, 20):
                reducer = make(most).eval()
                after = reducer(state, Attended(q, k, 0.5, prefix, normed=normed))
                assert after.num_live == reducer.count_after(n, prefix) and after.x[:, :prefix].equal(x[:, :prefix])
                assert (after is state) == reducer.idle(n, prefix)
                held = torch.nn.functional.one_hot(after.owner, after.num_live).sum(1)
                assert held.min() >= 1 and (after.size is None or after.size[:, prefix:].equal(held.float()))


@pytest.mark.parametrize("name", NAMES)
def test_in_mixed_precision_they_train_and_predict(name):
    model = build(tiny("token"), parse_one(name), 0.6).model
    for training in (False, True):
        model.train(training)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(images(2)).float().square().mean()
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# ToFu


def tofu(state, seen_by, b, merge="mlerp", weighted=True, longest=max):
    x, size = state.x[b, P:], sizes(state, b)

    def combine(host, members):
        centre = mean([x[n] for n in members], [size[n] if weighted else 1.0 for n in members])
        if merge == "drop" or len(members) == 1:
            return x[host]
        scale = longest(float(x[n].norm()) for n in members) / float(centre.norm())
        return centre * scale if merge == "mlerp" else centre

    return grouped(bipartite(keys(seen_by, b), R), combine)


@pytest.mark.parametrize("merge", ["mlerp", "mean", "drop"])
def test_tofu(merge):
    def reference(*args, **wrong):
        return tofu(*args, **{"merge": merge, **wrong})

    mistakes = [{"merge": other} for other in ("mlerp", "mean", "drop") if other != merge]
    mistakes += [{"weighted": False}] * (merge != "drop") + [{"longest": min}] * (merge == "mlerp")
    agree(ToFu(R, merge), reference, mistakes=mistakes)


def test_tofu_drops_before_half_the_depth():
    for options, drops in (({}, 2), ({"switch": 0}, 0), ({"switch": 4, "merge": "mean"}, 4)):
        found = place("tofu", tiny("token"), NUM_PATCHES, r=2, **options)
        expected = ["drop"] * drops + [options.get("merge", "mlerp")] * (DEPTH - drops)
        assert [found[block].merge for block in range(DEPTH)] == expected


# PiToMe


def pitome(state, seen_by, b, protect=False, margin=0.3, elu=True, swapped=False, weighted=True):
    x, size, metric = state.x[b, P:], sizes(state, b), keys(seen_by, b)[P:]

    def energy(n):
        near = [cosine(metric[n], metric[m]) - margin for m in range(N)]
        return sum(c if c >= 0 or not elu else math.exp(c) - 1 for c in near) / N

    order = sorted(range(N), key=lambda n: -energy(n))
    order = order[: 2 * R] if protect else order
    edges = []
    for a in order[swapped::2]:
        near = max(order[1 - swapped :: 2], key=lambda m: cosine(metric[a], metric[m]))
        edges.append((cosine(metric[a], metric[near]), a, near))
    edges.sort(key=lambda edge: -edge[0])
    weight = size if weighted else [1.0] * N
    return grouped(
        {a: near for _, a, near in edges[:R]},
        lambda host, members: mean([x[n] for n in members], [weight[n] for n in members]),
    )


@pytest.mark.parametrize("protect", [False, True])
def test_pitome(protect):
    def reference(*args, **wrong):
        return pitome(*args, **{"protect": protect, **wrong})

    mistakes = [{"protect": not protect}, {"swapped": True}, {"weighted": False}, {"margin": -0.9}, {"elu": False}]
    agree(PiToMe(R, 0.3, protect, head_dim=E), reference, mistakes=mistakes)


def test_pitome_protects_from_half_the_depth_and_its_margin_falls():
    found = place("pitome", tiny("token"), NUM_PATCHES, ratio=0.9)
    assert [found[block].protect for block in range(DEPTH)] == [False] * 3 + [True] * 2
    assert [found[block].margin for block in range(DEPTH)] == pytest.approx([0.75, 0.6, 0.45, 0.3, 0.15])
    counts, live = [], 36
    for block in range(DEPTH):
        live = found[block].count_after(live, 1)
        counts.append(live)
    assert counts == [33, 30, 27, 25, 23] and PiToMe(5).count_after(9, 1) == 5
    assert len(place("pitome", tiny("token"), NUM_PATCHES, ratio=0.5)) == DEPTH and PiToMe(0).count_after(9, 1) == 9


def received(seen_by, b):
    """[N] attention that each patch receives, the mean over heads and queries."""
    found = [0.0] * (P + N)
    for h in range(H):
        for query in seen_by.q[b, h]:
            shares = [math.exp(seen_by.scale * float(query @ key)) for key in seen_by.k[b, h]]
            found = [old + share / sum(shares) / H / (P + N) for old, share in zip(found, shares, strict=True)]
    return found[P:]


# MCTF


def mctf(state, seen_by, b, r=5, tau=(1, 20, 40), back=True, weighted="both"):
    x, size, metric, attention = state.x[b, P:], sizes(state, b), keys(seen_by, b)[P:], received(seen_by, b)

    def criterion(values, n):
        return (1 / values[n]) / max(1 / value for value in values)

    def desire(n, m):
        similar = (cosine(metric[n], metric[m]) + 1) / 2
        unseen = criterion(attention, n) * criterion(attention, m)
        return (
            similar ** (1 / tau[0]) * unseen ** (1 / tau[1]) * (criterion(size, n) * criterion(size, m)) ** (1 / tau[2])
        )

    def best(sources, targets, count):
        edges = [(max((desire(s, t), -t) for t in targets), s) for s in sources]
        edges.sort(key=lambda edge: -edge[0][0])
        return {s: -t for (_, t), s in edges[:count]}

    evens, odds = range(0, N, 2), range(1, N, 2)
    into = best(evens, odds, (r + 1) // 2 if back else r)
    if back:
        second = best(odds, [a for a in evens if a not in into], r // 2)
        into = {a: second.get(to, to) for a, to in into.items()} | second
    weight = {"both": [a * s for a, s in zip(attention, size, strict=True)], "size": size, "attention": attention}
    return grouped(into, lambda _, members: mean([x[n] for n in members], [weight[weighted][n] for n in members]))


@pytest.mark.parametrize("r", [5, 4])
@pytest.mark.parametrize("tau", [(1, 20, 40), (2, 1, 3)])
def test_mctf(r, tau):
    def reference(*args, **wrong):
        return mctf(*args, **{"r": r, "tau": tau, **wrong})

    mistakes = [{"weighted": "size"}, {"weighted": "attention"}, {"back": False}]
    mistakes += [{"tau": (1, 1e9, 1e9)}] * (tau[0] > 1)  # the similarity alone
    agree(MCTF(r, *tau, head_dim=E), reference, tokens(3), mistakes=mistakes)


def test_mctf_leaves_ten_and_the_first_block_alone():
    assert [MCTF(4).count_after(n, 1) for n in (36, 14, 12, 10, 8)] == [32, 10, 10, 10, 8]
    assert list(place("mctf", tiny("token"), NUM_PATCHES, r=2)) == [1, 2, 3, 4]


# ALGM


def algm(state, seen_by, b, num=2, columns=5, best=True, averaged=True):
    x, metric = state.x[b, P:], keys(seen_by, b)[P:]

    def likeness(window):
        pairs = [(n, m) for n in window for m in window if n < m]
        return sum(cosine(metric[n], metric[m]) for n, m in pairs) / len(pairs)

    windows = [
        [row * columns + column + n for n in (0, 1, columns, columns + 1)]
        for row in range(0, N // columns - 1, 2)
        for column in range(0, columns - 1, 2)
    ]
    windows.sort(key=likeness, reverse=best)
    into = {n: first for first, *others in windows[:num] for n in others}
    return grouped(
        into, lambda host, members: mean([x[n] for n in members], [1.0] * len(members)) if averaged else x[host]
    )


def test_algm_merges_windows():
    """Of a grid of 4 x 5, whose last column is in none."""
    reducer, mistakes = WindowMerging(2, 4, 5), [{"best": False}, {"averaged": False}, {"columns": 4}]
    agree(reducer, algm, tokens(fresh=True), mistakes=mistakes)
    with pytest.raises(ValueError, match="behind another merge"):
        reducer(tokens(), attended())


def test_algm_shares_its_merges_out():
    """Half in windows at first, at a third of the depth the rest; more in windows where pairs are not enough."""
    for rate, num, pairs in ((3, 0, 3), (6, 1, 3), (16, 2, 10), (24, 4, 12), (29, 8, 5), (31, 9, 4)):
        found = place("algm", tiny("token"), NUM_PATCHES, rate=rate)
        assert [reducer.num for reducer in found.values() if isinstance(reducer, WindowMerging)] == [num] * (num > 0)
        assert found[1].r == pairs and set(found) <= {0, 1}
    with pytest.raises(ValueError, match="at most 31 of 36"):
        place("algm", tiny("token"), NUM_PATCHES, rate=32)


# Clusters


def apart(x, n, m):
    """The distance of two patches."""
    return math.sqrt(sum((u - v) ** 2 for u, v in zip(x[n].tolist(), x[m].tolist(), strict=True)) / D)


def clustered(x, centres, weight):
    """Groups out of the centres' patches: every other one goes to the nearest."""
    into = {n: min(centres, key=lambda c: apart(x, n, c)) for n in range(N) if n not in centres}
    return grouped(into, lambda _, members: mean([x[n] for n in members], [weight[n] for n in members]))


def dpcknn(state, seen_by, b, neighbours=4, weight="size", power=2, apart_too=True, densest=True, keep=6):
    x = state.x[b, P:]
    density = [math.exp(-sum(sorted(apart(x, n, m) ** power for m in range(N))[:neighbours]) / 4) for n in range(N)]
    scores = []
    for n in range(N):
        denser = [apart(x, n, m) for m in range(N) if density[m] > density[n]]
        far = min(denser) if denser else max(apart(x, n, m) for m in range(N)) if densest else 0.0
        scores.append(density[n] * (far if apart_too else 1.0))
    centres = sorted(range(N), key=lambda n: -scores[n])[:keep]
    return clustered(x, centres, sizes(state, b) if weight == "size" else [1.0] * N)


@pytest.mark.parametrize("weight", ["size", "one"])
def test_dpcknn(weight):
    def reference(*args, **wrong):
        return dpcknn(*args, **{"weight": weight, **wrong})

    mistakes = [{"weight": "one" if weight == "size" else "size"}, {"neighbours": 2}, {"apart_too": False}]
    agree(DPCKNN(6, 4, weight), reference, mistakes=[*mistakes, {"densest": False}, {"power": 6}])


def kmedoids(state, seen_by, b, rounds=5, weight="attention", pooled=True, start=max, keep=6):
    x, attention = state.x[b, P:], received(seen_by, b)
    weights = {"attention": attention, "size": sizes(state, b), "one": [1.0] * N}[weight]
    centres = sorted(range(N), key=lambda n: -attention[n] if start is max else attention[n])[:keep]
    for _ in range(rounds):
        into = [n if n in centres else min(centres, key=lambda c: apart(x, n, c)) for n in range(N)]
        chosen = []
        for centre in centres:
            own = [n for n in range(N) if into[n] == centre]
            chosen.append(min(own, key=lambda i: sum(weights[j] * apart(x, i, j) for j in own)))
        centres = chosen
    return clustered(x, centres, weights if pooled else [1.0] * N)


@pytest.mark.parametrize("weight", ["attention", "size", "one"])
def test_kmedoids(weight):
    def reference(*args, **wrong):
        return kmedoids(*args, **{"weight": weight, **wrong})

    mistakes = [{"weight": other} for other in ("attention", "size", "one") if other != weight]
    mistakes += [{"rounds": 0}, {"start": min}] + [{"pooled": False}] * (weight != "one")
    agree(KMedoids(6, weight=weight), reference, mistakes=mistakes)


def test_of_equal_patches_the_first_are_centres():
    """Where all is equal, and where patches are so far apart that densities would vanish."""
    state = Tokens(torch.ones(1, 9, 4), 1, 8, owner=torch.arange(8)[None])
    after = DPCKNN(3)(state)
    assert after.index.tolist() == [[0, 1, 2]] and after.size.tolist() == [[1, 6, 1, 1]]
    far = Tokens(1e4 * torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0)), 1, 8)
    scores, keep = DPCKNN(3).ranking(far)
    assert keep == 3 and scores.isfinite().all() and scores.unique().numel() == 8


# DTEM


def embedder(**options):
    torch.manual_seed(4)
    return DTEM(R, D, 4, **options).double()


def embedded(reducer, seen_by, b):
    """[T, W]"""
    weight = reducer.embedding.weight.detach()
    return torch.stack([torch.stack([row @ token for row in weight]) for token in seen_by.normed[b]])


def test_dtem_merges_by_its_embedding():
    reducer = embedder().eval()

    def reference(state, seen_by, b, by="embedding", weighted=True):
        metric = {"embedding": embedded(reducer, seen_by, b), "keys": keys(seen_by, b), "normed": seen_by.normed[b]}
        x, size = state.x[b, P:], sizes(state, b) if weighted else [1.0] * N
        return grouped(
            bipartite(metric[by], R), lambda _, members: mean([x[n] for n in members], [size[n] for n in members])
        )

    agree(reducer, reference, mistakes=[{"by": "keys"}, {"by": "normed"}, {"weighted": False}])


def soft(state, metric, b, live, edges=3, tau=(0.1, 0.3), again=False, heaviest=True, moves=True):
    """Features [N, D] and masses [N] of the patches of image b behind the soft merge."""
    x, mass = [*state.x[b, P:]], sizes(state, b)
    order = sorted(range(N), key=lambda n: -mass[n] if heaviest else mass[n])[:live]
    a, b = sorted(order)[::2], sorted(order)[1::2]  # the prefix is even
    logit = {}
    for n in a:
        near = sorted(b, key=lambda m: -cosine(metric[P + n], metric[P + m]))[:edges]
        logit |= {(n, m): cosine(metric[P + n], metric[P + m]) / tau[0] for m in near}
    chosen = dict.fromkeys(logit, 0.0)
    for _ in range(R):
        total = sum(math.exp(value / tau[1]) for value in logit.values())
        share = {edge: math.exp(value / tau[1]) / total for edge, value in logit.items()}
        chosen = {edge: old + share[edge] for edge, old in chosen.items()}
        for n, m in logit if not again else ():
            left = 1 - sum(part for (source, _), part in share.items() if source == n)
            logit[n, m] += math.log(max(left, 1e-6))
    rows = {n: sum(part for (source, _), part in chosen.items() if source == n) for n in a}
    chosen = {(n, m): part / max(1.0, rows[n]) for (n, m), part in chosen.items()}
    after, masses = list(x), list(mass)
    for m in b:
        parts = [(mass[m], x[m]), *((part * mass[n], x[n]) for (n, to), part in chosen.items() if to == m)]
        masses[m] = sum(weight for weight, _ in parts)
        after[m] = sum(weight * vector for weight, vector in parts) / masses[m] if moves else x[m]
    for n in a:
        masses[n] = max(1e-6, mass[n] * (1 - sum(part for (source, _), part in chosen.items() if source == n)))
    return torch.stack(after), masses


@torch.no_grad()
@pytest.mark.parametrize("live", [N, 14])
def test_dtem_moves_mass_in_training(live):
    state, seen_by = tokens(), attended()
    reducer = embedder(num_live=live, edges=3, tau_choice=0.3).train()
    after = reducer(state, seen_by)
    assert after.x.shape == state.x.shape and after.x[:, :P].equal(state.x[:, :P]) and after.proportional
    torch.testing.assert_close(after.size.sum(1), state.size.sum(1).double(), atol=1e-4, rtol=0)  # none is lost

    def gap(**wrong):
        worst = 0.0
        for b in range(B):
            x, mass = soft(state, embedded(reducer, seen_by, b), b, live, **wrong)
            worst = max(worst, float((after.x[b, P:] - x).abs().max()))
            worst = max(worst, float((after.size[b, P:] - torch.tensor(mass, dtype=torch.float64)).abs().max()))
        return worst

    assert gap() < ATOL
    mistakes = [{"edges": 20}, {"tau": (0.1, 0.1)}, {"again": True}, {"moves": False}]
    for wrong in [*mistakes, {"heaviest": False}] if live < N else mistakes:
        assert gap(**wrong) > 100 * ATOL, wrong


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 1, 2, 3])
def test_dtem_at_no_temperature_is_the_hard_merge(prefix):
    rng = torch.Generator().manual_seed(6)
    x, normed = torch.randn(2, B, prefix + N, D, generator=rng, dtype=torch.float64)
    state, seen_by = Tokens(x, prefix, N), Attended(x, x, 1.0, prefix, normed=normed)
    reducer = embedder(edges=N, tau_similarity=1.0, tau_choice=1e-7)
    hard, moved = reducer.eval()(state, seen_by), reducer.train()(state, seen_by)
    for b in range(B):
        left = moved.size[b, prefix:] > 0.5
        order = hard.index[b].argsort()
        assert left.nonzero()[:, 0].tolist() == hard.index[b, order].tolist()
        torch.testing.assert_close(moved.patches[b, left], hard.patches[b, order], atol=ATOL, rtol=0)
        right = hard.size[b, prefix:][order].double()
        torch.testing.assert_close(moved.size[b, prefix:][left].double(), right, atol=1e-4, rtol=0)


def test_dtem_learns_its_embedding_alone_through_the_merge():
    state, seen_by = tokens(), attended()
    seen_by.normed.requires_grad_()
    reducer = embedder(edges=3).train()
    after = reducer(reducer(state, seen_by), seen_by)  # the second time from masses close to none
    (after.x.square().sum() + after.attn_bias().sum()).backward()
    assert reducer.embedding.weight.grad.isfinite().all() and reducer.embedding.weight.grad.abs().min() > 0
    assert seen_by.normed.grad is None


def test_dtem_counts_on_in_training_and_leaves_the_last_block_alone():
    found = place("dtem", tiny("token"), NUM_PATCHES, r=4)
    assert {block: reducer.num_live for block, reducer in found.items()} == {0: 36, 1: 32, 2: 28, 3: 24}
    assert found[0].width == 64 and builtin()["dtem"](width=8).own(7)[1] == {"freeze_backbone_epochs": 7}


PUBLISHED = {  # 10^9 MACs that the papers state; "off": one more or less leaves, which must miss
    ("vit_small_patch16_224", "tofu:r={}", 13): (2.7, 0.05),  # arXiv 2312.01026, table of AugReg models
    ("deit_tiny_patch16_224", "mctf:r={}", 16): (0.71, 0.01),  # arXiv 2403.10030, with one-step-ahead attention
    ("deit_small_patch16_224", "mctf:r={}", 16): (2.60, 0.05),
}


@pytest.mark.parametrize(("backbone", "method", "r"), PUBLISHED)
def test_published_macs(backbone, method, r):
    published, rounding = PUBLISHED[backbone, method, r]
    with torch.device("meta"):  # costs need no weights
        vit = create_backbone(backbone, pretrained=False)
        found = [count(build(vit, parse_one(method.format(n), False), None).model) for n in (r, r - 1, r + 1)]
    apart = [abs(macs.backbone / 1e9 - published) for macs in found]
    assert apart[0] < rounding and min(apart[1:]) > rounding
